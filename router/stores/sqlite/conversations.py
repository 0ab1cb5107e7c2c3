"""Answers that clients go on from, in SQLite. Fails with StoreUnavailable."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from router.stores.retention import ConversationBounds
from router.stores.sqlite.database import Database


class SqliteConversations:
    """Conversations: rows of the table of that name."""

    def __init__(self, database: Database, *, clock: Callable[[], int], kept: ConversationBounds) -> None:
        self._db, self._clock, self._kept = database, clock, kept

    async def keep(self, tenant: str, name: str, body: bytes) -> None:
        """See Conversations.keep."""
        now_ms = self._clock()

        def work() -> None:
            put = "INSERT OR REPLACE INTO conversations (tenant, name, at_ms, body) VALUES (?, ?, ?, ?)"
            self._db.execute(put, (tenant, name, now_ms, body))
            self._db.execute("DELETE FROM conversations WHERE at_ms < ?", (now_ms - self._kept.ms,))
            self._db.execute(
                "DELETE FROM conversations WHERE tenant = ?1 AND at_ms < (SELECT at_ms FROM conversations"
                " WHERE tenant = ?1 ORDER BY at_ms DESC LIMIT 1 OFFSET ?2)",
                (tenant, self._kept.each - 1),
            )

        await self._db.transact(work)

    async def find(self, tenant: str, name: str) -> bytes | None:
        """See Conversations.find."""
        sql = "SELECT body FROM conversations WHERE tenant = ? AND name = ? AND at_ms >= ?"
        rows = self._db.read(sql, tenant, name, self._clock() - self._kept.ms)
        return cast(bytes, rows[0][0]) if rows else None

    async def forget(self, tenant: str, name: str) -> bool:
        """See Conversations.forget."""

        def work() -> bool:
            gone = self._db.execute("DELETE FROM conversations WHERE tenant = ? AND name = ?", (tenant, name))
            return gone.rowcount > 0

        return cast(bool, await self._db.transact(work))
