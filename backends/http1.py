"""A small pooled HTTP/1.1 client on httptools; it fails with BackendError, and its messages carry no header values.

Why not a library: it costs a third of aiohttp's and a thirtieth of httpx's CPU per request (docs/decisions/010).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

import httptools

from backends.encodings import Decoder, decoder_of
from backends.errors import Cut, Failed, TimedOut, Unreachable
from backends.types import Limits, lines_of

_HIGH_WATER_BYTES = 256 * 1024  # a reader this far behind stops the socket


class Response:
    """One answer while it comes in: a connection puts in what its parser finds, the caller reads."""

    def __init__(self, connection: _Connection, backend: str) -> None:
        self.status = 0
        self.touched = False  # a byte came: a living server has taken the request
        self.blocks: list[bytes] = []
        self.buffered = 0
        self.ended = False
        self.problem: str | None = None
        self.due = 0.0  # when the read under way has waited too long
        self.waiter: asyncio.Future[bool] | None = None  # of that read
        self.headers: dict[bytes, bytes] = {}  # names in lower case
        self.decoder: Decoder | None = None  # of a compressed body
        self._backend = backend
        self._connection: _Connection | None = connection
        self._waited_s = 0.0  # since the last progress
        self.loop = connection.loop
        self.asked_at = self.loop.time()
        self.sent_at = self.heard_at = perf_counter()  # at the socket: the request, and the latest of the answer

    @property
    def engine_s(self) -> float:
        """Seconds from the request to what came last, whenever the loop found time to look at it."""
        return self.heard_at - self.sent_at

    def header(self, name: bytes) -> str:
        """The value of a header, given in lower case; "" where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    def finish(self) -> None:
        """The body is there: the connection is no longer this answer's."""
        self.ended = True
        self._connection = None

    def fail(self, problem: str) -> None:
        """Nothing more will come."""
        self._connection = None
        self.problem = self.problem or problem
        self.wake()

    def wake(self, arrived: bool = True) -> None:
        """Let the read under way go on: something arrived, or it has waited too long."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(arrived)

    async def start(self, limit_s: float) -> None:
        """Wait for status and headers; the answer is closed where none come. Raises: TimedOut, Unreachable."""
        try:
            while not self.status:
                await self._wait(limit_s)
        except BaseException:
            self.close()
            raise

    async def read(self, limit_s: float) -> bytes:
        """What has come since the last read; b"" at the end. What was waited since the last progress counts as well.

        Raises: TimedOut, Unreachable.
        """
        while not self.blocks:
            if self.ended:
                return b""
            await self._wait(limit_s)
        return self._taken()

    def progressed(self) -> None:
        """What was read was worth waiting for: patience begins anew."""
        self._waited_s = 0.0

    async def body(self, limits: Limits) -> bytes:
        """The whole body. Raises: TimedOut, Unreachable, Failed where it is longer than `limits.body_bytes`."""
        data = await self.read(limits.first_byte_s)
        if self.ended and not self.blocks and len(data) <= limits.body_bytes:
            return data
        parts, length = [data], len(data)
        while data and length <= limits.body_bytes:
            self.progressed()
            left_s = self.asked_at + limits.longest_s - self.loop.time()
            data = await self.read(min(limits.idle_s, left_s))
            parts.append(data)
            length += len(data)
        if data:
            self.close()
            raise Failed(f"answered more than {limits.body_bytes} bytes", backend=self._backend)
        return b"".join(parts)

    def close(self) -> None:
        """Stop at once; a connection in the middle of an answer is cut. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self.problem = self.problem or "was closed by the gateway"
            connection.abort()
            self.wake()

    def _taken(self) -> bytes:
        """What has come, and the socket goes on reading."""
        blocks = self.blocks
        data = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        blocks.clear()
        if self.buffered > _HIGH_WATER_BYTES and self._connection is not None:
            self._connection.resume()
        self.buffered = 0
        return data

    async def _wait(self, limit_s: float) -> None:
        """Until something has come. Raises: Cut where nothing more can come, TimedOut."""
        if self.problem is not None or self._connection is None:
            self.close()
            raise Cut(self.problem or "closed the connection", backend=self._backend)
        began = self.loop.time()
        self.waiter = waiter = self._connection.watched(self, began + limit_s - self._waited_s)
        arrived = await waiter
        self._waited_s += self.loop.time() - began
        if not arrived:
            self.close()
            raise TimedOut(f"sent nothing of use for {max(0.0, limit_s):g} s", backend=self._backend)


class _Connection(asyncio.Protocol):
    """One socket: idle in the pool, or carrying one answer. httptools calls the `on_` methods."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self.loop = asyncio.get_running_loop()
        self._headers: dict[bytes, bytes] = {}
        self.on_header = self._headers.__setitem__  # no frame of Python for each header
        self._parser = httptools.HttpResponseParser(self)
        self._alarm: asyncio.TimerHandle | None = None
        self._reusable = False
        self._head_left = 0  # bytes that the head under way may still have
        self._excess: str | None = None  # what came that nobody takes
        self.response: Response | None = None
        self.idle_since = 0.0

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        response = self.response
        if response is None:
            self.abort()  # nobody asked
            return
        response.touched = True
        response.heard_at = perf_counter()
        try:
            self._feed(response, data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as problem:
            response.fail(f"sent something that is not HTTP ({problem})")
            self.abort()
            return
        if self._excess is not None:
            response.fail(f"sent {self._excess}")
            self.abort()
            return
        if response.ended:
            self._finished()
        elif response.buffered > _HIGH_WATER_BYTES and self.alive:
            cast(asyncio.Transport, self._transport).pause_reading()
        response.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._rest()
        self._client.forget(self)
        response, self.response = self.response, None
        if response is None:
            return
        if response.status and exc is None and not {b"content-length", b"transfer-encoding"} & response.headers.keys():
            response.finish()  # neither a length nor chunks say where the body ends: the close does
            response.wake()
        elif not response.ended:
            response.fail(f"closed the connection ({exc or 'end of stream'})")

    def _feed(self, response: Response, data: bytes) -> None:
        """Parse, but no longer head, earlier ones (100, 103) included, than the limit: httptools has none."""
        left = self._head_left
        if response.status or len(data) <= left:
            self._head_left = left - len(data)
            self._parser.feed_data(data)
            return
        self._parser.feed_data(data[:left])
        if response.status:
            self._parser.feed_data(data[left:])
        else:
            self._excess = self._excess or f"more than {self._client.limits.head_bytes} bytes of headers"

    def on_message_begin(self) -> None:
        if self.response is not None and self.response.ended:
            self._reusable = False  # bytes behind the answer: nobody asked for what they begin

    def on_headers_complete(self) -> None:
        if len(self._headers) > self._client.limits.headers:
            self._excess = f"more than {self._client.limits.headers} headers"
            return
        status = self._parser.get_status_code()
        if status >= 200 and self.response is not None and not self.response.ended:
            self.response.status = status
            self.response.headers = headers = {name.lower(): value for name, value in self._headers.items()}
            if encoding := headers.get(b"content-encoding"):
                self.response.decoder = decoder_of(encoding, self._client.limits.body_bytes)

    def on_body(self, body: bytes) -> None:
        response = self.response
        if response is None or response.ended:
            return
        if (decoder := response.decoder) is not None:
            body, self._excess = decoder.read(body), decoder.problem
        response.blocks += [body] if body else []
        response.buffered += len(body)

    def on_message_complete(self) -> None:
        response = self.response
        if response is None or response.ended or self._excess is not None:
            return
        if response.status:  # else 100 Continue or 103 Early Hints: the answer is still to come
            self._reusable = self._parser.should_keep_alive()  # llhttp forgets after this call
            response.finish()
        self._headers.clear()

    def ask(self, message: bytes, backend: str) -> Response:
        assert self._transport is not None
        self._headers.clear()
        self._head_left = self._client.limits.head_bytes
        self.response = response = Response(self, backend)
        self._transport.write(message)
        return response

    def watched(self, response: Response, due: float) -> asyncio.Future[bool]:
        """What a read waits for: True when something arrived, False when the loop's clock says `due`."""
        loop = self.loop
        response.due = due
        if self._alarm is None or self._alarm.when() > due:
            self._rest()
            self._alarm = loop.call_at(due, self._ring)
        return loop.create_future()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    def abort(self) -> None:
        self.response = None
        self._rest()
        if self._transport is not None:
            self._transport.abort()

    def _finished(self) -> None:
        self.response = None
        if self._reusable and self.alive:
            self.resume()
            self._client.keep(self)
        else:
            self.abort()

    def _ring(self) -> None:
        """One alarm serves all answers of a connection: moved when it rings too early, gone with the socket."""
        self._alarm = None
        response = self.response
        if response is None or response.waiter is None:
            return
        if self.loop.time() < response.due:
            self._alarm = self.loop.call_at(response.due, self._ring)
        else:
            response.wake(False)

    def _rest(self) -> None:
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.cancel()


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
        self._head = lines_of(
            {"Host": parts.netloc.rpartition("@")[2], "Accept-Encoding": "identity", **(headers or {})}
        )
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._closed = False

    async def request(
        self, method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send and wait for status and headers. Raises: Unreachable, TimedOut, Failed."""
        length = b"Content-Length: %d\r\n" % len(body)
        message = b"".join((self._start(method, path), length, lines_of(headers or {}), b"\r\n", body))
        connection = self._reuse()
        if connection is not None:
            response = connection.ask(message, self.name)
            try:
                await response.start(self.limits.first_byte_s)
            except Unreachable:
                if response.touched:
                    raise
            else:
                return response
        response = (await self._connect()).ask(message, self.name)
        await response.start(self.limits.first_byte_s)
        return response

    async def aclose(self) -> None:
        """Cut every connection."""
        self._closed = True
        for connection in tuple(self._open):
            connection.abort()
        await asyncio.sleep(0)  # lets the transports finish closing

    def keep(self, connection: _Connection) -> None:
        """Take a connection back for the next request."""
        connection.idle_since = connection.loop.time()
        self._idle.append(connection)

    def forget(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        if connection.response is None and connection in self._idle:
            self._idle.remove(connection)

    def _start(self, method: str, path: str) -> bytes:
        head = self._heads.get((method, path))
        if head is None:
            line = f"{method} {self._prefix}{path} HTTP/1.1\r\n".encode("ascii")
            head = line + self._head
            if len(self._heads) < 64:
                self._heads[method, path] = head
        return head

    def _reuse(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()  # the latest used, so that the others can age away
            if connection.alive and connection.idle_since >= connection.loop.time() - self.limits.keep_alive_s:
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
