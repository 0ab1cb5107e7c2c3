"""The way from a gateway of a world to its Redis: one connection in order, which delays, breaks and loses replies.

What was sent before a gateway died, or a connection broke, may still be done: nobody hears of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.exceptions import ConnectionError as Disconnected

from benchmarks.worlds.redis_model import ModelRedis, Word
from router.errors import StoreUnavailable
from router.stores.redis.connection import PREFIX, TIMEOUT_S, Link
from router.stores.redis.wire import Unanswered

TRAVEL_S = 0.002  # at most, each way
BLOCK_S = 0.5


class RedisNetwork:
    """The server, and who is cut off from it."""

    def __init__(self, server: ModelRedis, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop = server, loop
        self.up = True
        self.stalled_until_s = 0.0  # it answers nobody until then
        self.cut: set[str] = set()  # processes whose packets get lost
        self.loses = 0.0  # share of the commands whose connection breaks before the reply is there
        self.carriers: list[ModelCarrier] = []

    def hang_up(self, names: Sequence[str] = ()) -> None:
        """Break the connections of these processes, or of all."""
        for each in self.carriers:
            if not names or each.name in names:
                each.broken()

    def reaches(self, name: str) -> bool:
        """Whether packets of this process arrive."""
        return self.up and name not in self.cut


class ModelCarrier:
    """A Carrier of one process."""

    def __init__(self, network: RedisNetwork, name: str, chance: random.Random) -> None:
        self.name, self._network, self._chance = name, network, chance
        self._asked: dict[asyncio.Future[Any], None] = {}
        self._last_s = 0.0
        self._outside = Context()  # of no process: what travels lives on
        network.carriers.append(self)

    def ask(self, words: tuple[Word, ...]) -> asyncio.Future[Any]:
        """As Carrier.ask."""
        network, loop = self._network, self._network.loop
        future: asyncio.Future[Any] = loop.create_future()
        self._asked[future] = None
        self._last_s = max(self._last_s, loop.time(), network.stalled_until_s) + self._chance.random() * TRAVEL_S
        loop.call_at(self._last_s, self._arrive, words, future, context=self._outside)
        if network.stalled_until_s > loop.time() + TIMEOUT_S or not network.reaches(self.name):
            loop.call_later(TIMEOUT_S, self._fail, future, context=self._outside)
        return future

    async def aclose(self) -> None:
        """Hang up."""
        self.broken()

    def broken(self) -> None:
        """Whoever waits for a reply does not get it."""
        for future in list(self._asked):
            self._fail(future)

    def _fail(self, future: asyncio.Future[Any]) -> None:
        if self._asked.pop(future, self) is None and not future.done():
            future.set_exception(Unanswered("Redis is away: the connection was lost"))

    def _arrive(self, words: tuple[Word, ...], future: asyncio.Future[Any]) -> None:
        if not self._network.reaches(self.name):
            return
        reply = self._network.server.execute(words)
        if self._network.loses and self._chance.random() < self._network.loses:
            self.broken()
            return
        back_s = self._chance.random() * TRAVEL_S
        self._network.loop.call_later(back_s, self._deliver, future, reply, context=self._outside)

    def _deliver(self, future: asyncio.Future[Any], reply: Any) -> None:
        if not self._network.reaches(self.name):
            return
        if self._asked.pop(future, self) is None and not future.done():
            future.set_result(reply)


class ModelClient:
    """What blocks: XREAD of one process, on a connection of its own."""

    def __init__(self, carrier: ModelCarrier, loop: asyncio.AbstractEventLoop) -> None:
        self._carrier, self._loop = carrier, loop

    async def execute_command(self, *words: Word) -> Any:
        """Raises: redis-py's ConnectionError."""
        until_s = self._loop.time() + (BLOCK_S if "BLOCK" in words else 0.0)
        while True:
            try:
                found = await self._carrier.ask(words)
            except StoreUnavailable as error:
                raise Disconnected(error.message) from error
            if found:
                return [[key, [(each, _pairs(fields)) for each, fields in rows]] for key, rows in found]
            if self._loop.time() >= until_s:
                return None
            await asyncio.sleep(BLOCK_S)

    async def aclose(self) -> None:
        """Nothing to close."""


def _pairs(fields: list[bytes]) -> list[tuple[bytes, bytes]]:
    """As redis-py gives them."""
    return list(zip(fields[::2], fields[1::2], strict=True))


def connector(network: RedisNetwork, carrier: Callable[[], ModelCarrier]) -> Callable[[str], Link]:
    """What stands in the place of `connect`."""

    def connect(url: str) -> Link:
        found = carrier()
        prefix = parse_qs(urlsplit(url).query).get("prefix", [PREFIX])[0]
        return Link(ModelClient(found, network.loop), found, prefix=prefix)

    return connect
