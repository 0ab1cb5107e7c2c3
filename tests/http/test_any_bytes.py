"""Whatever bytes come, in whatever pieces: nothing raises, and no connection is left without a deadline or an end."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from router.http.connections import CONNECTIONS, Connection
from router.http.head_limits import Connections, HeadLimits
from router.http.intake import BodyLimits, Intake
from router.http.stopping import Stopping
from tests.http.test_uvicorn import Wire

LINES = [
    b"GET / HTTP/1.1",
    b"POST /v1/x HTTP/1.1",
    b"POST /v1/x HTTP/1.0",
    b"HEAD http://g/x HTTP/1.1",
    b"PRI * HTTP/2.0",
    b"CONNECT g:443 HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"GET //[::x HTTP/1.1",
    b"GET / HTTP/9.9",
    b"BREW / HTTP/1.1",
]
HEADERS = [
    b"Host: g",
    b"Content-Length: 0",
    b"Content-Length: 3",
    b"Content-Length: 30000",
    b"Content-Length: 99999999999999999999",
    b"content-length:\t3 ",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Connection: close",
    b"Connection: Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"x-upgrade: \r\nupgrade: websocket",
    b"broken",
    b" folded",
    b"x: \x00",
]
BODIES = [
    b"abc",
    b"3\r\nabc\r\n0\r\n\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffffff\r\n",
    b"3\r\nab",
    b"\r\n\r\n",
    b"\n\n",
    b"x" * 5000,
]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]))
    lines = [draw(st.sampled_from(LINES)), *draw(st.lists(st.sampled_from(HEADERS), max_size=5))]
    bodies = draw(st.lists(st.sampled_from(BODIES), max_size=2))
    return end.join(lines) + end * draw(st.sampled_from([2, 2, 2, 1, 0])) + b"".join(bodies)


STREAMS = st.lists(messages() | st.binary(max_size=40), min_size=1, max_size=4).map(b"".join)


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Reads some requests and not others."""
    if scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def fed(pieces: list[bytes]) -> None:
    stopping, served, shared = Stopping(0), ServerState(), Connections(HeadLimits(head_bytes=4096))
    app = Intake(answering, BodyLimits(), stopping)
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
    config.load()
    wire, old = Wire(), list[Any]()
    wire.set_protocol = old.append  # type: ignore[assignment, method-assign]
    protocol = Connection(config, served, {CONNECTIONS: shared}, asyncio.get_running_loop())
    protocol.connection_made(wire)
    for piece in pieces:
        (old[-1] if old else protocol).data_received(piece)
        for _ in range(8):
            await asyncio.sleep(0)
    if not wire.closed:
        waits = protocol._alarm is not None or stopping.in_flight or old
        assert waits or protocol.timeout_keep_alive_task is not None, pieces
    (old[-1] if old else protocol).connection_lost(ConnectionResetError())
    for task in served.tasks:
        task.cancel()
    await asyncio.gather(*served.tasks, return_exceptions=True)
    assert shared.open == 0
    assert not shared.by_address


@given(data=STREAMS, cuts=st.lists(st.integers(0, 400), max_size=6))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_connection_is_left_alone(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    asyncio.run(fed([data[a:b] for a, b in pairwise(edges)]))


@pytest.mark.parametrize("step", [1, 7])
def test_a_request_in_the_smallest_pieces_is_one_request(step: int) -> None:
    data = b"POST /v1/x HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
    asyncio.run(fed([data[at : at + step] for at in range(0, len(data), step)]))
