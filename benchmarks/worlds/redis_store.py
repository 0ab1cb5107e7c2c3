"""Redis of a world, by its model: gateways of two hosts, each with a folder of what it owes, and the server."""

from __future__ import annotations

import itertools
import os
import random
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.worlds.loop import BEGINNING_S, PROCESS, Process
from benchmarks.worlds.redis_link import ModelCarrier, RedisNetwork, connector
from benchmarks.worlds.redis_model import ModelRedis
from router.stores.redis.connection import PREFIX
from router.stores.redis.outbox import Outbox

if TYPE_CHECKING:
    from benchmarks.worlds.world import SeededWorld

COUNTERS, META = f"{PREFIX}:counter:".encode(), f"{PREFIX}:meta".encode()


@lru_cache(maxsize=1000)
def _named(key: bytes) -> tuple[str, str]:
    """Scope and meter of a counter's key."""
    scope, _, meter = key[len(COUNTERS) :].decode().rpartition("#")
    return scope, meter


class HostOutbox(Outbox):
    """Its file is unlocked when its process dies."""

    _is_closed = False

    def close(self) -> None:
        """As Outbox.close: a start that failed does so before its process dies."""
        self._is_closed = True
        super().close()

    def cut(self) -> None:
        """As the kernel does."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._file)


class SeededSecrets:
    """Numbers in the place of secrets."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def token_hex(self, size: int) -> str:
        """So many bytes."""
        return f"{next(self._numbers):0{2 * size}x}"


class RedisWorldStore:
    """The server and each process's way to it."""

    kind = "redis"

    def __init__(self, world: SeededWorld) -> None:
        self._world = world
        self.server = ModelRedis(lambda: int((BEGINNING_S + world.loop.time()) * 1e6), executed=self._executed)
        self.network = RedisNetwork(self.server, world.loop)
        self._outboxes: dict[str, HostOutbox] = {}  # by process
        self.has_disks = world.chance.random() < 0.7  # else what a gateway owes dies with it
        self._secrets = SeededSecrets()

    @property
    def url(self) -> str:
        """As the settings name it, for the host of the process that asks."""
        process = PROCESS.get()
        host = process.host if process else ""
        folder = f"?outbox={self._world.folder / f'owed-{host}'}"
        return f"redis://model{folder if self.has_disks else ''}"

    @property
    def parts(self) -> dict[tuple[str, str], Any]:
        """What stands in the place of what."""
        return {
            ("router.stores.redis.connection", "connect"): connector(self.network, self._carrier),
            ("router.stores.redis.outbox", "Outbox"): self._outbox,
            ("router.stores.redis.outbox", "secrets"): self._secrets,
            ("router.stores.redis.ledger", "secrets"): self._secrets,
        }

    def boot_ms(self) -> int:
        """Nobody asks for it."""
        return 0

    def _carrier(self) -> ModelCarrier:
        process = PROCESS.get()
        assert process is not None
        return ModelCarrier(self.network, process.name, random.Random(f"{self._world.seed}/{process.name}"))

    def _outbox(self, folder: Path) -> HostOutbox:
        process = PROCESS.get()
        assert process is not None
        made = self._outboxes[process.name] = HostOutbox(folder)
        return made

    def _executed(self) -> None:
        data = self.server.data
        found: dict[tuple[str, str], int] = {}
        for key, fields in data.items():
            if key.startswith(COUNTERS):
                found[_named(key)] = int(fields.get(b"s", 0)) + int(fields.get(b"h", 0))
        opens_ms = int(data.get(META, {}).get(b"opens", 0))
        self._world.used(found, is_open=self.server.now_ms() >= opens_ms)

    def died(self, process: Process) -> None:
        """What the kernels of its host do for the dead."""
        self.network.hang_up([process.name])
        if (outbox := self._outboxes.pop(process.name, None)) is not None:
            outbox.cut()

    def close(self) -> None:
        """Let go of the files."""
        for outbox in self._outboxes.values():
            outbox.cut()
        self._outboxes.clear()
