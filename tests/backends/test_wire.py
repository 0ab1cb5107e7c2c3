"""What engines may do to the bytes of an answer: too many, too slow, too few, and some that nobody asked for."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.errors import BackendError, Cut, Refused, TimedOut
from backends.openai import OpenAIBackend
from backends.types import Limits
from backends.whole import read_all
from tests.backends.conftest import asked, streamed

pytestmark = pytest.mark.anyio
LIMITS = Limits(connect_s=1.0, first_byte_s=0.3, idle_s=0.3, longest_s=1.0, body_bytes=1_000_000)
BODY = b'{"id":"a","model":"org/small-7b","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
EVENT = b'data: {"id":"a","choices":[{"delta":{"content":"word"}}]}\n\n'
Speak = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def engine(speak: Speak) -> AsyncIterator[tuple[OpenAIBackend, list[int]]]:
    """A backend before a socket where `speak` writes what it likes; how many requests each connection had."""
    heard: list[int] = []
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = len(heard)
        heard.append(0)
        writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                await reader.readexactly(length)
                heard[connection] += 1
                await speak(writer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, RuntimeError):
            pass  # the client has gone; uvloop says so by a RuntimeError
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    backend = OpenAIBackend(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", name="mock", limits=LIMITS)
    try:
        yield backend, heard
    finally:
        await backend.aclose()
        server.close()
        for writer in writers:
            writer.transport.abort()


def trickle(piece: bytes, *, first: bytes = b"") -> Speak:
    """One piece every twentieth of a second, for ever."""

    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)

    return speak


def once(data: bytes) -> Speak:
    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return speak


TRICKLES = {
    "a byte of a header": (b"x", b"HTTP/1.1 200 OK\r\nx-long: "),
    "a header": (b"x-one: more\r\n", b"HTTP/1.1 200 OK\r\n"),
    "an early head": (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n", b""),
    "a comment before the first event": (b": still thinking\n\n", STREAM),
    "a byte of the first event": (b"x", STREAM + b"data: "),
}


@pytest.mark.parametrize("what", TRICKLES)
async def test_the_first_byte_has_a_deadline_that_no_trickle_moves(what: str) -> None:
    piece, first = TRICKLES[what]
    async with engine(trickle(piece, first=first)) as (backend, _), asyncio.timeout(10):
        with pytest.raises(TimedOut, match=r"0\.3 s"):
            await backend.send(asked(stream=True))


@pytest.mark.parametrize("piece", [b": still thinking\n\n", b"x", b"\n\n"])
async def test_silence_is_no_event_whatever_else_comes(piece: bytes) -> None:
    async with engine(trickle(piece, first=STREAM + EVENT)) as (backend, _), asyncio.timeout(10):
        reply = await backend.send(asked(stream=True))
        assert EVENT.partition(b'"choices"')[2] in await read_all(reply)
    assert reply.report.failure is not None
    assert "0.3 s" in reply.report.failure


async def test_events_that_come_in_time_go_on_past_the_patience_for_one() -> None:
    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for _ in range(10):
            writer.write(EVENT)
            await asyncio.sleep(0.1)
        writer.write(b"data: [DONE]\n\n")
        writer.close()

    async with engine(speak) as (backend, _):
        reply = await backend.send(asked(stream=True))
        assert (await read_all(reply)).count(b"word") == 10
    assert reply.report.failure is None


async def test_a_client_that_is_slow_to_read_costs_the_engine_none_of_its_time() -> None:
    async with engine(trickle(EVENT, first=STREAM)) as (backend, _), asyncio.timeout(10):
        reply = streamed(await backend.send(asked(stream=True)))
        for _ in range(3):
            await anext(aiter(reply))
            await asyncio.sleep(0.5)
        await reply.aclose()
    assert reply.report.failure is None


async def test_a_plain_answer_that_trickles_ends_at_the_longest_an_answer_may_take() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10000\r\n\r\n{"
    async with engine(trickle(b" ", first=head)) as (backend, _), asyncio.timeout(10):
        with pytest.raises(TimedOut):
            await backend.send(asked())


LONG = {
    "one header": b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * (64 * 1024) + b"\r\n\r\n",
    "many bytes in early heads": b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 2000 + PLAIN,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: a\r\n" % i for i in range(101)) + b"\r\n",
    "a reason": b"HTTP/1.1 200 " + b"O" * (70 * 1024) + b"\r\n\r\n",
}


@pytest.mark.parametrize("what", LONG)
async def test_a_head_that_is_too_long_is_not_read(what: str) -> None:
    async with engine(once(LONG[what])) as (backend, _):
        with pytest.raises(Cut, match="sent more than"):
            await backend.send(asked())


async def test_an_endless_header_ends_with_the_limit() -> None:
    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx-long: ")
        for _ in range(1000):
            writer.write(b"x" * 65536)
            await writer.drain()

    async with engine(speak) as (backend, _), asyncio.timeout(10):
        with pytest.raises(Cut, match="65536 bytes of headers"):
            await backend.send(asked())


async def test_a_head_as_long_as_it_may_be_and_a_body_longer_than_that_come_through() -> None:
    body = BODY[:-1] + b',"x":"' + b"y" * 200_000 + b'"}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-long: " + b"x" * 60_000 + b"\r\n"
    async with engine(once(head + b"content-length: %d\r\n\r\n" % len(body) + body)) as (backend, _):
        assert len(await read_all(await backend.send(asked()))) > 200_000


BEHIND = {
    "another answer": PLAIN.replace(b'"id":"a"', b'"id":"z"'),
    "the beginning of one": b"HTTP/1.1 200 OK\r\nx",
    "garbage": b"\x00\x01 what is this",
    "an early head": b"HTTP/1.1 103 Early Hints\r\n\r\n",
}


@pytest.mark.parametrize("what", BEHIND)
async def test_bytes_behind_an_answer_end_its_connection_and_reach_no_other_request(what: str) -> None:
    async with engine(once(PLAIN + BEHIND[what])) as (backend, heard):
        for _ in range(3):
            assert b'"id":"a"' in await read_all(await backend.send(asked()))
    assert heard == [1, 1, 1]


async def test_bytes_that_come_while_nobody_asks_end_the_connection() -> None:
    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(PLAIN.replace(b'"id":"a"', b'"id":"z"'))

    async with engine(speak) as (backend, heard):
        for _ in range(3):
            assert b'"id":"a"' in await read_all(await backend.send(asked()))
            await asyncio.sleep(0.2)
    assert heard == [1, 1, 1]


NO_ANSWERS = [
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
    b"HTTP/2 200\r\n\r\n",
    b"\x00" * 100,
    b"HTTP/1.1 999999 OK\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
]


@pytest.mark.parametrize("data", NO_ANSWERS)
async def test_what_is_no_answer_is_an_error_of_the_engine(data: bytes) -> None:
    async with engine(once(data)) as (backend, _):
        with pytest.raises(BackendError):
            await backend.send(asked())


def squeezed(body: bytes, encoding: str = "gzip", kind: str = "application/json", status: str = "200 OK") -> bytes:
    """An answer in an encoding that nobody asked for, in chunks of seven bytes."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-encoding: {encoding}\r\n"
    packed = zlib.compress(body) if encoding == "deflate" else gzip.compress(body)
    pieces = [packed[at : at + 7] for at in range(0, len(packed), 7)]
    head += "transfer-encoding: chunked\r\n\r\n"
    return head.encode() + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "deflate"])
async def test_an_answer_that_is_compressed_unasked_is_read(encoding: str) -> None:
    async with engine(once(squeezed(BODY, encoding.lower()).replace(encoding.lower().encode(), encoding.encode()))) as (
        backend,
        _,
    ):
        for _ in range(2):
            assert await read_all(await backend.send(asked())) == BODY.replace(b"org/small-7b", b"small")


async def test_a_stream_that_is_compressed_unasked_is_read() -> None:
    whole_stream = EVENT + b"data: [DONE]\n\n"
    async with engine(once(squeezed(whole_stream, kind="text/event-stream"))) as (backend, _):
        assert (await read_all(await backend.send(asked(stream=True)))).count(b"word") == 1


async def test_a_refusal_that_is_compressed_is_told_in_its_own_words() -> None:
    said = b'{"error":{"message":"temperature must be in [0, 2]"}}'
    async with engine(once(squeezed(said, status="400 Bad Request"))) as (backend, _):
        with pytest.raises(Refused) as refused:
            await backend.send(asked())
    assert refused.value.body == said


async def test_what_no_encoding_explains_is_said_as_it_is() -> None:
    for data, said in (
        (squeezed(BODY).replace(b"content-encoding: gzip", b"content-encoding: br"), "content-encoding 'br'"),
        (PLAIN.replace(b"content-type", b"content-encoding: gzip\r\ncontent-type"), "else than the gzip"),
        (squeezed(b" " * 2**22), "more than 1000000 bytes"),
    ):
        async with engine(once(data)) as (backend, _):
            with pytest.raises(BackendError, match=said):
                await read_all(await backend.send(asked()))
