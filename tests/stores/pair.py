"""Two real Redis: a primary, and a replica whose link can be held up, behind one door."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from benchmarks.relay import Relay
from router.errors import StoreUnavailable
from router.stores.open import Stores
from router.stores.redis.replication import replication_of
from tests.stores.conftest import RedisProcess, free_port


@dataclass
class Pair:
    """A primary, its replica behind a link that can be held up, and the door that gateways go through."""

    folder: Path

    async def up(self) -> None:
        port, link = free_port(), free_port()
        for name in ("primary", "replica"):
            (self.folder / name).mkdir()
        self.primary = RedisProcess(self.folder / "primary", "--port", str(port), "--repl-ping-replica-period", "1")
        self.replica = RedisProcess(self.folder / "replica", "--repl-diskless-load", "disabled")
        self.primary.start()
        self.replica.start()
        self.link, self.door = Relay(port), Relay(self.primary.socket)
        await self.link.listen(link)
        await self.door.listen(self.folder / "door")
        await self.ask(self.replica, f"REPLICAOF 127.0.0.1 {link}")
        while b"master_link_status:up" not in await self.ask(self.replica, "INFO replication"):
            await asyncio.sleep(0.02)

    async def down(self) -> None:
        self.primary.kill()
        self.replica.kill()
        await self.link.aclose()
        await self.door.aclose()

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'door'}?timeout_s=1"

    async def ask(self, which: RedisProcess, line: str) -> bytes:
        return await asyncio.to_thread(which.ask, line)

    async def in_step(self) -> None:
        """The replica has everything, and has said so."""
        while True:
            reported = replication_of((await self.ask(self.primary, "INFO replication")).decode())
            if reported.replicas and min(reported.replicas.values()) >= reported.offset:
                return
            await asyncio.sleep(0.02)

    async def promote(self) -> None:
        """The primary's machine is gone, with all that the link has not handed on."""
        self.primary.kill()
        await self.link.aclose()
        await self.ask(self.replica, "REPLICAOF NO ONE")
        self.door.target = self.replica.socket
        await self.door.hang_up()


async def back(stores: Stores) -> None:
    while True:
        try:
            return await stores.ledger.tend()
        except StoreUnavailable:
            await asyncio.sleep(0.02)
