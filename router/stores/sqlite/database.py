"""One SQLite file behind the ledger, the log and the keys: one thread of this process writes, and the loop never waits.

Whatever is asked within one turn of the event loop shares a transaction, with what came while the writer was at work.
Where one piece of work of a group fails, the group is undone and each piece is tried alone: only that one fails.
Other processes write in turn; the writer waits BUSY_S for them. Fails closed: what cannot be written is
StoreUnavailable and nothing of it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from router.errors import StoreUnavailable
from router.stores.retention import TRIMMED
from router.stores.sqlite.schema import create_or_check

T = TypeVar("T")

BUSY_S = 2.0  # how long to wait for another process's transaction
PAUSE_S = 0.0001, 0.005  # between two tries, at first and at most
OPENING_S = 5.0  # the same while the file is opened
TOGETHER = 256  # pieces of work in one transaction
PAGE_BYTES = 4096
WAL_PAGES = 1000  # from which the write-ahead log is moved into the file …
WAL_LONG = 4000  # … and from which writers wait until that is done, so that the log is begun anew
WAL_BYTES = 64 << 20  # what a log that has once been long keeps
RESTART_MS = 200  # how long they may wait
CACHE_KIB = 8_192  # pages kept in memory by the writer; the reader keeps a quarter
CHECKPOINT_S = 1.0

Execute = Callable[..., sqlite3.Cursor]
BAD_VALUE = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


class Work(Protocol):
    """Something to be done within a transaction, by the writer's thread."""

    def __call__(self) -> Any:
        """Do it; nothing of it may be seen outside before it has returned."""


class Participant(Protocol):
    """What takes part in every transaction."""

    def begin(self, works: Sequence[Work]) -> None:
        """Read what these will need."""

    def finish(self) -> None:
        """Write what they have changed; last."""

    def ended(self, *, committed: bool) -> None:
        """Forget what they have changed."""


class Asked:
    """A piece of work and who waits for it."""

    __slots__ = ("failure", "future", "result", "work")

    def __init__(self, work: Work, future: asyncio.Future[Any]) -> None:
        self.work, self.future = work, future
        self.result: Any = None
        self.failure: Exception | None = None


class Database:
    """A writer with its thread, and a connection for the loop to read by."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.participants: list[Participant] = []
        self.on_commit: list[Callable[[], None]] = []  # called on the loop
        self._asked: list[Asked] = []
        self._queue: SimpleQueue[list[Asked] | None] = SimpleQueue()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, name="ledger-writer", daemon=True),
            threading.Thread(target=self._checkpoint, name="wal-checkpoint", daemon=True),
        ]

    async def open(self) -> None:
        """Create what is missing. Raises: StoreUnavailable."""
        self._loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._open)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot open {self.path}: {error}") from error
        self.execute: Execute = self._writing.cursor().execute
        self._look_up: Execute = self._reading.cursor().execute
        for thread in self._threads:
            thread.start()

    def _open(self) -> None:
        self._writing = writing = self._connect(OPENING_S)
        try:
            writing.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            writing.execute("PRAGMA journal_mode = WAL")
            writing.execute("PRAGMA synchronous = NORMAL")
            writing.execute("PRAGMA wal_autocheckpoint = 0")
            writing.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
            writing.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            create_or_check(writing, path=self.path)
            writing.execute("PRAGMA busy_timeout = 0")
            self._reading = self._connect(0)
            self._reading.execute(f"PRAGMA cache_size = -{CACHE_KIB // 4}")
            self._files = [(path, _identity(path)) for path in self._own_files()]
        except BaseException:
            writing.close()
            raise

    def _connect(self, timeout_s: float) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, isolation_level=None, timeout=timeout_s, cached_statements=512, check_same_thread=False
        )

    def _own_files(self) -> list[Path]:
        """The file, its write-ahead log, and what processes share of its locks."""
        return [Path(f"{self.path}{end}") for end in ("", "-wal", "-shm")]

    def _check_place(self) -> None:
        """What is written to a file that was taken away nobody reads again. Raises: StoreUnavailable."""
        for path, identity in self._files:
            if _identity(path) != identity:
                raise StoreUnavailable(
                    f"{path} is not the file that was opened: it was taken away or replaced while the gateway runs. "
                    "Put it back, or start the gateway anew."
                )

    async def aclose(self) -> None:
        """Let the writer end what it was asked, and close."""
        self._send()
        self._queue.put(None)
        self._stop.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._writing.close()
        self._reading.close()

    # on the loop

    async def transact(self, work: Callable[[], T]) -> T:
        """What `work` returns, once it is committed. Raises: StoreUnavailable, and what `work` raises."""
        if self._stop.is_set():
            raise StoreUnavailable(f"{self.path} is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._asked:
            self._loop.call_soon(self._send)
        self._asked.append(Asked(work, future))
        return await future

    def _send(self) -> None:
        if self._asked:
            self._queue.put(self._asked)
            self._asked = []

    def _deliver(self, group: list[Asked]) -> None:
        for asked in group:
            future = asked.future
            if future.done():  # whoever asked has gone
                continue
            if asked.failure is None:
                future.set_result(asked.result)
            else:
                future.set_exception(asked.failure)
        for call in self.on_commit:
            call()

    def read(self, sql: str, *values: object) -> list[Any]:
        """Rows of a short query; writers are not waited for. Raises: StoreUnavailable."""
        try:
            return self._look_up(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot read {self.path}: {error}") from error

    async def read_aside(self, sql: str, values: tuple[object, ...], each: Callable[[Any], T]) -> list[T]:
        """`each` of the rows of a long query, by a connection and in a thread of its own. Raises: StoreUnavailable."""

        def work() -> list[T]:
            self._check_place()  # else this would open another one, or an empty one
            with contextlib.closing(self._connect(BUSY_S)) as connection:
                return [each(row) for row in connection.execute(sql, values)]

        try:
            return await asyncio.to_thread(work)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot read {self.path}: {error}") from error

    # on the writer's thread

    def _write(self) -> None:
        while (asked := self._queue.get()) is not None:
            group, last = list(asked), False
            while len(group) < TOGETHER and not self._queue.empty():
                more = self._queue.get()
                if more is None:
                    last = True
                    break
                group += more
            self._run(group)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver, group)
            if last:
                return

    def _run(self, group: list[Asked]) -> None:
        """Together if that works, else each alone."""
        try:
            self._transaction(group)
        except StoreUnavailable as error:
            for asked in group:
                asked.failure = StoreUnavailable(error.message)
        except Exception as error:
            if len(group) == 1:
                group[0].failure = error
                return
            for asked in group:
                self._run([asked])

    def _transaction(self, group: list[Asked]) -> None:
        self._begin()
        committed = False
        try:
            works = [asked.work for asked in group]
            for participant in self.participants:
                participant.begin(works)
            for asked in group:
                if not asked.future.cancelled():
                    asked.result = asked.work()
            for participant in self.participants:
                participant.finish()
            self.execute("COMMIT")
            committed = True
        except BAD_VALUE:
            raise
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot write {self.path}: {error}") from error
        finally:
            if not committed and self._writing.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self.execute("ROLLBACK")
            for participant in self.participants:
                participant.ended(committed=committed)

    def _begin(self) -> None:
        self._check_place()
        until, (pause, longest) = time.monotonic() + BUSY_S, PAUSE_S
        while True:
            try:
                self.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.Error as error:
                if not _is_busy(error):
                    raise StoreUnavailable(f"cannot write {self.path}: {error}") from error
            if time.monotonic() >= until:
                raise StoreUnavailable(f"cannot write {self.path}: another process has been writing for {BUSY_S:g} s")
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(longest, pause * 1.5)

    # on a thread of its own

    def _checkpoint(self) -> None:
        """Move the write-ahead log into the file: it waits for the disk.

        Under a load that never pauses the log never is all in the file, and would grow for ever: what is left is moved
        while writers wait.
        """
        connection = self._connect(RESTART_MS / 1000)
        wal = Path(f"{self.path}-wal")
        try:
            while not self._stop.wait(CHECKPOINT_S):
                with contextlib.suppress(sqlite3.Error, OSError):  # the writer meets the same trouble and says so
                    if wal.stat().st_size <= WAL_PAGES * PAGE_BYTES:
                        continue
                    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    if pages > WAL_LONG:
                        connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        finally:
            connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file lies at a path; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


ROWS = 50  # in one statement


def parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """These, as many at once as one statement takes."""
    return (rows[at : at + ROWS] for at in range(0, len(rows), ROWS))


def places(count: int) -> str:
    """So many question marks."""
    return ", ".join("?" * count)


@lru_cache(maxsize=8 * ROWS)
def insertion(table: str, columns: int, rows: int) -> str:
    """Insert so many rows. One statement for all: each one lets the loop's thread go first."""
    return f"INSERT INTO {table} VALUES " + ", ".join([f"({places(columns)})"] * rows)


def trim(execute: Execute, table: str, kept: int) -> None:
    """Remove the oldest rows beyond `kept`, TRIMMED of them at most."""
    execute(
        f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table}"
        f" WHERE seq <= (SELECT max(seq) FROM {table}) - ? ORDER BY seq LIMIT {TRIMMED})",
        (kept,),
    )


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
