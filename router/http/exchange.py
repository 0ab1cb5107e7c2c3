"""One request of a hot route and its answer, on the connection itself: head and body leave in one write.

A client that goes away cancels the request's task; what is written after that is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from router.errors import InvalidRequest
from router.http.errors import Headers

ACCESS = logging.getLogger("uvicorn.access")
_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # what would end a header's line
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(Protocol):
    """What an exchange needs of the connection it is on."""

    client: tuple[str, int] | None

    def write(self, data: bytes) -> bool:
        """Send; whether the client keeps up. Dropped once it is gone."""

    async def drain(self) -> None:
        """Wait until the client has caught up, or is gone."""

    def read_on(self) -> None:
        """Let more of the body come in."""

    def completed(self, exchange: Exchange) -> None:
        """The answer is written."""


class Exchange:
    """A request whose head is there, its body as it comes, and the answer as it is written.

    uvicorn's protocol, which keeps the connection, looks at `response_complete`, `disconnected`, `keep_alive` and
    `message_event` of the request in progress.
    """

    __slots__ = (
        "_connection",
        "_head",
        "_is_chunked",
        "_parts",
        "_waiter",
        "disconnected",
        "expects",
        "headers",
        "is_due",
        "is_logged",
        "keep_alive",
        "more_body",
        "path",
        "response_complete",
        "size",
        "started",
        "task",
    )

    def __init__(
        self, connection: Connection, path: str, headers: Mapping[bytes, bytes], *, keep_alive: bool, is_chunked: bool
    ) -> None:
        self.path = path
        self.headers = headers  # names in lower case
        self.keep_alive = keep_alive
        self.task: asyncio.Task[None] | None = None  # once it is served
        self.is_due = False  # served, or the next to be
        self.expects = False  # a word before it sends the body
        self.is_logged = False  # a line in the access log for the answer
        self.more_body = True
        self.size = 0  # bytes of the body so far
        self.started = False  # the head of the answer is written, or waits for the first of its body
        self.response_complete = False
        self.disconnected = False
        self._connection = connection
        self._is_chunked = is_chunked  # the client knows how: HTTP/1.1
        self._parts: list[bytes] = []
        self._head = b""
        self._waiter: asyncio.Future[None] | None = None

    @property
    def message_event(self) -> Exchange:
        """What uvicorn sets when the client is gone."""
        return self

    def set(self) -> None:
        """More of the body came, or the client is gone: whoever waits for it goes on."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take(self, body: bytes) -> None:
        """A piece of the body."""
        self._parts.append(body)
        self.size += len(body)

    def hang_up(self) -> None:
        """The client is gone."""
        self.disconnected = True
        if self.task is not None and not self.response_complete:
            self.task.cancel()

    async def body(self, most: int) -> bytes:
        """The whole body. Raises: InvalidRequest 413 as soon as it is known to have more than `most` bytes."""
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > most:
            raise _too_large(int(declared), most)
        while self.more_body and self.size <= most:
            if self.expects:
                self.expects = False
                self._connection.write(_CONTINUE)
            self._waiter = asyncio.get_running_loop().create_future()
            self._connection.read_on()
            await self._waiter
        if self.size > most:
            raise _too_large(self.size, most)
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer; content-length is added. Raises: ValueError for a header that would end its line."""
        self._connection.write(self._headed(status, headers) + b"content-length: %d\r\n\r\n" % len(body) + body)
        self._complete()

    def begin(self, status: int, headers: Headers) -> None:
        """The head of a stream, which leaves with its first chunk. Raises: as answer()."""
        self._head = self._headed(status, headers) + (
            b"transfer-encoding: chunked\r\n\r\n" if self._is_chunked else b"\r\n"
        )
        self.keep_alive = self.keep_alive and self._is_chunked

    def write(self, chunk: bytes) -> bool:
        """A chunk of a stream; False where the client is behind: drain() before the next."""
        head, self._head = self._head, b""
        if self._is_chunked:
            return self._connection.write(b"%b%x\r\n%b\r\n" % (head, len(chunk), chunk))
        return self._connection.write(head + chunk)

    async def drain(self) -> None:
        """Wait until the client has caught up."""
        await self._connection.drain()

    def end(self, last: bytes = b"") -> None:
        """The last chunk of a stream, if any, and its end."""
        if last or self._head:
            self.write(last) if last else self._connection.write(self._head)
        if self._is_chunked:
            self._connection.write(b"0\r\n\r\n")
        self._complete()

    def _headed(self, status: int, headers: Headers) -> bytes:
        """The head up to the lines that say how long the body is."""
        if _UNSAFE.search(b"".join([value for _, value in headers])) is not None:
            raise ValueError("a header's value holds a control character")
        self.started = True
        if self.is_logged:
            client = "{}:{}".format(*self._connection.client) if self._connection.client else ""
            ACCESS.info('%s - "%s %s HTTP/%s" %d', client, "POST", self.path, "1.1", status)
        lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        return (
            STATUS_LINE[status] + lines if self.keep_alive else STATUS_LINE[status] + lines + b"connection: close\r\n"
        )

    def _complete(self) -> None:
        self.response_complete = True
        self._connection.completed(self)


def _too_large(size: int, most: int) -> InvalidRequest:
    return InvalidRequest(f"the body has {size} bytes or more, the limit is {most}", status=413, code="too_large")
