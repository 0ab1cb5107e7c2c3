"""The outcome log as a Redis stream, followed by every gateway on every host.

Records travel together, 10 ms late at most. While Redis is away up to 10,000 of them wait in memory; beyond that, and
for feedback at once, it is StoreUnavailable. Beyond `kept` entries the oldest of whoever has most are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec

from router.errors import StoreUnavailable
from router.stores.codec import (
    KINDS,
    MOST_JUDGEMENTS,
    encode,
    judged_by_another,
    judged_too_often,
    needs_replace,
    readable,
    response_of,
    scoped_response,
    unknown,
)
from router.stores.redis.connection import Link, fields_of
from router.stores.redis.wire import Argument
from router.types import DecisionRecord, Feedback, LogEntry, Notice, SettlementRecord

FLUSH_S = 0.01
LATE_S = 0.1  # feedback may come this much before its decision
AGAIN_S = 0.25  # after a failure
WAITING = 10_000
TOGETHER = 256
PAGE = 500
RECALLED = 4_000  # of the latest entries, among which one decision is looked for
FOLLOW_MS = 500
REFUSALS = {-1: needs_replace, -2: judged_by_another, -3: judged_too_often}


class RedisLog:
    """An OutcomeLog on one Redis."""

    def __init__(self, link: Link, *, kept: int) -> None:
        self._link, self._kept = link, kept
        self._key = f"{link.prefix}:log"
        self._rows: list[tuple[Argument, ...]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def aclose(self) -> None:
        """Write what still waits."""
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(StoreUnavailable):
            await self._flush()

    async def remember(self, record: DecisionRecord | SettlementRecord | Notice) -> None:
        """Append. Raises: StoreUnavailable where too many records wait already."""
        if len(self._rows) >= WAITING:
            raise StoreUnavailable(f"{WAITING} records wait for Redis")
        row = (KINDS[type(record)], record.tenant, record.decision_id, response_of(record) or "", encode(record))
        self._rows.append(row)
        self._soon(FLUSH_S)

    async def judge(self, feedback: Feedback) -> bool:
        """Append a judgement; False where the same one is already recorded.

        Its decision may wait in another gateway to travel, and is given the time for it.
        Raises: NotFound, Conflict, StoreUnavailable.
        """
        await self._flush()
        found = await self._decision(feedback.decision_id, feedback.tenant)
        if found is None:
            await asyncio.sleep(LATE_S)
            found = await self._decision(feedback.decision_id, feedback.tenant)
        if found is None:
            raise unknown(feedback.decision_id)
        given = msgspec.structs.replace(feedback, decision_id=found)
        says = msgspec.msgpack.encode((given.score, given.comment))
        words = (given.decision_id, given.source, says, int(given.replace), self._kept, encode(given))
        by = (given.key_id, int(given.by_admin), given.tenant, MOST_JUDGEMENTS)
        outcome = await self._link.call("judge", *words, *by)
        if outcome[0] < 0:
            raise REFUSALS[outcome[0]](given)
        return bool(outcome[0])

    async def tail(self, after: str, *, follow: bool = True) -> AsyncIterator[tuple[str, LogEntry]]:
        """Entries after a position with their positions, oldest first; waits for more if `follow`."""
        position = after or "0-0"
        if not follow:
            await self._flush()
        wait: tuple[Argument, ...] = ("BLOCK", FOLLOW_MS) if follow else ()
        while True:
            found = await self._link.wait("XREAD", "COUNT", PAGE, *wait, "STREAMS", self._key, position)
            if not found and not follow:
                return
            for entry_id, fields in _entries(found):
                position = entry_id
                if (entry := _entry(entry_id, fields)) is not None:
                    yield entry_id, entry

    async def of(self, decision_id: str) -> list[LogEntry]:
        """See Recollection.of: a stream has no index, so that only the latest RECALLED entries are looked through."""
        return [each for each in await self.latest(RECALLED) if each.decision_id == decision_id]

    async def latest(self, count: int) -> list[LogEntry]:
        """See Recollection.latest."""
        await self._flush()
        entries, until = list[LogEntry](), "+"
        while count > 0:  # a page at a time: whoever else asks of Redis waits for each
            page = await self._link.command("XREVRANGE", self._key, until, "-", "COUNT", min(PAGE, count))
            if not page:
                break
            until, count = f"({page[-1][0].decode()}", count - len(page)
            entries += await asyncio.to_thread(_newest_first, page)
        return entries[::-1]

    async def _decision(self, some_id: str, tenant: str) -> str | None:
        """The decision of this tenant that is meant; None where there is none, whoever else's it may be."""
        whose: bytes | None = await self._link.command("GET", f"{self._link.prefix}:of:{some_id}")
        if whose is not None:
            return some_id if whose.decode() == tenant else None
        said = f"{self._link.prefix}:said:{scoped_response(tenant, some_id)}"
        found: bytes | None = await self._link.command("GET", said)
        return None if found is None else found.decode()

    def _soon(self, after_s: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(after_s, self._flush_now)

    def _flush_now(self) -> None:
        self._timer = None
        self._flushing = asyncio.get_running_loop().create_task(self._flush_quietly())

    async def _flush_quietly(self) -> None:
        try:
            await self._flush()
        except StoreUnavailable:
            self._soon(AGAIN_S)

    async def _flush(self) -> None:
        async with self._lock:
            while self._rows:
                batch = self._rows[:TOGETHER]
                await self._link.call("log", self._kept, *(word for row in batch for word in row))
                del self._rows[: len(batch)]


def _newest_first(found: list[tuple[bytes, object]]) -> list[LogEntry]:
    """What XREVRANGE gave."""
    entries = [_entry(entry_id.decode(), fields_of(fields)) for entry_id, fields in found]
    return [entry for entry in entries if entry is not None]


def _entry(entry_id: str, fields: dict[bytes, bytes]) -> LogEntry | None:
    """None where it cannot be read."""
    return readable(entry_id, fields.get(b"k", b"").decode(errors="replace"), fields.get(b"b", b""))


def _entries(found: object) -> list[tuple[str, dict[bytes, bytes]]]:
    """What XREAD gave in either protocol: [[key, [(id, fields), …]]] or {key: [[(id, fields), …]]}."""
    if not found:
        return []
    streams = [rows for pages in found.values() for rows in pages] if isinstance(found, dict) else [found[0][1]]  # type: ignore[index]
    return [(entry_id.decode(), dict(fields)) for rows in streams for entry_id, fields in rows]
