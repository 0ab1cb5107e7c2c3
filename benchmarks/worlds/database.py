"""SQLite as in production, but its writer is a turn of the virtual loop: it commits a little later, and tells later."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.worlds.loop import PROCESS, Process
from router.errors import StoreUnavailable
from router.stores.sqlite.database import Asked, Database

T = TypeVar("T")
WRITING_S = 0.002  # at most, before a transaction and again before who asked hears of it


class InlineDatabase(Database):
    """One process's way to the file. `committed` is called after each transaction."""

    def __init__(self, path: Path, *, process: Process, chance: random.Random, committed: Callable[[], None]) -> None:
        super().__init__(path)
        self._threads = []
        self._process, self._chance, self._committed = process, chance, committed
        self._groups: list[list[Asked]] = []
        self._is_writing = False

    def _send(self) -> None:
        if self._asked:
            self._groups.append(self._asked)
            self._asked = []
            self._next()

    def _next(self) -> None:
        if self._groups and not self._is_writing:
            self._is_writing = True
            self._loop.call_later(self._chance.random() * WRITING_S, self._commit)

    def _commit(self) -> None:
        group = [asked for group in self._groups for asked in group]
        self._groups.clear()
        self._run(group)
        self._committed()
        self._loop.call_later(self._chance.random() * WRITING_S, self._tell, group)

    def _tell(self, group: list[Asked]) -> None:
        self._is_writing = False
        self._deliver(group)
        self._next()

    async def transact(self, work: Callable[[], T]) -> T:
        """As in production; of the dead nobody asks anything."""
        if not self._process.alive or PROCESS.get() is not self._process:
            raise StoreUnavailable("this process is dead")
        return await super().transact(work)

    async def aclose(self) -> None:
        """Close, without waiting for anybody."""
        self.cut()

    def cut(self) -> None:
        """As the death of the process does."""
        self._stop.set()
        for name in ("_writing", "_reading"):
            connection: Any = self.__dict__.get(name)
            if connection is not None:
                connection.close()


def remember(path: Path) -> dict[str, bytes]:
    """What is on the disk now, and will be after the machine has lost its power later."""
    files = (path, path.with_name(path.name + "-wal"))
    return {each.name: each.read_bytes() for each in files if each.exists()}


def restore(path: Path, kept: dict[str, bytes]) -> None:
    """The disk as it was then."""
    for each in path.parent.glob(path.name + "*"):
        each.unlink()
    for name, content in kept.items():
        (path.parent / name).write_bytes(content)


def fresh_folder(base: Path, seed: int) -> Path:
    """An empty folder for one world."""
    folder = base / f"world-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
