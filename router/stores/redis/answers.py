"""Answers that may be given again, in Redis. Fails with StoreUnavailable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from router.stores.redis.connection import Link
from router.types import CacheRules


class RedisAnswers:
    """StoredAnswers: a key for each with a time to live; of each tenant its names by their end, and their sizes."""

    def __init__(self, link: Link, *, clock: Callable[[], int]) -> None:
        self._link, self._clock = link, clock

    async def keep(self, tenant: str, answers: Mapping[str, bytes], rules: CacheRules) -> None:
        """See StoredAnswers.keep."""
        now_ms, bounds = self._clock(), (rules.ttl_ms, rules.entries, rules.bytes)
        for name, body in answers.items():
            await self._link.call("keep", now_ms, _owner(tenant), name, body, *bounds)

    async def find(self, tenant: str, name: str) -> bytes | None:
        """See StoredAnswers.find."""
        return cast(
            "bytes | None", await self._link.command("GET", f"{self._link.prefix}:answer:{_owner(tenant)}{name}")
        )

    async def forget(self, tenant: str, name: str | None = None) -> int:
        """See StoredAnswers.forget."""
        return int(await self._link.call("forget", self._clock(), _owner(tenant), *(() if name is None else (name,))))


def _owner(tenant: str) -> str:
    """As it stands in keys: no tenant's name begins another's."""
    return f"{len(tenant)}:{tenant}:"
