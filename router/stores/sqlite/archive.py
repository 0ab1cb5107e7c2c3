"""The archive in SQLite: the table `archive`. Fails with StoreUnavailable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import cast

from router.ports import Archived
from router.stores.retention import TRIMMED
from router.stores.sqlite.database import Database

PAGE = 200
MOST_NAMES = 500  # looked up at once
PUT = "INSERT OR IGNORE INTO archive (room, owner, name, body) VALUES (?, ?, ?, ?)"
OLDEST = (
    "SELECT seq FROM archive WHERE room = ?1 ORDER BY seq"
    " LIMIT max(0, min(?2, (SELECT count(*) FROM archive WHERE room = ?1) - ?3))"
)


class SqliteArchive:
    """An Archive on one database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def put(self, room: str, owner: str, things: Mapping[str, bytes], *, most: int | None = None) -> int:
        """See Archive.put."""

        def work() -> int:
            rows = [(room, owner, name, body) for name, body in things.items()]
            fresh = sum(self._db.execute(PUT, row).rowcount for row in rows)
            if most is not None and fresh:
                self._db.execute(f"DELETE FROM archive WHERE seq IN ({OLDEST})", (room, TRIMMED, most))
            return fresh

        return cast(int, await self._db.transact(work))

    async def each(self, room: str, owner: str = "", names: Sequence[str] = ()) -> AsyncIterator[Archived]:
        """See Archive.each."""
        for start in range(0, len(names), MOST_NAMES):
            some = names[start : start + MOST_NAMES]
            marks = ", ".join("?" * len(some))
            sql = f"SELECT owner, name, body FROM archive WHERE room = ? AND owner = ? AND name IN ({marks})"
            for found in await self._db.read_aside(sql, (room, owner, *some), lambda row: Archived(*row)):
                yield found
        after = 0
        whose = " AND owner = ?3" if owner else ""
        sql = (
            f"SELECT seq, owner, name, body FROM archive WHERE room = ?1 AND seq > ?2{whose} ORDER BY seq LIMIT {PAGE}"
        )
        while not names:
            bound = (room, after, owner) if owner else (room, after)
            rows = await self._db.read_aside(sql, bound, lambda row: (row[0], Archived(*row[1:])))
            for seq, found in rows:
                after = seq
                yield found
            if len(rows) < PAGE:
                return

    async def drop(self, room: str, owner: str) -> int:
        """See Archive.drop."""

        def work() -> int:
            return self._db.execute("DELETE FROM archive WHERE room = ? AND owner = ?", (room, owner)).rowcount

        return cast(int, await self._db.transact(work))
