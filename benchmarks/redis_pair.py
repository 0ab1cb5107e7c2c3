"""A Redis and its replica behind one address, which leads to whichever is the primary, as that of a managed Redis does.

Fails with RuntimeError where a server does not come up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from redis import asyncio as aioredis
from redis.exceptions import RedisError

from benchmarks.child import Child, free_port
from router.stores.redis.connection import PREFIX
from router.stores.redis.replication import replication_of


def redis_server() -> str:
    """The program: beside this interpreter, or the system's."""
    beside = Path(sys.executable).parent / "redis-server"
    return str(beside) if beside.exists() else shutil.which("redis-server") or "redis-server"


class RedisPair:
    """Two servers with append-only files, the door that gateways go through and the link between the two."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.primary, self.replica = (self._server(i) for i in range(2))
        self._door, self._link = (self._relay(name, self.primary.port) for name in ("door", "link"))
        self._sizes: deque[tuple[float, int]] = deque(maxlen=100)  # of the primary's append-only file, by time

    @property
    def url(self) -> str:
        """Of the door."""
        return f"redis://127.0.0.1:{self._door.port}/0"

    @property
    def children(self) -> Iterator[Child]:
        """All processes."""
        yield from (self.primary, self.replica, self._door, self._link)

    async def up(self) -> None:
        """Start all that does not run yet, and wait until the replica follows."""
        for child in self.children:
            if child.process is None:
                child.start()
            await child.listening()
        await self._follow()

    async def is_in_step(self) -> bool:
        """Whether the replica has all that the primary had a moment ago."""
        reported = replication_of(await self._info(self.primary))
        return bool(reported.replicas) and min(reported.replicas.values()) > reported.offset - 100_000

    async def fail_over(self, *, behind_s: float) -> None:
        """Hold the replica up for so long, lose the primary, and promote the replica; the old one follows it then."""
        self._lead(self._link, self.primary.port, held=True)
        await asyncio.sleep(behind_s)
        self.primary.kill()
        self._link.kill()
        old, self.primary, self.replica = self.primary, self.replica, self.primary
        async with self._client(self.primary) as client:
            await client.execute_command("REPLICAOF", "NO", "ONE")
        self._sizes.clear()
        self._lead(self._door, self.primary.port)
        self._lead(self._link, self.primary.port)
        self._link.start()
        old.start()
        await asyncio.gather(old.listening(), self._link.listening())
        await self._follow()

    async def opens_ms(self) -> int:
        """From when on gateways may reserve, in ms since 1970: until then they put back what this one had lost."""
        async with self._client(self.primary) as client:
            return int(await client.hget(f"{PREFIX}:meta", "opens") or 0)

    async def measure(self) -> None:
        """Note how long the primary's file is."""
        if (file := self._aof()) is not None:
            self._sizes.append((time.monotonic(), file.stat().st_size))

    def forget_a_second(self) -> bool:
        """Cut the killed primary's file to what it was a second ago; whether there was something to cut."""
        now, file = time.monotonic(), self._aof()
        older = [size for at, size in self._sizes if at <= now - 1]
        if not older or file is None or older[-1] >= file.stat().st_size:
            return False
        os.truncate(file, older[-1])
        return True

    def _aof(self) -> Path | None:
        """The file that Redis appends to: in a folder of its own from version 7 on."""
        files = Path(self.primary.command[-1]).rglob("*.aof")
        return next((each for each in files if each.name.endswith((".incr.aof", "appendonly.aof"))), None)

    def _server(self, i: int) -> Child:
        folder, port = self._folder / f"redis{i}", free_port()
        folder.mkdir(exist_ok=True)
        command = [redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
        command += [
            "--appendfsync",
            "everysec",
            "--auto-aof-rewrite-percentage",
            "0",
            "--repl-diskless-sync-delay",
            "0",
        ]
        command += ["--repl-timeout", "10", "--dir", str(folder)]
        return Child("redis", port, command, self._folder / f"redis{i}.log")

    def _relay(self, name: str, target: int) -> Child:
        port, file = free_port(), self._folder / name
        file.write_text(str(target))
        command = [sys.executable, "-m", "benchmarks.relay", str(port), str(file)]
        return Child(name, port, command, self._folder / f"{name}.log")

    def _lead(self, relay: Child, target: int, *, held: bool = False) -> None:
        new = self._folder / f"{relay.name}.new"
        new.write_text(f"{target} held" if held else str(target))
        new.replace(self._folder / relay.name)

    async def _follow(self) -> None:
        async with self._client(self.replica) as client:
            await client.execute_command("REPLICAOF", "127.0.0.1", self._link.port)
        for _ in range(600):
            with contextlib.suppress(RedisError, OSError):
                if "master_link_status:up" in await self._info(self.replica):
                    return
            await asyncio.sleep(0.05)
        raise RuntimeError("the replica does not follow")

    async def _info(self, server: Child) -> str:
        async with self._client(server) as client:
            return str((await client.execute_command("INFO", "replication", NEVER_DECODE=True)).decode())

    @contextlib.asynccontextmanager
    async def _client(self, server: Child):  # type: ignore[no-untyped-def]
        client = aioredis.Redis(port=server.port, socket_timeout=2)
        client.response_callbacks.pop("INFO", None)
        try:
            yield client
        finally:
            await client.aclose()
