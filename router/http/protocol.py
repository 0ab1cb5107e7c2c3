"""uvicorn's HTTP protocol, with the routes that call a model taken out of ASGI: an Exchange each, and no more.

uvicorn keeps the connection (parsing, keep-alive, pipelining, shutdown), and all other requests go its usual way. What
is saved is a scope, a queue of messages and a look at each header of the answer, for each request (docs/decisions.md).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.http.app import App
from router.http.exchange import Exchange
from router.http.schemas import PATHS

LOG = logging.getLogger("pointsman")
_ROUTES: Final = {path.encode(): path for path in PATHS}


class HttpProtocol(HttpToolsProtocol):
    """One connection. The parser calls the `on_` methods."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._incoming: Exchange | None = None  # whose body comes in
        self._served: Exchange | None = None  # who is being answered
        self._before: Any = None  # the request before the incoming one
        self._idle_since: float | None = None  # by the loop's clock; None while something comes in or goes out

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        super()._unset_keepalive_if_required()
        for exchange in {self._incoming, self._served} - {None}:
            cast(Exchange, exchange).hang_up()

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._incoming = None

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        path = _ROUTES.get(self.url) or _path_of(self.url)
        if path not in PATHS or self.parser.get_method() != b"POST" or self.parser.should_upgrade():
            self._leave_to_uvicorn()
            return
        version = self.parser.get_http_version()
        exchange = Exchange(
            self,
            path,
            dict(self.headers),
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            is_chunked=version != "1.0",
        )
        exchange.is_logged = self.access_log
        self._before, self.cycle = self.cycle, cast(Any, exchange)
        self._incoming = exchange
        if exchange.headers.get(b"expect", b"").lower() == b"100-continue":
            exchange.expects = True
            self._serve_in_turn(exchange)

    def on_body(self, body: bytes) -> None:
        exchange = self._incoming
        if exchange is None:
            super().on_body(body)
        elif not exchange.response_complete:
            exchange.take(body)
            if exchange.size > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
                self._serve_in_turn(exchange)

    def on_message_complete(self) -> None:
        exchange, self._incoming = self._incoming, None
        if exchange is None:
            super().on_message_complete()
        elif not exchange.response_complete:
            exchange.more_body = False
            self._serve_in_turn(exchange)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch_idleness(self.timeout_keep_alive)

    def write(self, data: bytes) -> bool:
        """Send; whether the client keeps up. Dropped once it is gone."""
        if not self.transport.is_closing():
            self.transport.write(data)
        return not self.flow.write_paused

    async def drain(self) -> None:
        """Wait until the client has caught up, or is gone."""
        await self.flow.drain()

    def read_on(self) -> None:
        """Let more of the body come in."""
        self.flow.resume_reading()

    def completed(self, exchange: Exchange) -> None:
        """The answer is written."""
        self._served = None
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """One timer a connection, set again where the connection was used meanwhile."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._watch_idleness(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def _watch_idleness(self, for_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(for_s, self.timeout_keep_alive_handler)

    def _leave_to_uvicorn(self) -> None:
        """Begin the message anew, as one for ASGI."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        for name, value in headers:
            super().on_header(name, value)
        self.url = url
        super().on_headers_complete()

    def _serve_in_turn(self, exchange: Exchange) -> None:
        """Serve it once; after the request before it, if that is not answered yet."""
        exchange.set()
        if exchange.is_due:
            return
        exchange.is_due, before, self._before = True, self._before, None
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if not isinstance(cycle, Exchange):
            super()._start_asgi_task(cycle, app)
            return
        self._served = cycle
        cycle.task = self.loop.create_task(self._serve(cycle))
        self.tasks.add(cycle.task)

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await cast(App, self.app).inference(exchange)
        except Exception:
            LOG.exception("POST %s could not be answered", exchange.path)
        finally:
            self.tasks.discard(cast(asyncio.Task[None], exchange.task))
            if not exchange.response_complete:
                self.transport.close()


def _path_of(url: bytes) -> str:
    """The path of a request's target, without its query."""
    try:
        return unquote(httptools.parse_url(url).path.decode("ascii"))
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        return ""
