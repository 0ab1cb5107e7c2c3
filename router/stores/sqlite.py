"""One SQLite file behind the ledger, the log and the keys: short transactions on the event loop's own thread.

A transaction takes about ten microseconds, less than handing it to a thread would. Where another process is writing,
the coroutine waits without blocking the loop. Fails closed: a file that cannot be written is StoreUnavailable.
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

T = TypeVar("T")

BUSY_S = 2.0  # how long to wait for another process's transaction
FLUSH_S = 0.01  # how long a rider waits for a transaction to ride in
PIN_S = 0.02  # how long a pin may keep the write-ahead log from being begun anew
WAL_PAGES = 1000  # from which the write-ahead log is moved into the file …
WAL_LONG = 4000  # … and from which writers wait until that is done, so that the log is begun anew
WAL_BYTES = 64 << 20  # what a log that has once been long keeps
RESTART_MS = 200  # how long they may wait
CACHE_KIB = 8_192  # pages of accounts and logs kept in memory
CHECKPOINT_S = 1.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS account (scope TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
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
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=0, cached_statements=256)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot open {path}: {error}") from error
        self.execute: Execute = self._connection.cursor().execute
        self.executemany: Callable[..., sqlite3.Cursor] = self._connection.cursor().executemany
        self._pin = self._connection.cursor()
        self._pinned = False
        self._unpinning: asyncio.TimerHandle | None = None
        self._scheduled: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._grouping: asyncio.Task[None] | None = None
        self._group: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
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
            self._connection.executescript(SCHEMA)
            self._connection.execute("PRAGMA busy_timeout = 0")
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot open {self.path}: {error}") from error
        self._checkpointer.start()

    async def aclose(self) -> None:
        """Write what still waits and close."""
        if self._scheduled is not None:
            self._scheduled.cancel()
        if self._unpinning is not None:
            self._unpinning.cancel()
        try:
            await self.transact(_nothing, due=True)
        finally:
            self._stop.set()
            await asyncio.to_thread(self._checkpointer.join)
            self._connection.close()

    def pin(self, sql: str, value: object) -> bool:
        """Leave a query of three rows open, if its first value is this one, and it is not yet: whether it is.

        From now on this connection reads what it read now and what it writes itself, and cannot write once another
        process has: a statement needs no look at what others wrote, and asks for two locks instead of six.
        """
        if self._pinned:
            return True
        if self._unpinning is None:
            self._unpinning = asyncio.get_running_loop().call_later(PIN_S, self._unpin_late)
        self._pinned = True
        try:
            found = self._pin.execute(sql).fetchone()[0]
        except sqlite3.Error:
            found = None
        if found != value:
            self.unpin()
        return self._pinned

    def unpin(self) -> None:
        """Read what is newest again."""
        if self._pinned:
            self._pinned = False
            self._pin.close()
            self._pin = self._connection.cursor()

    def _unpin_late(self) -> None:
        self._unpinning = None
        self.unpin()

    async def transact(self, work: Callable[[], T], *, due: bool = False) -> T:
        """Run `work`, which must not await, in one write transaction. `due`: all riders come along.

        Raises: StoreUnavailable.
        """
        self.unpin()
        try:
            self.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            await self._wait_to_begin(error)
        self.transactions += 1
        try:
            for rider in self.riders:
                rider.board(self.execute, due=due)
            result = work()
            self.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            raise StoreUnavailable(f"cannot write {self.path}: {error}") from error
        except BaseException:
            self._undo()
            raise
        for rider in self.riders:
            rider.arrive()
        return result

    def alone(self, sql: str, values: tuple[object, ...]) -> bool:
        """One statement within a pin, a transaction of its own, for the first caller in a turn of the loop.

        Not while `busy`. Whether it was done: where it was not, for whatever reason, nothing has happened, the pin is
        gone, and `together` waits or says why.
        """
        self.busy = True
        asyncio.get_running_loop().call_soon(self._turn)
        try:
            self.execute(sql, values)
        except sqlite3.Error:
            self.unpin()
            return False
        return True

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
        """Rows of a query, the newest. Raises: StoreUnavailable."""
        self.unpin()
        try:
            return self.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"cannot read {self.path}: {error}") from error

    async def _wait_to_begin(self, error: sqlite3.Error) -> None:
        pause, waited = 0.0, 0.0
        while _is_busy(error) and waited < BUSY_S:
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(0.01, pause * 2 or 0.00005)
            try:
                self.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as again:
                error = again
            else:
                return
        raise StoreUnavailable(f"cannot write {self.path}: {error}") from error

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
