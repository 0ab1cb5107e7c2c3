"""One connection to Redis for the scripts of the hot path: no pool, no locks, one write in each turn of the loop.

redis-py opens it (address, sentinels, TLS, AUTH and SELECT are its business) and this takes the opened transport over.
Whoever asks gets a future; answers come in the order of the questions. Fails closed: where the connection breaks, or an
answer takes longer than the timeout, everything that was asked on it is StoreUnavailable, and the next question opens
another connection. Nothing is asked twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Iterable
from typing import Any

from hiredis import PushNotification, Reader, ReplyError, pack_command
from redis.exceptions import RedisError

from router.errors import StoreUnavailable

# Replies that say that this connection leads to the wrong place; another one may lead to the right one.
MISPLACED = re.compile(r"^(LOADING|MASTERDOWN|NOAUTH|NOPERM)|\bREADONLY\b")  # the last also from within a script
AWAY = (RedisError, OSError, RuntimeError)  # uvloop says RuntimeError of a connection that closed under a write

Argument = bytes | str | int
Question = tuple[bytes, "asyncio.Future[Any]"]  # a packed command, and where its reply goes
_MORE = object()  # what the reader says where a reply is not complete


class Unanswered(StoreUnavailable):
    """Redis was asked and did not answer: whether it did what it was asked is not known."""


class Wire:
    """A pipeline to where `pool`, of redis-py, leads. Dialling and an answer take `timeout_s` each at most."""

    def __init__(self, pool: Any, *, timeout_s: float) -> None:
        self._pool, self._timeout_s = pool, timeout_s
        self._line: CommandLine | None = None
        self._waiting: list[Question] = []
        self._dialling: asyncio.Task[None] | None = None

    def ask(self, words: tuple[Argument, ...]) -> asyncio.Future[Any]:
        """What Redis answers: its reply, or a ReplyError as a value. The future may raise StoreUnavailable."""
        packed: bytes = pack_command(words)  # type: ignore[arg-type]  # its stub says a tuple of one
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send)
        self._waiting.append((packed, future))
        return future

    async def aclose(self) -> None:
        """Hang up; what was not answered is StoreUnavailable."""
        if self._dialling is not None:
            self._dialling.cancel()
        self._give_up("the gateway is closing")
        if self._line is not None:
            self._line.hang_up("the gateway is closing")
            await self._line.put_away()

    def _send(self) -> None:
        line = self._line
        if line is not None and line.up:
            line.ask(self._take())
        elif self._dialling is None and self._waiting:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())

    def _take(self) -> list[Question]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def _give_up(self, reason: str) -> None:
        _fail((future for _, future in self._take()), StoreUnavailable(f"Redis is away: {reason}"))

    async def _dial(self) -> None:
        connection = self._pool.make_connection()
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()
        except AWAY as error:
            await _close(connection)
            self._give_up(f"{type(error).__name__}: {error}")  # last: whoever asked meanwhile waits for nobody
        except asyncio.CancelledError:
            await _close(connection)
            raise
        else:
            self._line = CommandLine(connection, timeout_s=self._timeout_s)
            self._line.ask(self._take())
        finally:
            self._dialling = None


class CommandLine(asyncio.Protocol):
    """One opened connection, until it breaks."""

    def __init__(self, connection: Any, *, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(notEnoughData=_MORE)
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()  # and when: the loop's time in seconds
        self._alarm: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self.up = True
        writer = connection._writer  # redis-py has no word for "give me the transport"
        self._transport: asyncio.Transport = writer.transport
        self._transport.set_protocol(self)

    def ask(self, questions: list[Question]) -> None:
        """Write them all at once."""
        now_s = self._loop.time()
        self._asked.extend([(future, now_s) for _, future in questions])
        self._transport.write(b"".join([packed for packed, _ in questions]))
        if self._alarm is None:
            self._alarm = self._loop.call_at(now_s + self._timeout_s, self._ring)

    def data_received(self, data: bytes) -> None:
        """Answers, in the order of the questions."""
        reader, asked = self._reader, self._asked
        reader.feed(data)
        while (reply := reader.gets()) is not _MORE:
            if type(reply) is PushNotification:
                continue
            future, _ = asked.popleft()
            if not future.done():  # else whoever asked has gone
                future.set_result(reply)
            if type(reply) is ReplyError and MISPLACED.search(str(reply)) is not None:
                self.hang_up(str(reply))
                return

    def connection_lost(self, exc: Exception | None) -> None:
        """Redis has gone, or this hung up."""
        self.hang_up(f"the connection was lost: {exc or 'closed by Redis'}")

    def hang_up(self, reason: str) -> None:
        """Give up the connection and everything that was asked on it."""
        if not self.up:
            return
        self.up = False
        if self._alarm is not None:
            self._alarm.cancel()
        self._transport.abort()
        self._closing = self._loop.create_task(_close(self._connection))
        asked, self._asked = self._asked, deque()
        _fail((future for future, _ in asked), Unanswered(f"Redis is away: {reason}"))

    def _ring(self) -> None:
        """The oldest question of a while ago must have been answered by now."""
        self._alarm = None
        if not self._asked:
            return
        due_s = self._asked[0][1] + self._timeout_s
        if self._loop.time() >= due_s:
            self.hang_up(f"no answer within {self._timeout_s:g} s")
        else:
            self._alarm = self._loop.call_at(due_s, self._ring)

    async def put_away(self) -> None:
        """After `hang_up`: redis-py has let go of the connection too."""
        if self._closing is not None:
            await self._closing


async def _close(connection: Any) -> None:
    with contextlib.suppress(*AWAY):
        await connection.disconnect(nowait=True)


def _fail(asked: Iterable[asyncio.Future[Any]], error: StoreUnavailable) -> None:
    for future in asked:
        if not future.done():
            future.set_exception(type(error)(str(error)))  # to each its own: raising adds to an error's traceback
