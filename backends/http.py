"""A small pooled HTTP/1.1 client on httptools; it fails with BackendError, and its messages carry no header values.

Why not a library: measured beside aiohttp and httpx it costs a third and a thirtieth of the CPU per request
(docs/decisions.md), and a gateway's three wishes (bytes as they come, an abort that is felt at once, separate limits
for connecting, the first byte and silence) are each one line here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from backends.errors import Failed, TimedOut, Unreachable

_HIGH_WATER_BYTES = 256 * 1024  # a reader this far behind stops the socket


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds, how long an unused connection is kept, and the longest plain answer in bytes."""

    connect_s: float = 5.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0  # silence between two reads of one answer
    keep_alive_s: float = 4.0  # below uvicorn's five seconds, so that the server seldom closes first
    body_bytes: int = 64 * 1024 * 1024


class Response:
    """One answer while it comes in: httptools calls the `on_` methods, the caller awaits `start` and `read`."""

    def __init__(self, connection: _Connection, backend: str) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.touched = False  # a byte came: a living server has taken the request
        self._backend = backend
        self._connection: _Connection | None = connection
        self._parser = httptools.HttpResponseParser(self)
        self._blocks: list[bytes] = []
        self._buffered = 0
        self._ended = False
        self._reusable = False
        self._framed = False  # a length or chunks say where the body ends; else the close does
        self._problem: str | None = None
        self._waiter: asyncio.Future[bool] | None = None  # of the read under way
        self._due = 0.0  # when that read has waited too long
        self._alarm: asyncio.TimerHandle | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        self.headers[key] = value.decode("latin-1")
        self._framed = self._framed or key in {"content-length", "transfer-encoding"}

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._blocks.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self.status < 200:  # 100 Continue, 103 Early Hints: the answer is still to come
            self.status, self.headers, self._framed = 0, {}, False
        else:
            self._ended = True
            self._reusable = self._parser.should_keep_alive()  # llhttp forgets after this call

    def feed(self, data: bytes) -> None:
        """Take what the socket read."""
        self.touched = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as problem:
            self._problem = f"sent something that is not HTTP ({problem})"
        if self._ended:
            self._release()
        elif self._buffered > _HIGH_WATER_BYTES and self._connection is not None:
            self._connection.pause()
        self._wake()

    def lost(self, problem: Exception | None) -> None:
        """The connection is gone."""
        self._connection = None
        self._rest()
        if self.status and not self._framed and problem is None:
            self._ended = True
        elif not self._ended:
            self._problem = self._problem or f"closed the connection ({problem or 'end of stream'})"
        self._wake()

    async def start(self, limit_s: float) -> None:
        """Wait for status and headers. Raises: TimedOut, Unreachable."""
        while not self.status:
            await self._more(limit_s)

    async def read(self, limit_s: float) -> bytes:
        """What has come since the last read; b"" at the end. Raises: TimedOut, Unreachable."""
        while not self._blocks:
            if self._ended:
                return b""
            await self._more(limit_s)
        blocks = self._blocks
        data = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        blocks.clear()
        if self._buffered > _HIGH_WATER_BYTES and self._connection is not None:
            self._connection.resume()
        self._buffered = 0
        return data

    async def body(self, limits: Limits) -> bytes:
        """The whole body. Raises: TimedOut, Unreachable, Failed where it is longer than `limits.body_bytes`."""
        data = await self.read(limits.first_byte_s)
        parts, length = [data], len(data)
        while data and length <= limits.body_bytes:
            data = await self.read(limits.idle_s)
            parts.append(data)
            length += len(data)
        if data:
            self.close()
            raise Failed(f"answered more than {limits.body_bytes} bytes", backend=self._backend)
        return b"".join(parts)

    def close(self) -> None:
        """Stop at once; a connection in the middle of an answer is cut. Idempotent."""
        self._rest()
        connection, self._connection = self._connection, None
        if connection is not None:
            self._problem = self._problem or "was closed by the gateway"
            connection.abort()
            self._wake()

    def _release(self) -> None:
        self._rest()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finished(reusable=self._reusable)

    def _wake(self, arrived: bool = True) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(arrived)

    async def _more(self, limit_s: float) -> None:
        if self._problem is not None:
            self.close()
            raise Unreachable(self._problem, backend=self._backend)
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        self._due = loop.time() + limit_s
        if self._alarm is None or self._alarm.when() > self._due:
            self._rest()
            self._alarm = loop.call_at(self._due, self._ring, loop)
        if not await waiter:
            self.close()
            raise TimedOut(f"sent nothing for {limit_s:g} s", backend=self._backend)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        """One alarm serves many reads: it is moved when it rings too early, not when a read begins or ends."""
        self._alarm = None
        if self._waiter is None:
            return
        if loop.time() < self._due:
            self._alarm = loop.call_at(self._due, self._ring, loop)
        else:
            self._wake(False)

    def _rest(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.cancel()


class _Connection(asyncio.Protocol):
    """One socket: idle in the pool, or carrying one answer."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self.response: Response | None = None
        self.idle_since = 0.0

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.response is None:
            self.abort()  # nobody asked
        else:
            self.response.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._client.forget(self)
        response, self.response = self.response, None
        if response is not None:
            response.lost(exc)

    def ask(self, message: bytes, backend: str) -> Response:
        assert self._transport is not None
        self.response = Response(self, backend)
        self._transport.write(message)
        return self.response

    def finished(self, *, reusable: bool) -> None:
        self.response = None
        if reusable and self.alive:
            self.resume()
            self._client.keep(self)
        else:
            self.abort()

    def pause(self) -> None:
        if self.alive:
            cast(asyncio.Transport, self._transport).pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    def abort(self) -> None:
        self.response = None
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Requests to one base URL over as many pooled connections as there are requests at once.

    A request that meets a pooled connection the server has just closed is sent again on a fresh one: no byte of an
    answer had come. Every other failure is the caller's to judge.
    """

    def __init__(
        self, base_url: str, *, name: str, headers: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{base_url!r} is not an http:// or https:// URL with a host")
        self.name = name
        self.limits = limits or Limits()
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        self._head = _lines({"Host": parts.netloc.rpartition("@")[2], "Accept-Encoding": "identity", **(headers or {})})
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._closed = False

    async def request(
        self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send and wait for status and headers. Raises: Unreachable, TimedOut, Failed."""
        message = b"".join(
            (self._start(method, path), b"Content-Length: %d\r\n" % len(body), _lines(headers or {}), b"\r\n", body)
        )
        connection = self._reuse()
        if connection is not None:
            response = connection.ask(message, self.name)
            try:
                return await self._started(response)
            except Unreachable:
                if response.touched:
                    raise
        return await self._started((await self._connect()).ask(message, self.name))

    async def aclose(self) -> None:
        """Cut every connection."""
        self._closed = True
        for connection in tuple(self._open):
            connection.abort()
        await asyncio.sleep(0)  # lets the transports finish closing

    def keep(self, connection: _Connection) -> None:
        """Take a connection back for the next request."""
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def forget(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        if connection.response is None and connection in self._idle:
            self._idle.remove(connection)

    async def _started(self, response: Response) -> Response:
        try:
            await response.start(self.limits.first_byte_s)
        except BaseException:
            response.close()
            raise
        return response

    def _start(self, method: str, path: str) -> bytes:
        head = self._heads.get((method, path))
        if head is None:
            line = f"{method} {self._prefix}{path} HTTP/1.1\r\n".encode("ascii")
            head = line + self._head
            if len(self._heads) < 64:
                self._heads[method, path] = head
        return head

    def _reuse(self) -> _Connection | None:
        oldest = asyncio.get_running_loop().time() - self.limits.keep_alive_s
        while self._idle:
            connection = self._idle.pop()  # the latest used, so that the others can age away
            if connection.alive and connection.idle_since >= oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        if self._closed:
            raise Unreachable("is closed", backend=self.name)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.limits.connect_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise Unreachable(f"no connection within {self.limits.connect_s:g} s", backend=self.name) from None
        except OSError as problem:
            raise Unreachable(f"no connection ({problem})", backend=self.name) from problem
        self._open.add(connection)
        return connection


def _lines(headers: Mapping[str, str]) -> bytes:
    """Header lines. Raises: ValueError for a value that would break out of its line."""
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise ValueError("a header holds a line break")
    return text.encode("latin-1", errors="replace")
