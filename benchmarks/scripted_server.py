"""An HTTP server that speaks a script's lines on a real socket and can hang, reset, garble and stop midway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import msgspec

from backends.scripted import REFUSAL, Line, Script, events, plain_answer

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Heard:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded as engines in Python do: 1e400 is infinite."""
        return json.loads(self.body)


class ScriptedServer:
    """An OpenAI-compatible engine on 127.0.0.1: `async with ScriptedServer(script) as server: … server.url`.

    `heard` keeps every POST, `connections` counts accepted sockets, `hearing` is set by the first POST, `hung_up` when
    a client leaves before its answer is complete. `models` and `metrics` may be changed while it runs.
    """

    def __init__(self, script: Script, *, models: Sequence[Mapping[str, object]] = (), metrics: str = "") -> None:
        self.script = script
        self.models = list(models)
        self.metrics = metrics
        self.healthy = True
        self.heard: list[Heard] = []
        self.connections = 0
        self.hearing = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._numbers = iter(range(1, 1 << 62))

    @property
    def url(self) -> str:
        """Base URL without /v1."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; again on the same port after `stop`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections and cut the open ones, as a killed process would."""
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._open):
            _reset(writer)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        self.connections += 1
        try:
            while (heard := await _read_request(reader)) is not None:
                await self._answer(heard, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, a trouble cut the line, or the server stops
        finally:
            self._tasks.discard(task)
            self._open.discard(writer)
            writer.transport.abort()

    async def _answer(self, heard: Heard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match heard.method, heard.path:
            case "GET", "/health":
                writer.write(_response(200 if self.healthy else 503, b"{}"))
            case "GET", "/v1/models":
                writer.write(_response(200, msgspec.json.encode({"object": "list", "data": self.models})))
            case "GET", "/metrics":
                writer.write(_response(200, self.metrics.encode(), kind="text/plain; version=0.0.4"))
            case "POST", path if path.startswith("/v1/"):
                self.heard.append(heard)
                self.hearing.set()
                await self._speak(heard, reader, writer)
            case _:
                writer.write(_response(404, b'{"detail":"Not Found"}'))
        await writer.drain()

    async def _speak(self, heard: Heard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = heard.json()
        line = self.script(body.get("model", ""), body)
        leaving = asyncio.ensure_future(reader.read(1))  # a client says nothing more until it has its answer
        try:
            await _unless(leaving, asyncio.sleep(line.delay_s))
            if line.trouble is not None and (line.trouble_after == 0 or not body.get("stream")):
                await _trouble(line, leaving, writer)
            elif body.get("stream"):
                await self._stream(line, body, heard.path, leaving, writer)
            else:
                answer = self._plain(line, body, heard.path)
                writer.write(_response(200, answer))
        except _HungUpError:
            self.hung_up.set()
            raise
        finally:
            leaving.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await leaving

    def _plain(self, line: Line, body: Mapping[str, Any], path: str) -> bytes:
        answer_id = f"chatcmpl-{next(self._numbers)}"
        return plain_answer(line, model=body["model"], body=body, path=path, answer_id=answer_id)

    async def _stream(
        self,
        line: Line,
        body: Mapping[str, Any],
        path: str,
        leaving: asyncio.Future[bytes],
        writer: asyncio.StreamWriter,
    ) -> None:
        if not (body.get("stream_options") or {}).get("include_usage"):
            line = replace(line, reports_usage=False)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        pieces = events(line, body["model"], body, path, f"chatcmpl-{next(self._numbers)}")
        for number, piece in enumerate(pieces):
            if line.trouble is not None and number == line.trouble_after:
                await _break(line, piece, leaving, writer)
                return
            if line.piece_delay_s:
                await _unless(leaving, asyncio.sleep(line.piece_delay_s))
            elif leaving.done():
                raise _HungUpError
            writer.write(_chunk(piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")


class _HungUpError(OSError):
    """The client left before its answer was complete."""


async def _unless(leaving: asyncio.Future[bytes], work: Any) -> None:
    """Do the work; raise if the client leaves first."""
    doing = asyncio.ensure_future(work)
    try:
        await asyncio.wait({leaving, doing}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise _HungUpError
    finally:
        doing.cancel()


async def _trouble(line: Line, leaving: asyncio.Future[bytes], writer: asyncio.StreamWriter) -> None:
    """What goes wrong before the first byte."""
    match line.trouble:
        case "hang":
            await _unless(leaving, asyncio.Event().wait())
        case "reset" | "down":
            _reset(writer)
            raise ConnectionResetError
        case "500":
            writer.write(_response(500, b'{"error":{"message":"CUDA error: out of memory","code":500}}'))
        case "html":
            writer.write(_response(200, b"<html><body>Welcome to nginx!</body></html>", kind="text/html"))
        case "garbage":
            writer.write(_response(200, b'{"id": "chatcmpl-1", "choices": [{"ind'))
        case "busy":
            after = "" if line.retry_after_s is None else f"retry-after: {line.retry_after_s:g}\r\n"
            writer.write(_response(429, b'{"error":{"message":"busy","code":429}}', extra=after))
        case "refuse":
            writer.write(_response(400, REFUSAL))
        case "half chunk" | "error event" | None:
            await _break(line, b'data: {"id"', leaving, writer)


async def _break(line: Line, piece: bytes, leaving: asyncio.Future[bytes], writer: asyncio.StreamWriter) -> None:
    """What goes wrong in the middle of a stream."""
    match line.trouble:
        case "hang":
            await _unless(leaving, asyncio.Event().wait())
        case "half chunk":
            writer.write(_chunk(piece[: len(piece) // 2]))
            await writer.drain()
            writer.close()
            raise ConnectionResetError
        case "error event":
            writer.write(_chunk(b'data: {"error":{"message":"the engine died","code":500}}\n\n'))
            writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        case _:
            _reset(writer)
            raise ConnectionResetError


async def _read_request(reader: asyncio.StreamReader) -> Heard | None:
    """The next request of a connection; None at its end."""
    first = await reader.readline()
    if not first:
        return None
    method, path, _ = first.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while (line := (await reader.readline()).decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Heard(method=method, path=path, headers=headers, body=body)


def _response(status: int, body: bytes, *, kind: str = _JSON, extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode("latin-1") + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a killed process behind a proxy would."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
