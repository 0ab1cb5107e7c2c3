"""Answers that may be given again, in SQLite. Fails with StoreUnavailable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from router.stores.sqlite.database import Database
from router.types import CacheRules

_COUNT = (
    "INSERT INTO answer_sizes (tenant, entries, bytes) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE"
    " SET entries = entries + ?2, bytes = bytes + ?3 RETURNING entries, bytes"
)
_REPLACED = "DELETE FROM answers WHERE tenant = ? AND name = ? RETURNING length(body)"
_PUT = "INSERT INTO answers (tenant, name, until_ms, body) VALUES (?, ?, ?, ?)"
_SOONEST = "name = (SELECT name FROM answers WHERE tenant = ?1 ORDER BY until_ms, rowid LIMIT 1)"


class SqliteAnswers:
    """StoredAnswers: rows of the table `answers`, and how many there are of each tenant."""

    def __init__(self, database: Database, *, clock: Callable[[], int]) -> None:
        self._db, self._clock = database, clock

    async def keep(self, tenant: str, answers: Mapping[str, bytes], rules: CacheRules) -> None:
        """See StoredAnswers.keep."""
        now_ms = self._clock()

        def work() -> None:
            entries = size = 0
            for name, body in answers.items():
                gone = self._db.execute(_REPLACED, (tenant, name)).fetchall()
                self._db.execute(_PUT, (tenant, name, now_ms + rules.ttl_ms, body))
                entries, size = entries + 1 - len(gone), size + len(body) - sum([each for (each,) in gone])
            self._count(tenant, entries, size)
            entries, size = self._drop("until_ms <= ?2", tenant, now_ms)
            while entries > rules.entries or size > rules.bytes:
                entries, size = self._drop(_SOONEST, tenant)

        await self._db.transact(work)

    async def find(self, tenant: str, name: str) -> bytes | None:
        """See StoredAnswers.find."""
        sql = "SELECT body FROM answers WHERE tenant = ? AND name = ? AND until_ms > ?"
        rows = self._db.read(sql, tenant, name, self._clock())
        return cast(bytes, rows[0][0]) if rows else None

    async def forget(self, tenant: str, name: str | None = None) -> int:
        """See StoredAnswers.forget."""

        def work() -> int:
            before, _ = self._count(tenant, 0, 0)
            after, _ = self._drop("name = ?2", tenant, name) if name is not None else self._drop("true", tenant)
            return before - after

        return cast(int, await self._db.transact(work))

    def _drop(self, which: str, *values: object) -> tuple[int, int]:
        """Of the first value, a tenant. (answers, bytes) that are left of it."""
        sql = f"DELETE FROM answers WHERE tenant = ?1 AND ({which}) RETURNING length(body)"
        gone = [size for (size,) in self._db.execute(sql, values).fetchall()]
        return self._count(str(values[0]), -len(gone), -sum(gone))

    def _count(self, tenant: str, entries: int, size: int) -> tuple[int, int]:
        found = self._db.execute(_COUNT, (tenant, entries, size)).fetchall()
        return cast(tuple[int, int], found[0])
