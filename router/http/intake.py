"""ASGI middleware: what every request may send, and how long it may take to send it.

A body over its limit is refused with 413, one that comes too slowly with 408: receive() raises InvalidRequest. An
answer that leaves before its request's body is whole ends the connection, after a moment for the client to read it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.errors import InvalidRequest
from router.http.connections import CONNECTION, Patient
from router.http.stopping import Stopping

SMALL_BYTES: Final = 64 * 1024  # a body that is read to its end, and dropped, before a refusal
PATIENCE_S: Final = 1.0  # for what of a body is still to come when the answer is known
_CLOSE = (b"connection", b"close")


class Gone(Exception):
    """The client left before its body was whole."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bytes of a body, and the time they may take: `grace_s`, and a second for every `bytes_per_s`."""

    body_bytes: int = 16 * 1024 * 1024
    grace_s: float = 10.0
    bytes_per_s: float = 1024.0
    longest_s: float = 600.0  # whatever the rate

    def due_s(self, size: int) -> float:
        """Seconds after the head in which a body of so many bytes, so far, has to go on."""
        return min(self.grace_s + size / self.bytes_per_s, self.longest_s)


class Intake:
    """Wraps an application."""

    def __init__(self, app: ASGIApp, limits: BodyLimits, stopping: Stopping) -> None:
        self._app = app
        self._limits = limits
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        incoming = _Incoming(scope, receive, send, self._limits)
        self._stopping.in_flight += 1
        try:
            answer = self._last(incoming.send) if self._stopping.began else incoming.send
            await self._app(scope, incoming.receive, answer)
        finally:
            self._stopping.in_flight -= 1
            if incoming.is_answering:
                await incoming.cut_short()

    def _last(self, send: Send) -> Send:
        """The client is to come back on another connection, and so to another gateway."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
            await send(message)

        return sending


class _Incoming:
    """One request on its way in, and its answer on its way out."""

    __slots__ = (
        "_began",
        "_closes",
        "_connection",
        "_declared",
        "_expects",
        "_is_here",
        "_is_whole",
        "_limits",
        "_receive",
        "_send",
        "_size",
        "is_answering",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: BodyLimits) -> None:
        headers = dict(scope["headers"])
        self._receive = receive
        self._send = send
        self._limits = limits
        declared = headers.get(b"content-length")
        self._declared = int(declared) if declared is not None and declared.isdigit() else None
        self._expects = b"expect" in headers
        self._is_whole = self._declared in (None, 0) and b"transfer-encoding" not in headers
        self._size = 0
        self._began = asyncio.get_running_loop().time()
        self.is_answering = False
        self._closes = False  # the connection, behind the answer
        self._connection: Patient | None = scope.get("state", {}).get(CONNECTION)
        self._is_here = self._connection is not None and self._connection.began()

    async def receive(self) -> Message:
        """Raises: InvalidRequest (413, 408)."""
        if self._is_whole:
            return await self._receive()
        most = self._limits.body_bytes
        if (self._declared or 0) > most:
            raise _too_large(self._declared or 0, most)
        message = await (self._receive() if self._is_here else self._in_time())
        self._take_in(message)
        if self._size > most:
            raise _too_large(self._size, most)
        return message

    async def send(self, message: Message) -> None:
        if not self._is_whole and not self._closes and message["type"] == "http.response.start":
            message = await self._before_its_time(message)
        self.is_answering = True
        is_last = message["type"] == "http.response.body" and not message.get("more_body")
        if is_last and self._closes:
            await self._send({**message, "more_body": True})
            await self._hear_out()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)
        if is_last:
            self.is_answering = False
            if self._connection is not None:
                self._connection.answered()

    async def cut_short(self) -> None:
        """Where an answer has begun and will not end: whoever does not take it would hold the connection for ever."""
        if self._connection is not None:
            self._connection.cut()
            await asyncio.sleep(0)  # the server learns of it

    def _take_in(self, message: Message) -> None:
        self._size += len(message.get("body", b""))
        if not message.get("more_body"):
            self._is_whole = True
            if self._connection is not None and not self._is_here:
                self._connection.body_is_whole()

    async def _in_time(self) -> Message:
        due_s, asked_at = self._limits.due_s(self._size), perf_counter()
        try:
            async with asyncio.timeout_at(self._began + due_s):
                message = await self._receive()
        except TimeoutError:
            why = f"only {self._size} bytes of the body came in {due_s:.0f} s"
            raise InvalidRequest(why, status=408, code="request_timeout") from None
        if self._connection is not None:
            self._connection.waited_s += max(0.0, self._connection.heard_at - asked_at)
        return message

    async def _before_its_time(self, start: Message) -> Message:
        """The answer begins and the body is not whole: a small one is read to its end, behind others the line goes."""
        if self._declared is not None and self._declared <= SMALL_BYTES and not self._expects:
            await self._hear_out()
        if self._is_whole:
            return start
        self._closes = True
        return {**start, "headers": [*start.get("headers", ()), _CLOSE]}

    async def _hear_out(self) -> None:
        """Read on for a moment, and keep nothing: who is still sending would not read an answer."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not self._is_whole:
                    self._take_in(await self._receive())
        except TimeoutError:
            pass


async def whole_body(receive: Receive) -> bytes:
    """Raises: InvalidRequest (413, 408), Gone."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(size: int, most: int) -> InvalidRequest:
    return InvalidRequest(f"the body has {size} bytes or more, the limit is {most}", status=413, code="too_large")
