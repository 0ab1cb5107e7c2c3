"""uvicorn's connection with a limit and a deadline for the head of each request, and a count of the connections.

It sees bytes before uvicorn's parser does and says no more than: this head is too long, too slow, or one too many.
What a request is stays the parser's to say. A connection that breaks a limit is told so (431, 408, 503) and closed.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from time import perf_counter
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from router.errors import InvalidRequest, NoCandidate, PointsmanError
from router.http.errors import error_body
from router.http.head_limits import Connections, HeadLimits
from router.http.http2 import PREFACE, Http2Refusal

_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux's: data that nobody acknowledges
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: a close drops what is unsent, and says so at once
LOOK_S: Final = 0.01  # before an idle connection is closed
LAST_S: Final = 0.5  # for the first byte of a connection that came while the server stops
SPARE_S: Final = 3600.0  # by which uvicorn's own end of idle connections comes later, if a process stands still
CONNECTION: Final = "pointsman.connection"  # in scope["state"] of a request
CONNECTIONS: Final = "pointsman.connections"  # in the state of the lifespan
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n")
_CHUNKED = b"\r\ntransfer-encoding:"
_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
_PHRASES = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}


class Patient(asyncio.Protocol):
    """A connection that is cut where its client takes nothing of what it is sent; the kernel sees to what is little."""

    def __init__(self, stalled_s: float) -> None:
        self._stalled_s = stalled_s
        self._stall: asyncio.TimerHandle | None = None
        self.begun_at = 0.0  # when the head of the request under way was whole, by perf_counter
        self.heard_at = 0.0  # when its latest bytes came
        self.waited_s = 0.0  # how long the client kept its handler waiting for them
        self._wire = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        wire = transport.get_extra_info("socket")
        if wire is not None and _USER_TIMEOUT is not None and wire.family != socket.AF_UNIX:
            # After `_give_up`: the kernel's own end is silent, and the client may wait for ever.
            wire.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, int(self._stalled_s * 1000) + 1000)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._flows()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._stall = asyncio.get_running_loop().call_later(self._stalled_s, self._give_up)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._flows()
        super().resume_writing()

    def began(self) -> bool:
        """A request is served; whether all of its body has come, as far as that is known before it is read."""
        return False

    def body_is_whole(self) -> None:
        """The body has been read to its end."""

    def answered(self) -> None:
        """The answer is written."""

    def cut(self) -> None:
        """Close at once, whatever is still to be sent."""
        self._wire.abort()

    def _give_up(self) -> None:
        """Cut, and tell the client: what the kernel still has for it is not worth another wait."""
        wire = self._wire.get_extra_info("socket")
        if wire is not None and wire.family != socket.AF_UNIX:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.cut()

    def _flows(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


class Connection(Patient, HttpToolsProtocol):
    """One connection. Over asyncio's own methods alone: what comes in is counted, and passed on to uvicorn.

    A request is HEAD, then BODY, then AFTER until it is answered. Bytes that come AFTER belong to the next request:
    they are kept back, so that uvicorn has one request at a time and a hang-up concerns that one.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._all: Connections = app_state.get(CONNECTIONS) or Connections(HeadLimits())
        Patient.__init__(self, self._all.limits.stalled_s)
        HttpToolsProtocol.__init__(self, config, server_state, {**app_state, CONNECTION: self}, _loop)
        self._made = config, server_state, app_state
        self._address: str | None = None  # while it is counted
        self._alarm: asyncio.TimerHandle | None = None  # of the first byte, then of an unfinished head
        self._head = b""  # as much of an unfinished head as has come
        self._body_left: int | None = 0  # bytes of it still to come; None: the parser will know
        self._state = "HEAD"
        self._raw = 0  # bytes of a body whose length is not declared, framing included
        self._kept = b""  # of the next request
        self._clock = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        refused = self._all.admit(address)
        if refused is not None:
            self._wire = cast(asyncio.Transport, transport)
            self._refuse(NoCandidate(refused, code="too_many_connections"), b"")
            return
        self._address = address
        super().connection_made(transport)
        silent_s = LAST_S if self._all.ending else self._all.limits.silent_s
        self._alarm = self._clock.call_later(silent_s, self._idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        if self._address is not None:
            self._all.leave(self._address)
            self._address = None
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._address is None or self._wire.is_closing():
            return
        if self._state != "AFTER":
            self.heard_at = perf_counter()
        if self._state == "HEAD":
            self._take_head(data)
        elif self._state == "AFTER":
            self._keep(data)
        elif self._body_left is None:
            self._take_unframed(data)
        else:
            self._take_body(data)

    def began(self) -> bool:
        if self._state == "HEAD":  # the parser has found one that came in the same read as the one before
            self._rest()
            self._state, self._head, self._body_left, self._raw = "BODY", b"", None, 0
        return self._state == "AFTER"

    def body_is_whole(self) -> None:
        if self._state == "BODY":
            self._state = "AFTER"

    def answered(self) -> None:
        """The answer is written: what comes now is the next request."""
        if self._kept:
            self._clock.call_soon(self._take_kept)
        elif self._all.ending:
            self._wire.close()
        elif self._address is not None:
            self._state = "HEAD"
            self._all.resting[self] = self._address
            self._alarm = self._clock.call_later(self._all.limits.idle_s, self._idle)

    def make_room(self) -> None:
        """Close at once: this connection rests, and another one wants its place."""
        self._rest()
        self._wire.close()

    def _idle(self) -> None:
        """Close, but read first what came while the loop stood still: its timers run before what it reads."""
        self._alarm = self._clock.call_later(LOOK_S, self._wire.close)

    def _take_head(self, data: bytes) -> None:
        if not self._head:
            data = data.lstrip(b"\r\n")  # as the parser does before a request
            if not data:
                return
        head = self._head + data if self._head else data
        end = head.find(b"\r\n\r\n", max(0, len(self._head) - 3))
        limits = self._all.limits
        if (len(head) if end < 0 else end) > limits.head_bytes:
            self._refuse(_too_long(f"the head has more than {limits.head_bytes} bytes"), head)
        elif end < 0:
            self._wait_on(head)
        elif head.count(b"\r\n", 0, end) > limits.headers:
            self._refuse(_too_long(f"the head has more than {limits.headers} headers"), head)
        elif head.startswith(PREFACE) and len(head) > len(PREFACE):
            self._hand_over_newer(head[len(PREFACE) :])
        elif (
            head[:1].isalpha() and head[: head.find(b" ")] not in _METHODS
        ):  # the parser would wait for what follows the preface of HTTP/2
            self._refuse(InvalidRequest("this method is not served", status=501, code="method_not_served"), head)
        elif head[: head.find(b"\r\n")].endswith(b" HTTP/1.0"):
            self._hand_over(head)
        else:
            self._begin(head, end + 4)

    def _wait_on(self, head: bytes) -> None:
        """The rest of the head is still to come, before its deadline; uvicorn sees whole ones only."""
        if not head[:1].isalpha() or b"\n\n" in head:
            super().data_received(head)  # no method begins so, and no head ends so: a refusal
            return
        if not self._head:
            self._rest()
            self._alarm = self._clock.call_later(self._all.limits.head_s, self._too_slow)
            super().data_received(b"")  # the connection is no longer idle
        self._head = head

    def _begin(self, data: bytes, end: int) -> None:
        """A head is whole, and perhaps a body is behind it."""
        if self._alarm is not None:
            self._rest()
        self._head = b""
        self.begun_at, self.waited_s = self.heard_at, 0.0
        head = data[:end].lower()
        if b"\r\nupgrade:" in head:
            data, head, end = _without_offer(data, head)
        length = _body_length(head)
        if length is None:
            self._state, self._body_left, self._raw = "BODY", None, 0
            super().data_received(data)
            return
        self._body_left = max(0, length - (len(data) - end))
        self._state = "BODY" if self._body_left else "AFTER"
        ahead = data[end + length :]
        super().data_received(data[: end + length] if ahead else data)
        if ahead:
            self._keep(ahead)

    def _take_body(self, data: bytes) -> None:
        """Of a body whose length is declared, exactly that."""
        left = cast(int, self._body_left)
        self._body_left = max(0, left - len(data))
        if not self._body_left:
            self._state = "AFTER"
        super().data_received(data[:left])
        if len(data) > left:
            self._keep(data[left:])

    def _take_unframed(self, data: bytes) -> None:
        self._raw += len(data)
        if self._raw > 2 * self._all.limits.body_bytes + self._all.limits.head_bytes:
            self._wire.abort()  # chunks of a byte, or trailers: the body itself would have met its limit
            return
        super().data_received(data)

    def _keep(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > self._all.limits.ahead_bytes:
            self._wire.pause_reading()

    def _take_kept(self) -> None:
        kept, self._kept, self._state = self._kept, b"", "HEAD"
        if not self._wire.is_closing():
            self._wire.resume_reading()
        self.data_received(kept)

    def _hand_over(self, head: bytes) -> None:
        """HTTP/1.0 knows no chunks, which uvicorn's quick protocol sends all the same; its other one does not."""
        address, self._address = cast(str, self._address), None
        self._rest()  # else what was meant for an idle connection would cut a slow answer
        super().connection_lost(ConnectionError("handed over"))
        config, server_state, app_state = self._made
        old = OldConnection(config, server_state, app_state, self._all, address)
        old.connection_made(self._wire)
        self._wire.set_protocol(old)
        old.data_received(head)

    def _hand_over_newer(self, frames: bytes) -> None:
        """HTTP/2 is not spoken here, which its clients understand in HTTP/2 alone."""
        address, self._address = cast(str, self._address), None
        self._rest()
        super().connection_lost(ConnectionError("handed over"))
        self._all.turned_away(501, "method_not_served", "PRI")
        patience_s = self._all.limits.head_s
        newer = Http2Refusal(patience_s=patience_s, left=lambda: self._all.leave(address))
        newer.connection_made(self._wire)
        self._wire.set_protocol(newer)
        newer.data_received(frames)

    def _too_slow(self) -> None:
        self._alarm = None
        message = f"the head did not come within {self._all.limits.head_s:g} s"
        self._refuse(InvalidRequest(message, status=408, code="request_timeout"), self._head)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's, where its parser cannot go on: told and counted as every refusal is."""
        self._refuse(InvalidRequest("this is no request of HTTP/1.1", code="invalid_http"), self._head)

    def _refuse(self, error: PointsmanError, head: bytes) -> None:
        """Answer without a request, and close."""
        path = head[:256].partition(b" ")[2].decode("latin-1")
        body = error_body(error, path)
        self._all.turned_away(error.status, error.code or error.type, path.partition(" ")[0])
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self._wire.write(head % (error.status, _PHRASES[error.status], len(body)) + body)
        self._wire.close()

    def _rest(self) -> None:
        """No longer waiting for anything."""
        self._all.resting.pop(self, None)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class OldConnection(Patient, H11Protocol):
    """A connection of HTTP/1.0: one request, and the close says where a stream ends."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        counted: Connections,
        address: str,
    ) -> None:
        Patient.__init__(self, counted.limits.stalled_s)
        H11Protocol.__init__(self, config, server_state, {**app_state, CONNECTION: self})
        self._counted = counted
        self._from = address

    def data_received(self, data: bytes) -> None:
        self.heard_at = perf_counter()
        self.begun_at = self.begun_at or self.heard_at
        if not self._wire.is_closing():  # h11 would fail on what comes after its answer
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._counted.leave(self._from)
        super().connection_lost(exc)


def _without_offer(data: bytes, head: bytes) -> tuple[bytes, bytes, int]:
    """A request without its offer to upgrade, which the parser would take for accepted and drop the body."""
    while (at := head.find(b"\r\nupgrade:")) >= 0:
        to = head.find(b"\r\n", at + 2)
        data, head = data[:at] + data[to:], head[:at] + head[to:]
    return data, head, len(head)


def _body_length(head: bytes) -> int | None:
    """Bytes of the body that a head, in lower case, announces; None where the parser has to find its end."""
    if _CHUNKED in head:
        return None
    found = _LENGTH.search(head)
    return int(found[1]) if found is not None else 0


def _too_long(why: str) -> InvalidRequest:
    return InvalidRequest(why, status=431, code="head_too_large")
