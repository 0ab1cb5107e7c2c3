"""One SQLite file behind the ledger, the log and the keys: short transactions on the event loop's own thread.

A transaction takes some ten microseconds, less than handing it to a thread would. Where another process is writing,
the coroutine waits without blocking the loop. Fails closed: a file that cannot be written is StoreUnavailable.
Beside it lies the ring, where the newest journal entries wait for the next transaction to take them into the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from router.errors import StoreUnavailable
from router.stores.retention import TRIMMED
from router.stores.ring import Ring

T = TypeVar("T")

BUSY_S = 2.0  # how long to wait for another process's transaction
FLUSH_S = 0.05  # how long a rider waits for a transaction to ride in
WAL_PAGES = 1000  # from which the write-ahead log is moved into the file …
WAL_LONG = 4000  # … and from which writers wait until that is done, so that the log is begun anew
WAL_BYTES = 64 << 20  # what a log that has once been long keeps
RESTART_MS = 200  # how long they may wait
CACHE_KIB = 8_192  # pages of accounts and logs kept in memory
CHECKPOINT_S = 1.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE VIEW IF NOT EXISTS journal AS SELECT seq, body FROM entry;
CREATE TABLE IF NOT EXISTS page (
    number INTEGER PRIMARY KEY, at INTEGER NOT NULL, accounts BLOB NOT NULL, lines BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS spend (
    day TEXT NOT NULL, tenant TEXT NOT NULL, team TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
    seq INTEGER NOT NULL, requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL, PRIMARY KEY (day, tenant, team, key, model)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, decision_id TEXT NOT NULL, response_id TEXT, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS log_decision ON log (decision_id);
CREATE INDEX IF NOT EXISTS log_response ON log (response_id) WHERE response_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS audit (
    seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS shelf (
    kind TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
"""


class Rider(Protocol):
    """Rows that wait for a transaction to ride in."""

    def board(self, execute: Execute, *, due: bool) -> None:
        """Write them, unless they are not `due` and may as well wait for more."""

    def arrive(self) -> None:
        """They are committed: forget them."""


Execute = Callable[..., sqlite3.Cursor]


class Database:
    """One connection and its transactions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.riders: list[Rider] = []
        self.on_failure: list[Callable[[], None]] = []
        self.preparations: list[Callable[[Execute], None]] = []  # run in a transaction when it is opened
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=0, cached_statements=256)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot open {path}: {error}") from error
        self.execute: Execute = self._connection.cursor().execute
        self.executemany: Callable[..., sqlite3.Cursor] = self._connection.cursor().executemany
        self._scheduled: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._grouping: asyncio.Task[None] | None = None
        self._group: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._newest = 0  # position of the last journal entry written in this transaction, or before
        self.transactions = 0  # begun so far: what was read in this one still holds
        self.busy = False  # a transaction has run in this turn of the loop: share the next one
        self._stop = threading.Event()
        self._checkpointer = threading.Thread(target=self._checkpoint, name="wal-checkpoint", daemon=True)

    async def open(self) -> None:
        """Create what is missing. Raises: StoreUnavailable."""
        try:
            self._connection.execute("PRAGMA busy_timeout = 5000")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA wal_autocheckpoint = 0")
            self._connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
            self._connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            self._rename_journal()
            self._connection.executescript(SCHEMA)
            self._connection.execute("BEGIN IMMEDIATE")
            for prepare in self.preparations:
                prepare(self.execute)
            self._connection.execute("COMMIT")
            self._connection.execute("PRAGMA busy_timeout = 0")
            self.ring = Ring(Path(f"{self.path}-ring"), mode=self.path.stat().st_mode & 0o777)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot open {self.path}: {error}") from error
        self._checkpointer.start()

    async def aclose(self) -> None:
        """Write what still waits and close."""
        if self._scheduled is not None:
            self._scheduled.cancel()
        try:
            await self.transact(_nothing, due=True)
        finally:
            self._stop.set()
            await asyncio.to_thread(self._checkpointer.join)
            self._connection.close()
            self.ring.close()

    async def transact(self, work: Callable[[], T], *, due: bool = False) -> T:
        """Run `work`, which must not await, in one write transaction. `due`: all riders come along.

        Raises: StoreUnavailable.
        """
        await self._begin()
        self.transactions += 1
        try:
            self._take_over()
            for rider in self.riders:
                rider.board(self.execute, due=due)
            result = work()
            self._commit()
        except (sqlite3.Error, OSError) as error:
            self._undo()
            raise StoreUnavailable(f"cannot write {self.path}: {error}") from error
        except BaseException:
            self._undo()
            raise
        finally:
            self.ring.unlock()
        for rider in self.riders:
            rider.arrive()
        return result

    def append(self, seq: int, body: bytes) -> None:
        """Write the next journal entry, within a transaction."""
        self.execute("INSERT INTO entry (seq, body) VALUES (?, ?)", (seq, body))
        self._newest = seq

    def _take_over(self) -> None:
        """What is in the ring goes into the file."""
        if self.ring.in_doubt:
            newest = self.execute("SELECT ifnull(max(seq), 0) FROM entry").fetchone()[0]
            self.ring.must_fit(newest)
        else:
            newest = self.ring.base
        last, row = self.ring.run()
        if last > newest:
            self.append(last, row)
        self._newest = max(last, newest)

    def _commit(self) -> None:
        """Whoever dies between the two steps leaves the ring in doubt; whoever does not, leaves it empty."""
        if self._newest == self.ring.base and not self.ring.in_doubt:
            self.execute("COMMIT")
            return
        self.ring.doubt()
        self.execute("COMMIT")
        with contextlib.suppress(OSError):  # it stays in doubt, and the next transaction asks the file
            self.ring.begin(self._newest)

    async def together(self, work: Callable[[], T]) -> T:
        """As `transact`: at once for the first caller in a turn of the loop, all others share a transaction."""
        loop = asyncio.get_running_loop()
        if not self.busy:
            self.busy = True
            loop.call_soon(self._turn)
            return await self.transact(work)
        future: asyncio.Future[T] = loop.create_future()
        self._group.append((work, future))
        return await future

    def _turn(self) -> None:
        group, self._group = self._group, []
        self.busy = bool(group)
        if group:
            loop = asyncio.get_running_loop()
            self._grouping = loop.create_task(self._transact_group(group))
            loop.call_soon(self._turn)

    async def _transact_group(self, group: list[tuple[Callable[[], Any], asyncio.Future[Any]]]) -> None:
        try:
            results = await self.transact(lambda: [work() for work, _ in group])
        except Exception:  # each for itself, so that one cannot spoil the others
            for work, future in group:
                await self._transact_one(work, future)
            return
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)

    async def _transact_one(self, work: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        try:
            result = await self.transact(work)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)

    def soon(self) -> None:
        """See to it that riders need not wait longer than FLUSH_S."""
        if self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def read(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        """Rows of a query. Raises: StoreUnavailable."""
        try:
            return self.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot read {self.path}: {error}") from error

    async def read_aside(self, sql: str, values: tuple[object, ...], each: Callable[[Any], T]) -> list[T]:
        """`each` of the rows of a long query, by a connection and in a thread of its own. Raises: StoreUnavailable."""

        def work() -> list[T]:
            with contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_S)) as connection:
                return [each(row) for row in connection.execute(sql, values)]

        try:
            return await asyncio.to_thread(work)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot read {self.path}: {error}") from error

    async def _begin(self) -> None:
        pause, waited = 0.0, 0.0
        while not self._begun():
            if waited >= BUSY_S:
                raise StoreUnavailable(f"cannot write {self.path}: another process has been writing for {BUSY_S:g} s")
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(0.01, pause * 2 or 0.00005)

    def _begun(self) -> bool:
        """Whether a transaction and the lock of the ring are this process's now. Raises: StoreUnavailable."""
        if not self.ring.lock():
            return False
        try:
            self.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self.ring.unlock()
            if _is_busy(error):
                return False
            raise StoreUnavailable(f"cannot write {self.path}: {error}") from error
        return True

    def _rename_journal(self) -> None:
        """An earlier version, which knows no ring, must not write beside this one: its table becomes a view."""
        sql = "SELECT 1 FROM sqlite_master WHERE name = 'journal' AND type = 'table'"
        if self._connection.execute(sql).fetchone():
            self._connection.execute("BEGIN IMMEDIATE")
            if self._connection.execute(sql).fetchone():
                self._connection.execute("ALTER TABLE journal RENAME TO entry")
            self._connection.execute("COMMIT")

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self.execute("ROLLBACK")
        for forget in self.on_failure:
            forget()

    def _flush(self) -> None:
        self._scheduled = None
        self._flushing = asyncio.get_running_loop().create_task(self._flush_now())

    async def _flush_now(self) -> None:
        try:
            await self.transact(_nothing, due=True)
        except StoreUnavailable:
            self.soon()

    def _checkpoint(self) -> None:
        """Move the write-ahead log into the file from a thread of its own: it waits for the disk.

        Under a load that never pauses the log never is all in the file, and would grow for ever: what is left is moved
        while writers wait.
        """
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=RESTART_MS / 1000)
        wal = Path(f"{self.path}-wal")
        try:
            while not self._stop.wait(CHECKPOINT_S):
                with contextlib.suppress(sqlite3.Error):  # the writer meets the same trouble and says so
                    if not wal.exists() or wal.stat().st_size <= WAL_PAGES * 4096:
                        continue
                    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    if pages > WAL_LONG:
                        connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        finally:
            connection.close()


def trim(execute: Execute, table: str, kept: int) -> None:
    """Remove the oldest rows beyond `kept`, TRIMMED of them at most."""
    execute(
        f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table}"
        f" WHERE seq <= (SELECT max(seq) FROM {table}) - ? ORDER BY seq LIMIT {TRIMMED})",
        (kept,),
    )


def _nothing() -> None:
    return None


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
