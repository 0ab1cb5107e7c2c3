"""The archive in Redis: a hash for each owner of a room, and the room's names by age. Fails with StoreUnavailable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from router.ports import Archived
from router.stores.redis.connection import Link
from router.stores.retention import TRIMMED

PAGE = 200


class RedisArchive:
    """An Archive on one Redis."""

    def __init__(self, link: Link, *, clock: Callable[[], int]) -> None:
        self._link, self._clock = link, clock

    async def put(self, room: str, owner: str, things: Mapping[str, bytes], *, most: int | None = None) -> int:
        """See Archive.put."""
        fresh = 0
        for name, body in things.items():
            if await self._link.command("HSETNX", self._of(room, owner), name, body):
                fresh += 1
                await self._link.command("ZADD", self._room(room), self._clock(), f"{owner}\x1f{name}")
        if most is not None and fresh:
            await self._trim(room, most)
        return fresh

    async def each(self, room: str, owner: str = "", names: Sequence[str] = ()) -> AsyncIterator[Archived]:
        """See Archive.each."""
        for start in range(0, len(names), PAGE):
            for found in await self._found(room, [(owner, name) for name in names[start : start + PAGE]]):
                yield found
        start = 0
        while not names:
            members: list[bytes] = await self._link.command("ZRANGE", self._room(room), start, start + PAGE - 1)
            pairs = [_pair(member) for member in members]
            for found in await self._found(room, [pair for pair in pairs if owner in ("", pair[0])]):
                yield found
            start += PAGE
            if len(members) < PAGE:
                return

    async def drop(self, room: str, owner: str) -> int:
        """See Archive.drop."""
        names: list[bytes] = await self._link.command("HKEYS", self._of(room, owner))
        for start in range(0, len(names), PAGE):
            some = [f"{owner}\x1f{name.decode()}" for name in names[start : start + PAGE]]
            await self._link.command("ZREM", self._room(room), *some)
        await self._link.command("DEL", self._of(room, owner))
        return len(names)

    async def _found(self, room: str, pairs: Sequence[tuple[str, str]]) -> list[Archived]:
        bodies = [(pair, await self._link.command("HGET", self._of(room, pair[0]), pair[1])) for pair in pairs]
        return [Archived(owner, name, body) for (owner, name), body in bodies if body is not None]

    async def _trim(self, room: str, most: int) -> None:
        over = min(TRIMMED, await self._link.command("ZCARD", self._room(room)) - most)
        oldest: list[bytes] = await self._link.command("ZRANGE", self._room(room), 0, over - 1) if over > 0 else []
        for owner, name in map(_pair, oldest):
            await self._link.command("HDEL", self._of(room, owner), name)
        if oldest:
            await self._link.command("ZREM", self._room(room), *oldest)

    def _room(self, room: str) -> str:
        return f"{self._link.prefix}:archive:{room}"

    def _of(self, room: str, owner: str) -> str:
        return f"{self._link.prefix}:archived:{room}:{owner}"


def _pair(member: bytes) -> tuple[str, str]:
    owner, _, name = member.decode().partition("\x1f")
    return owner, name
