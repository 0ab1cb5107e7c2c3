"""An engine that only streams: `python -m benchmarks.streaming PORT CHUNKS GAP_MS`; GET /count tells the chunks sent.

Every chunk is a write of its own, GAP_MS after the one before, so that a gateway meets each in a read of its own.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

_CHUNK = (
    b'data: {"id":"chatcmpl-mock","object":"chat.completion.chunk","created":1700000000,"model":"mock","choices":'
    b'[{"index":0,"delta":{"content":" harbour"},"logprobs":null,"finish_reason":null}]}\n\n'
)
_FINISH = _CHUNK.replace(b'"finish_reason":null', b'"finish_reason":"stop"')
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _usage(chunks: int) -> bytes:
    usage = b'"usage":{"prompt_tokens":60,"total_tokens":%d,"completion_tokens":%d}' % (60 + chunks, chunks)
    head, _, _ = _CHUNK.partition(b'"choices":')
    return head + b'"choices":[],' + usage + b"}\n\n"


class ChunkEngine(asyncio.Protocol):
    """One connection: a stream for each POST, a number for each GET."""

    sent = 0
    chunks = 200
    gap_s = 0.005

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._left = b""

    def data_received(self, data: bytes) -> None:
        self._left += data
        head, gap, body = self._left.partition(b"\r\n\r\n")
        if not gap:
            return
        if head.startswith(b"GET"):
            answer = b"%d" % ChunkEngine.sent
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
        elif len(body) < _length(head):
            return
        else:
            self._transport.write(_HEAD)
            self._say(self.chunks)
        self._left = b""

    def _say(self, left: int) -> None:
        if self._transport.is_closing():
            return
        if left == 0:
            last = _framed(_FINISH) + _framed(_usage(self.chunks)) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
            self._transport.write(last)
            return
        self._transport.write(_framed(_CHUNK))
        ChunkEngine.sent += 1
        asyncio.get_running_loop().call_later(self.gap_s, self._say, left - 1)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def serve(port: int) -> None:
    """Listen until killed."""
    server = await asyncio.get_running_loop().create_server(ChunkEngine, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    ChunkEngine.chunks, ChunkEngine.gap_s = int(sys.argv[2]), float(sys.argv[3]) / 1000
    uvloop.run(serve(int(sys.argv[1])))
