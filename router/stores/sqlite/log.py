"""The outcome log in SQLite: one table in commit order, which every process on the machine may follow.

Records ride in the ledger's next transaction, or in one of their own FLUSH_S later. Beyond
`kept` of them the oldest of whoever has most are removed. While the file is away up to 10,000 records wait in memory;
beyond that, and for feedback at once, it is StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import cast

import msgspec

from router.errors import NotFound, StoreUnavailable
from router.stores.codec import (
    KINDS,
    MOST_JUDGEMENTS,
    contradicts,
    encode,
    judged_by_another,
    judged_too_often,
    may_replace,
    needs_replace,
    readable,
    response_of,
    scoped_response,
    unknown,
)
from router.stores.sqlite import shares
from router.stores.sqlite.database import Database, Work, insertion, parts
from router.types import DecisionRecord, Feedback, LogEntry, Notice, SettlementRecord

FLUSH_S = 0.05  # how long a record waits for a transaction to ride in
WAITING = 10_000  # records kept while the file is away
LATE_S = 2 * FLUSH_S  # feedback may come this much before its decision
TOGETHER = 64  # records that need not wait for company
PAGE = 500
TRIM_EVERY = 128  # records; fewer than are removed at once, so that a log that is too long shrinks
FOLLOW_S = 0.25  # how soon records of other processes are seen
OWN = 2_000  # records of this process kept for its followers, which need not read and decode them again

TABLE = "log (kind, tenant, decision_id, response_id, body)"
Row = tuple[str, str, str, str | None, bytes]


class SqliteLog:
    """An OutcomeLog on one database."""

    def __init__(self, database: Database, *, kept: int) -> None:
        self._db, self._kept = database, kept
        self._grown_by = TRIM_EVERY  # since it was trimmed: look at the first opportunity
        self._waiting: list[tuple[Row, LogEntry]] = []
        self._due = False  # all that wait shall be written with the next transaction
        self._boarded, self._last = 0, 0  # how many of them are being written, and the position of the last
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._own: dict[int, LogEntry] = {}  # the latest of this process, by position
        self._grown = asyncio.Event()
        database.participants.append(self)
        database.on_commit.append(self._grown.set)

    async def remember(self, record: DecisionRecord | SettlementRecord | Notice) -> None:
        """Append. Raises: StoreUnavailable where too many records wait already."""
        if len(self._waiting) >= WAITING:
            raise StoreUnavailable(f"{WAITING} records wait for {self._db.path}")
        row = (KINDS[type(record)], record.tenant, record.decision_id, response_of(record), encode(record))
        self._waiting.append((row, record))
        self._soon()

    async def aclose(self) -> None:
        """Write what waits. Raises: StoreUnavailable."""
        if self._timer is not None:
            self._timer.cancel()
        await self.flush()

    async def flush(self) -> None:
        """Write what waits. Raises: StoreUnavailable."""
        self._due = True
        await self._db.transact(_nothing)

    async def judge(self, feedback: Feedback) -> bool:
        """Append a judgement; False where the same one is already recorded.

        Its decision may wait in another process for its transaction, and is given the time for it.
        Raises: NotFound, Conflict, StoreUnavailable.
        """
        try:
            return await self._judge(feedback)
        except NotFound:
            await asyncio.sleep(LATE_S)
            return await self._judge(feedback)

    async def _judge(self, feedback: Feedback) -> bool:
        def work() -> bool:
            decision_id = self._decision(feedback.decision_id, feedback.tenant)
            if decision_id is None:
                raise unknown(feedback.decision_id)
            given = msgspec.structs.replace(feedback, decision_id=decision_id)
            known, times = self._judged(decision_id, feedback.source)
            if known is not None and not contradicts(known, given):
                return False
            if known is not None and not given.replace:
                raise needs_replace(given)
            if known is not None and not may_replace(known, given):
                raise judged_by_another(given)
            if times >= MOST_JUDGEMENTS:
                raise judged_too_often(given)
            row = ("f", given.tenant, decision_id, None, encode(given))
            self._db.execute(insertion(TABLE, len(row), 1), row)
            shares.add(self._db.execute, (given.tenant,))
            self._grown_by += 1
            return True

        self._due = True
        return await self._db.transact(work)

    async def tail(self, after: str, *, follow: bool = True) -> AsyncIterator[tuple[str, LogEntry]]:
        """Entries after a position with their positions, oldest first; waits for more if `follow`."""
        position = int(after or 0)
        while True:
            while (own := self._own.get(position + 1)) is not None:
                position += 1
                yield str(position), own
            rows = self._db.read(f"SELECT seq, kind, body FROM log WHERE seq > ? ORDER BY seq LIMIT {PAGE}", position)
            for seq, kind, body in cast(list[tuple[int, str, bytes]], rows):
                position = seq
                if (entry := readable(str(seq), kind, body)) is not None:
                    yield str(seq), entry
            if rows:
                await asyncio.sleep(0)
            elif not follow:
                if not self._waiting:
                    return
                await self.flush()
            else:
                await self._wait()

    async def of(self, decision_id: str) -> list[LogEntry]:
        """See Recollection.of."""
        await self._settle()
        sql = "SELECT seq, kind, body FROM log WHERE decision_id = ? ORDER BY seq"
        return _known(await self._db.read_aside(sql, (decision_id,), _read))

    async def latest(self, count: int) -> list[LogEntry]:
        """See Recollection.latest."""
        await self._settle()
        sql = "SELECT seq, kind, body FROM log ORDER BY seq DESC LIMIT ?"
        return _known(await self._db.read_aside(sql, (count,), _read))[::-1]

    async def _settle(self) -> None:
        if self._waiting:
            await self.flush()

    # riding along, on the writer's thread

    def begin(self, works: Sequence[Work]) -> None:
        """Write what waits, many at once: a page then takes several."""
        due, self._due = self._due, False
        self._boarded = len(self._waiting) if due or len(self._waiting) >= TOGETHER else 0
        for part in parts(self._waiting[: self._boarded]):
            written = self._db.execute(insertion(TABLE, 5, len(part)), [value for row, _ in part for value in row])
            self._last = written.lastrowid or 0  # the writer is alone: they follow one another
        if self._boarded:
            shares.add(self._db.execute, [row[1] for row, _ in self._waiting[: self._boarded]])
        self._grown_by += self._boarded
        if self._grown_by >= TRIM_EVERY:
            self._grown_by = 0
            shares.shrink(self._db.execute, self._kept)

    def finish(self) -> None:
        """Everything has been written."""

    def ended(self, *, committed: bool) -> None:
        """What was written waits no longer."""
        boarded, self._boarded = self._boarded, 0
        if not committed:
            self._due = self._due or boarded > 0
        elif boarded:
            own = self._own
            own.update(enumerate([record for _, record in self._waiting[:boarded]], self._last - boarded + 1))
            while len(own) > min(OWN, self._kept):
                del own[next(iter(own))]
            del self._waiting[:boarded]

    # on the loop

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._start_flush)

    def _start_flush(self) -> None:
        self._timer = None
        self._flushing = asyncio.get_running_loop().create_task(self._flush_quietly())

    async def _flush_quietly(self) -> None:
        try:
            await self.flush()
        except StoreUnavailable:
            self._soon()

    async def _wait(self) -> None:
        self._grown.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FOLLOW_S):  # wait_for swallows a cancellation that comes with an entry
                await self._grown.wait()

    def _decision(self, some_id: str, tenant: str) -> str | None:
        """The decision of this tenant that is meant; None where there is none, whoever else's it may be."""
        sql = "SELECT kind, body FROM log WHERE decision_id = ? ORDER BY seq LIMIT 1"
        row = self._db.execute(sql, (some_id,)).fetchone()
        if row is not None:
            first = readable(some_id, *row)
            return some_id if first is not None and first.tenant == tenant else None
        sql = "SELECT decision_id FROM log WHERE response_id = ? ORDER BY seq DESC LIMIT 1"
        row = self._db.execute(sql, (scoped_response(tenant, some_id),)).fetchone()
        return None if row is None else str(row[0])

    def _judged(self, decision_id: str, source: str) -> tuple[Feedback | None, int]:
        """What this source said of it last, and how often it was judged."""
        sql = "SELECT body FROM log WHERE decision_id = ? AND kind = 'f' ORDER BY seq DESC"
        rows = self._db.execute(sql, (decision_id,)).fetchall()
        said = [each for (body,) in rows if isinstance(each := readable(decision_id, "f", body), Feedback)]
        return next((each for each in said if each.source == source), None), len(said)


def _read(row: tuple[int, str, bytes]) -> LogEntry | None:
    seq, kind, body = row
    return readable(str(seq), kind, body)


def _known(entries: Sequence[LogEntry | None]) -> list[LogEntry]:
    return [entry for entry in entries if entry is not None]


def _nothing() -> None:
    return None
