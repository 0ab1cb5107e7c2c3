"""A response's head waits for the first of its body, and never longer than the loop's turn."""

from __future__ import annotations

import asyncio

import pytest

from router.corked import CorkedTransport

pytestmark = pytest.mark.anyio


class Recorder(asyncio.Transport):
    """Keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.writes.append(b"closed")


def corked() -> tuple[Recorder, CorkedTransport]:
    recorder = Recorder()
    return recorder, CorkedTransport(recorder, asyncio.get_running_loop())


async def test_head_and_body_leave_in_one_write() -> None:
    recorder, transport = corked()
    transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    transport.write(b"body")
    await asyncio.sleep(0)
    assert recorder.writes == [b"HTTP/1.1 200 OK\r\n\r\nbody"]


async def test_a_head_without_a_body_leaves_at_the_end_of_the_turn() -> None:
    recorder, transport = corked()
    transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert recorder.writes == []
    await asyncio.sleep(0)
    assert recorder.writes == [b"HTTP/1.1 204 No Content\r\n\r\n"]


async def test_a_head_leaves_before_the_connection_closes() -> None:
    recorder, transport = corked()
    transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    transport.close()
    assert recorder.writes == [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"closed"]


async def test_pieces_of_a_stream_are_not_kept_back() -> None:
    recorder, transport = corked()
    transport.write(b"data: 1\n\n")
    transport.write(b"data: 2\n\n")
    assert recorder.writes == [b"data: 1\n\n", b"data: 2\n\n"]
