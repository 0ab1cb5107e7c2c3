"""The records of tenants and keys, the audit and the spend lines in SQLite. Fails with StoreUnavailable."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import cast

from router.stores.keys import Kind
from router.stores.reports import AuditEntry, SpendLine, kinds_of
from router.stores.sqlite.database import Database, trim


class SqliteRecordStore:
    """A RecordStore. `changed` is called within the transaction that makes something else of what was kept before."""

    def __init__(self, database: Database, *, changed: Callable[[], None]) -> None:
        self._db, self._changed = database, changed

    async def get(self, kind: Kind, name: str) -> bytes | None:
        """What is kept under this name. Raises: StoreUnavailable."""
        rows = self._db.read("SELECT body FROM records WHERE kind = ? AND name = ?", kind, name)
        return cast(bytes, rows[0][0]) if rows else None

    async def put(self, kind: Kind, name: str, body: bytes) -> None:
        """Keep it. Raises: StoreUnavailable."""

        def work() -> None:
            where = "WHERE kind = ? AND name = ?"
            known = self._db.execute(f"SELECT body FROM records {where}", (kind, name)).fetchone()
            self._db.execute("INSERT OR REPLACE INTO records (kind, name, body) VALUES (?, ?, ?)", (kind, name, body))
            if known is not None and known[0] != body:
                self._changed()

        await self._db.transact(work)

    async def page(self, kind: Kind, after: str, limit: int) -> list[tuple[str, bytes]]:
        """Up to `limit` of a kind after a name. Raises: StoreUnavailable."""
        sql = "SELECT name, body FROM records WHERE kind = ? AND name > ? ORDER BY name LIMIT ?"
        return cast(list[tuple[str, bytes]], self._db.read(sql, kind, after, limit))


class SqliteAudit:
    """An Audit of the newest `kept` entries."""

    def __init__(self, database: Database, *, clock: Callable[[], int], kept: int) -> None:
        self._db, self._clock, self._kept = database, clock, kept

    async def note(self, kind: str, subject: str, detail: Mapping[str, object]) -> None:
        """Append. Raises: StoreUnavailable."""
        at_ms = self._clock()
        await self._db.transact(lambda: self.append(at_ms, kind, subject, detail))

    def append(self, at_ms: int, kind: str, subject: str, detail: Mapping[str, object]) -> None:
        """The same within a transaction."""
        row = (at_ms, kind, subject, json.dumps(dict(detail)))
        self._db.execute("INSERT INTO audit (at_ms, kind, subject, detail) VALUES (?, ?, ?, ?)", row)
        trim(self._db.execute, "audit", self._kept)

    async def read(self, *, after: str = "", limit: int = 100) -> list[AuditEntry]:
        """Entries after a position, oldest first. Raises: StoreUnavailable."""
        sql = "SELECT seq, at_ms, kind, subject, detail FROM audit WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = cast(list[tuple[int, int, str, str, str]], self._db.read(sql, int(after.partition("-")[0] or 0), limit))
        return [AuditEntry(str(seq), at, kind, subject, json.loads(detail)) for seq, at, kind, subject, detail in rows]


class SqliteSpending:
    """Spending: the table of it."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def lines(self, *, since: str, until: str) -> list[SpendLine]:
        """One line for each day, tenant, team, key and model. Raises: StoreUnavailable."""
        sql = (
            "SELECT day, tenant, team, key, model, requests, prompt_tokens, completion_tokens, cost,"
            " json_group_object(kind, tokens) FILTER (WHERE kind IS NOT NULL) FROM spend"
            " LEFT JOIN spend_parts USING (day, tenant, team, key, model)"
            " WHERE day BETWEEN ? AND ? GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"
        )
        line = lambda row: SpendLine(*row[:-1], **kinds_of(json.loads(row[-1] or "{}")))  # noqa: E731  (one expression)
        return await self._db.read_aside(sql, (since, until), line)
