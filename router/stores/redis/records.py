"""The records of tenants and keys, the audit and the spend lines in Redis. Fails with StoreUnavailable."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import NamedTuple, cast

from router.stores.keys import Kind
from router.stores.redis.connection import Link, fields_of
from router.stores.reports import AuditEntry, SpendLine, kinds_of

LOG = logging.getLogger("pointsman.store")
LATELY_S = 3600.0  # a replica that is further behind is not promoted by anybody's wish
MOST_LATELY = 10_000


class KeptRecord(NamedTuple):
    """What was kept under a name."""

    body: bytes
    at_ms: int  # by the clock of Redis: what was kept later is right
    asked_s: float  # of the loop's clock


class RedisRecordStore:
    """A RecordStore: a hash for each kind, and its names in order.

    What this process kept in the last hour is told again to a Redis that has restarted or was promoted, and may have
    lost it. Else a key that was disabled just before would work again.
    """

    def __init__(self, link: Link, *, clock: Callable[[], int], audit: RedisAudit) -> None:
        self._link, self._clock, self._audit = link, clock, audit
        self._lately: dict[tuple[Kind, str], KeptRecord] = {}  # the oldest first

    async def get(self, kind: Kind, name: str) -> bytes | None:
        """What is kept under this name. Raises: StoreUnavailable."""
        return cast("bytes | None", await self._link.command("HGET", f"{self._link.prefix}:records:{kind}", name))

    async def put(self, kind: Kind, name: str, body: bytes) -> None:
        """Keep it. Raises: StoreUnavailable."""
        at_ms = int(await self._link.call("put", self._clock(), kind, name, body, 0))
        if at_ms:
            self._lately.pop((kind, name), None)
            self._lately[kind, name] = KeptRecord(body, at_ms, asyncio.get_running_loop().time())
        self._forget()

    async def repeat_lost(self) -> None:
        """Tell what Redis has lost, unless something else was kept since; audited. Raises: StoreUnavailable."""
        self._forget()
        for (kind, name), kept in list(self._lately.items()):
            if await self._link.call("put", self._clock(), kind, name, kept.body, kept.at_ms):
                LOG.warning("Redis had lost a change of %s %s; it is made again.", kind, _named(kind, name))
                await self._audit.note("record.repeated", _named(kind, name), {"kind": kind, "at_ms": kept.at_ms})

    def _forget(self) -> None:
        since_s = asyncio.get_running_loop().time() - LATELY_S
        old = takewhile(lambda each: each[1].asked_s < since_s, self._lately.items())
        for key in [key for key, _ in old]:
            del self._lately[key]
        while len(self._lately) > MOST_LATELY:
            del self._lately[next(iter(self._lately))]

    async def page(self, kind: Kind, after: str, limit: int) -> list[tuple[str, bytes]]:
        """Up to `limit` of a kind after a name. Raises: StoreUnavailable."""
        start = f"({after}" if after else "-"
        key = f"{self._link.prefix}:names:{kind}"
        names: list[bytes] = await self._link.command("ZRANGEBYLEX", key, start, "+", "LIMIT", 0, limit)
        if not names:
            return []
        bodies = await self._link.command("HMGET", f"{self._link.prefix}:records:{kind}", *names)
        return [(name.decode(), body) for name, body in zip(names, bodies, strict=True)]


def _named(kind: Kind, name: str) -> str:
    """What may be said of it: the digest of a secret is nobody's business."""
    return name[:8] if kind == "digest" else name


class RedisAudit:
    """An Audit: a stream of about `kept` entries."""

    def __init__(self, link: Link, *, clock: Callable[[], int], kept: int) -> None:
        self._link, self._clock, self._kept = link, clock, kept
        self._key = f"{link.prefix}:audit"

    async def open(self) -> None:
        """Let the scripts know how many entries to keep. Raises: StoreUnavailable."""
        await self._link.command("HSET", f"{self._link.prefix}:meta", "audit", self._kept)

    async def note(self, kind: str, subject: str, detail: Mapping[str, object]) -> None:
        """Append. Raises: StoreUnavailable."""
        fields = ("at", self._clock(), "kind", kind, "subject", subject, "detail", json.dumps(dict(detail)))
        await self._link.command("XADD", self._key, "MAXLEN", "~", self._kept, "*", *fields)

    async def read(self, *, after: str = "", limit: int = 100) -> list[AuditEntry]:
        """Entries after a position, oldest first. Raises: StoreUnavailable."""
        rows = await self._link.command("XRANGE", self._key, f"({after}" if after else "-", "+", "COUNT", limit)
        return [_audit_entry(position, fields_of(fields)) for position, fields in rows]


class RedisSpending:
    """Spending: a hash for each day."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def lines(self, *, since: str, until: str) -> list[SpendLine]:
        """One line for each day, tenant, team, key and model. Raises: StoreUnavailable."""
        lines: list[SpendLine] = []
        for day in days(since, until):
            found = await self._link.command("HGETALL", f"{self._link.prefix}:spend:{day}")
            lines += _spend_lines(day, fields_of(found))
        return lines


def days(since: str, until: str) -> list[str]:
    """Every day in since..until, inclusive; 400 at most, the last ones: no more are kept."""
    first, last = dt.date.fromisoformat(since), dt.date.fromisoformat(until)
    first = max(first, last - dt.timedelta(days=400))
    return [(first + dt.timedelta(days=i)).isoformat() for i in range((last - first).days + 1)]


def _audit_entry(position: bytes, fields: dict[bytes, bytes]) -> AuditEntry:
    kind, subject = fields[b"kind"].decode(), fields[b"subject"].decode()
    return AuditEntry(position.decode(), int(fields[b"at"]), kind, subject, json.loads(fields[b"detail"]))


def _spend_lines(day: str, fields: dict[bytes, bytes]) -> list[SpendLine]:
    counts: dict[str, dict[str, int]] = {}
    for name, value in fields.items():
        who, _, what = name.decode().rpartition("\x1f")
        counts.setdefault(who, {})[what] = int(value)
    lines = []
    for who, of in sorted(counts.items()):
        tenant, team, key, model = who.split("\x1f")
        totals = [of.pop(name, 0) for name in "rpcn"]
        lines.append(SpendLine(day, tenant, team, key, model, *totals, **kinds_of(of)))
    return lines
