"""Answers that clients go on from, in Redis. Fails with StoreUnavailable."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from router.stores.redis.connection import Link
from router.stores.retention import ConversationBounds


class RedisConversations:
    """Conversations: a key for each with a time to live, and each tenant's names by age."""

    def __init__(self, link: Link, *, clock: Callable[[], int], kept: ConversationBounds) -> None:
        self._link, self._clock, self._kept = link, clock, kept

    async def keep(self, tenant: str, name: str, body: bytes) -> None:
        """See Conversations.keep."""
        names, now_ms = self._names(tenant), self._clock()
        await self._link.command("SET", self._key(tenant, name), body, "PX", self._kept.ms)
        await self._link.command("ZADD", names, now_ms, name)
        await self._link.command("PEXPIRE", names, self._kept.ms)
        oldest: list[bytes] = await self._link.command("ZRANGE", names, 0, -self._kept.each - 1)
        if oldest:
            await self._link.command("DEL", *(self._key(tenant, each.decode()) for each in oldest))
            await self._link.command("ZREM", names, *oldest)

    async def find(self, tenant: str, name: str) -> bytes | None:
        """See Conversations.find."""
        return cast("bytes | None", await self._link.command("GET", self._key(tenant, name)))

    async def forget(self, tenant: str, name: str) -> bool:
        """See Conversations.forget."""
        await self._link.command("ZREM", self._names(tenant), name)
        return bool(await self._link.command("DEL", self._key(tenant, name)))

    def _key(self, tenant: str, name: str) -> str:
        return f"{self._link.prefix}:conversation:{len(tenant)}:{tenant}:{name}"

    def _names(self, tenant: str) -> str:
        return f"{self._link.prefix}:conversations:{tenant}"
