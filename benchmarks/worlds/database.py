"""SQLite as in production, but its writer is a turn of the virtual loop: it commits a little later, and tells later.

All processes are on one machine: one file, one clock that may jump, one supply of power.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.worlds.loop import PROCESS, Process
from router.errors import StoreUnavailable
from router.stores.sqlite.database import Asked, Database

if TYPE_CHECKING:
    from benchmarks.worlds.world import SeededWorld

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


class SqliteWorldStore:
    """The file of a world, and each process's way to it."""

    kind = "sqlite"
    has_disks = True  # what a gateway owes outlives it

    def __init__(self, world: SeededWorld) -> None:
        self._world = world
        self.path = world.folder / "pointsman.db"
        self._databases: dict[str, InlineDatabase] = {}  # by process
        self._watching: sqlite3.Connection | None = None

    @property
    def url(self) -> str:
        """As the settings name it."""
        return f"sqlite:///{self.path}"

    @property
    def parts(self) -> dict[tuple[str, str], Any]:
        """What stands in the place of what."""
        return {("router.stores.open", "Database"): self._database}

    def boot_ms(self) -> int:
        """The clock that nobody can set."""
        return int(self._world.loop.time() * 1000) + 1_000_000

    def _database(self, path: Path) -> InlineDatabase:
        process = PROCESS.get()
        assert process is not None
        chance = random.Random(f"{self._world.seed}/{process.name}")
        made = InlineDatabase(path, process=process, chance=chance, committed=self._committed)
        self._databases[process.name] = made
        return made

    def _committed(self) -> None:
        """Somebody's transaction is in the file."""
        if self._watching is None:
            self._watching = sqlite3.connect(self.path, isolation_level=None)
        rows = self._watching.execute("SELECT scope, meter, spent + held FROM counters").fetchall()
        self._world.used({(scope, meter): used for scope, meter, used in rows})

    def died(self, process: Process) -> None:
        """What the kernel does for the dead."""
        if process.name in self._databases:
            self._databases[process.name].cut()

    def forget_since(self, kept: dict[str, bytes]) -> None:
        """The disk as it was then; nobody may have it open."""
        self.close()
        restore(self.path, kept)

    def close(self) -> None:
        """Look no more."""
        if self._watching is not None:
            self._watching.close()
            self._watching = None


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
