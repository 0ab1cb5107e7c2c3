"""A client that begins in HTTP/2 is told, in HTTP/2's own words, to come back over HTTP/1.1, as RFC 9113 (11.4) has it.

curl then asks again by itself; others report HTTP_1_1_REQUIRED, not a connection that was cut. Nothing is raised.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, cast

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MOST_BYTES: Final = 256 * 1024  # that are read of a client which goes on
_HEADERS, _RST_STREAM, _SETTINGS = 1, 3, 4
_REQUIRED = struct.pack(">I", 13)  # HTTP_1_1_REQUIRED


class Frame(NamedTuple):
    """The head of a frame, and where the next one begins."""

    kind: int
    stream: int
    end: int


class Http2Refusal(asyncio.Protocol):
    """One connection from its preface on. `patience_s` bounds how long a stream is waited for."""

    def __init__(self, *, patience_s: float, left: Callable[[], None]) -> None:
        self._patience_s = patience_s
        self._left = left
        self._came = b""
        self._total = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._wire = cast(asyncio.Transport, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says what a server says first, and waits for a stream."""
        self._wire = cast(asyncio.Transport, transport)
        self._wire.write(frame(_SETTINGS))
        self._alarm = asyncio.get_running_loop().call_later(self._patience_s, self._wire.close)

    def data_received(self, data: bytes) -> None:
        """Refuses each stream that is opened."""
        self._came += data
        self._total += len(data)
        if self._total > MOST_BYTES:
            self._wire.abort()
            return
        for each in frames(self._came):
            if each.kind == _HEADERS:
                self._wire.write(frame(_RST_STREAM, each.stream, _REQUIRED))
            self._came = self._came[each.end :]

    def connection_lost(self, exc: Exception | None) -> None:
        """Is counted no more."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._left()


def frame(kind: int, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame without flags."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + struct.pack(">I", stream) + payload


def frames(data: bytes) -> Iterator[Frame]:
    """Every whole frame, each with its end counted from the end of the one before."""
    at = 0
    while len(data) - at >= 9:
        end = 9 + int.from_bytes(data[at : at + 3])
        if len(data) - at < end:
            return
        yield Frame(data[at + 3], int.from_bytes(data[at + 5 : at + 9]) & 0x7FFFFFFF, end)
        at += end
