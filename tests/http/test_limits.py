"""What strangers may take from the gateway before they show a key: little, and not for long."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from router.http.app import head_limits
from router.http.server import open_files
from router.settings.server_section import Server
from tests.http.conftest import Running, chat
from tests.http.module import candidates, gateway_over

CHAT = "/v1/chat/completions"
ADMIN = "sk-admin-of-this-test"
WITH_BODY = [CHAT, "/v1/messages", "/v1/route", "/v1/feedback", "/admin/v1/keys"]
LIMITS = {
    "head_s": 1,
    "body_s": 1,
    "body_bytes_per_s": 100_000,
    "idle_s": 1.5,
    "max_body_bytes": "1 MiB",
    "max_connections": 40,
    "max_connections_per_address": 30,
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("limits")
    script = by_model({"small": Line(text="fine"), "slow": Line(text="late", delay_s=3)})

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        made = candidates(folder, engine, {"small": {}, "slow": {}})
        made["backends"]["slow"]["timeouts"]["first_byte_s"] = 20
        return {**made, "server": LIMITS, "auth": {"admin_key": ADMIN}}

    with gateway_over(folder, script, settings) as (running, _):
        yield running


def connected(gateway: Running) -> socket.socket:
    place = urlsplit(gateway.url)
    return socket.create_connection((place.hostname, place.port), timeout=20)


@pytest.fixture
def connection(gateway: Running) -> Iterator[socket.socket]:
    with connected(gateway) as opened:
        yield opened


def everything(connection: socket.socket) -> bytes:
    """All that comes until the gateway closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(65536):
            data += more
    return data


def refused(data: bytes) -> tuple[int, Any]:
    """Status and JSON body of the only answer."""
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def head_of(gateway: Running, path: str, *lines: str, key: str | None = None) -> bytes:
    secret = ADMIN if path.startswith("/admin") else gateway.key
    all_lines = [f"POST {path} HTTP/1.1", "Host: g", f"Authorization: Bearer {key or secret}", *lines]
    return "\r\n".join([*all_lines, "", ""]).encode()


LONG_HEADS = {
    "a long header": b"x-long: " + b"x" * 70_000 + b"\r\n\r\n",
    "a long header that has not ended": b"x-long: " + b"x" * 70_000,
    "many headers": b"".join(b"x-%d: a\r\n" % i for i in range(101)) + b"\r\n",
    "a long name": b"x" * 70_000 + b": a\r\n\r\n",
}


@pytest.mark.parametrize("what", LONG_HEADS)
def test_a_head_over_the_limit_is_refused(connection: socket.socket, what: str) -> None:
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n" + LONG_HEADS[what])
    status, body = refused(everything(connection))
    assert (status, body["error"]["code"]) == (431, "head_too_large")


def test_a_long_target_is_refused_in_the_shape_of_the_api_it_asks_for(connection: socket.socket) -> None:
    connection.sendall(b"POST /v1/messages?" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n")
    status, body = refused(everything(connection))
    assert (status, body["type"]) == (431, "error")


def test_a_head_just_within_the_limit_is_read(gateway: Running, connection: socket.socket) -> None:
    connection.sendall(head_of(gateway, "/v1/feedback", "X-Long: " + "x" * 65_000, "Content-Length: 2", "") + b"{}")
    assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_an_endless_header_costs_the_gateway_no_more_than_its_limit(
    gateway: Running, connection: socket.socket
) -> None:
    before = psutil.Process(gateway.process.pid).memory_info().rss
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\nx-long: ")
        for _ in range(3200):
            connection.sendall(b"x" * 65536)
        pytest.fail("it took 200 MB")
    assert psutil.Process(gateway.process.pid).memory_info().rss - before < 30 * 2**20


@pytest.mark.parametrize("first", [b"", b"\r\n\r\n"])
def test_line_ends_before_a_request_are_no_head(connection: socket.socket, first: bytes) -> None:
    connection.sendall(first + b"GET / HTTP/1.1\r\nx-long: " + b"x" * 70_000)
    assert refused(everything(connection))[0] == 431


def test_a_head_that_trickles_is_refused_when_its_time_is_over(connection: socket.socket) -> None:
    connection.sendall(b"POST /v1/messages HTTP/1.1\r\n")
    data = trickled(connection, b"x: y\r\n")
    status, body = refused(data)
    assert (status, body["error"]["message"]) == (408, "the head did not come within 1 s")


def trickled(connection: socket.socket, piece: bytes) -> bytes:
    """What the gateway says to a client that sends a piece every tenth of a second."""
    connection.settimeout(0.1)
    for _ in range(200):
        try:
            connection.sendall(piece)
            data = connection.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            return b""
        connection.settimeout(20)
        return data + everything(connection)
    raise AssertionError("nothing ends it")


@pytest.mark.parametrize("piece", [b"", b"\r\n"])
def test_a_connection_that_says_nothing_is_closed(connection: socket.socket, piece: bytes) -> None:
    assert trickled(connection, piece) == b""


def test_so_is_one_that_says_nothing_after_its_first_request(connection: socket.socket) -> None:
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: g\r\n\r\n")
    data = b""
    while not data.endswith(b"}"):
        data += connection.recv(65536)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert trickled(connection, b"\r\n") == b""


def test_a_connection_rests_longer_than_clients_keep_theirs_and_says_nothing_for_less() -> None:
    """httpx and with it the OpenAI SDK ask again after almost 5 s, nginx and AWS's balancers after almost 60."""
    limits = head_limits(Server())
    assert limits.idle_s > 60 + 10
    assert limits.silent_s == limits.head_s <= 10
    assert head_limits(Server(idle_s=2)).silent_s == 2


@pytest.mark.parametrize("path", WITH_BODY)
@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_a_body_that_trickles_is_refused_when_its_time_is_over(
    gateway: Running, connection: socket.socket, path: str, framing: str
) -> None:
    connection.sendall(head_of(gateway, path, framing))
    data = trickled(connection, b"1\r\nx\r\n" if "chunked" in framing else b"x")
    head = data.partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in head


def test_a_body_that_comes_at_its_rate_is_read_past_that_time(gateway: Running, connection: socket.socket) -> None:
    body = json.dumps(chat(model="small", metadata={"x": "y" * 400_000})).encode()
    connection.sendall(head_of(gateway, CHAT, f"Content-Length: {len(body)}"))
    for start in range(0, len(body), 40_000):
        connection.sendall(body[start : start + 40_000])
        time.sleep(0.2)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", WITH_BODY)
@pytest.mark.parametrize("declared", [True, False])
def test_the_limit_of_a_body_is_the_same_on_every_route(gateway: Running, path: str, declared: bool) -> None:
    key = ADMIN if path.startswith("/admin") else gateway.key
    content = b" " * (2 * 2**20) if declared else (b" " * 65536 for _ in range(32))
    answer = httpx.post(gateway.url + path, content=content, headers={"Authorization": f"Bearer {key}"}, timeout=20)
    assert answer.status_code == 413
    assert "1048576" in json.dumps(answer.json())


@pytest.mark.parametrize("path", [*WITH_BODY, "/v1/nothing", "/health"])
def test_nobody_without_a_key_has_a_body_read(gateway: Running, connection: socket.socket, path: str) -> None:
    """The whole of it is declared and some of it sent; the answer does not wait for the rest."""
    lines = ("Expect: 100-continue", f"Content-Length: {2**20 - 1}")
    connection.sendall(head_of(gateway, path, *lines, key="sk-nobody") + b"x" * 10_000)
    data = connection.recv(65536)
    assert data.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 404 ", b"HTTP/1.1 405 "))
    assert b"connection: close" in data.partition(b"\r\n\r\n")[0]
    everything(connection)


@pytest.mark.parametrize("path", WITH_BODY)
def test_150_megabytes_without_a_key_are_not_kept(gateway: Running, connection: socket.socket, path: str) -> None:
    before = psutil.Process(gateway.process.pid).memory_info().rss
    connection.sendall(head_of(gateway, path, "Transfer-Encoding: chunked", key="sk-nobody"))
    with contextlib.suppress(ConnectionError):
        for _ in range(150):
            connection.sendall(b"%x\r\n" % 2**20 + b"x" * 2**20 + b"\r\n")
    assert psutil.Process(gateway.process.pid).memory_info().rss - before < 30 * 2**20


def test_a_small_body_with_a_bad_key_leaves_the_connection_open(gateway: Running, connection: socket.socket) -> None:
    for _ in range(2):
        connection.sendall(head_of(gateway, CHAT, "Content-Length: 2", key="sk-nobody") + b"{}")
        data = b""
        while not data.endswith(b"}}"):
            data += connection.recv(65536)
        assert data.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" not in data


def test_connections_beyond_the_limit_of_their_address_are_told_and_closed(gateway: Running) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connected(gateway)) for _ in range(35)]
        found = [everything(each) for each in opened[-5:]]
        status, body = refused(found[-1])
        assert (status, body["error"]["code"]) == (503, "too_many_connections")
        assert "30 connections from this address" in body["error"]["message"]
    with connected(gateway) as later:
        later.sendall(b"GET /health HTTP/1.1\r\nHost: g\r\n\r\n")
        assert later.recv(65536).startswith(b"HTTP/1.1 200 ")


def asked(connection: socket.socket) -> bytes:
    """The head and all of the body of one answer."""
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: g\r\n\r\n")
    data = b""
    while not data.endswith(b"}"):
        more = connection.recv(65536)
        assert more, data
        data += more
    return data


def test_a_connection_between_two_requests_makes_room_for_a_new_one(gateway: Running) -> None:
    """The one that has rested longest; those that are served, or have not asked yet, stay."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connected(gateway)) for _ in range(30)]
        assert asked(opened[7]).startswith(b"HTTP/1.1 200 ")
        assert asked(opened[3]).startswith(b"HTTP/1.1 200 ")
        assert asked(opened[7]).startswith(b"HTTP/1.1 200 ")
        late = stack.enter_context(connected(gateway))
        assert asked(late).startswith(b"HTTP/1.1 200 ")
        assert opened[3].recv(1) == b"", "it rested longest"
        assert asked(opened[7]).startswith(b"HTTP/1.1 200 ")
        assert asked(opened[0]).startswith(b"HTTP/1.1 200 ")


def test_a_crowd_of_requests_behind_a_slow_one_waits_outside(gateway: Running, connection: socket.socket) -> None:
    """At most so many bytes are taken ahead of their turn; then the socket is not read."""
    body = json.dumps(chat(model="slow")).encode()
    connection.sendall(head_of(gateway, CHAT, f"Content-Length: {len(body)}") + body)
    connection.settimeout(1)
    before = psutil.Process(gateway.process.pid).memory_info().rss
    with contextlib.suppress(TimeoutError):
        for _ in range(2000):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: g\r\nx-filler: " + b"x" * 20_000 + b"\r\n\r\n")
        pytest.fail("it took 40 MB ahead")
    assert psutil.Process(gateway.process.pid).memory_info().rss - before < 20 * 2**20
    connection.settimeout(20)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_closes_its_side_has_left(gateway: Running, connection: socket.socket) -> None:
    body = json.dumps(chat(model="slow")).encode()
    connection.sendall(head_of(gateway, CHAT, f"Content-Length: {len(body)}") + body)
    connection.shutdown(socket.SHUT_WR)
    assert everything(connection) == b""


def test_what_follows_a_chunked_body_in_one_piece_is_the_next_request(
    gateway: Running, connection: socket.socket
) -> None:
    body = json.dumps(chat(model="small")).encode()
    chunked = head_of(gateway, CHAT, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    plain = head_of(gateway, CHAT, f"Content-Length: {len(body)}") + body
    closing = head_of(gateway, CHAT, "Connection: close", f"Content-Length: {len(body)}") + body
    connection.sendall(chunked + plain + chunked + closing)
    assert everything(connection).count(b"HTTP/1.1 200 ") == 4


SMUGGLED = {
    "both framings": "Content-Length: 4\r\nTransfer-Encoding: chunked",
    "both framings, the other way": "Transfer-Encoding: chunked\r\nContent-Length: 4",
    "two lengths": "Content-Length: 4\r\nContent-Length: 40",
    "a length that is none": "Content-Length: 4, 4",
    "a negative length": "Content-Length: -4",
    "a length in hexadecimal": "Content-Length: 0x4",
    "a length beyond all": "Content-Length: 99999999999999999999999",
    "an unknown coding": "Transfer-Encoding: xchunked",
    "a coding in two": "Transfer-Encoding: chunked, identity",
    "a coding behind a space": "Transfer-Encoding : chunked",
    "a folded coding": "Transfer-Encoding:\r\n chunked",
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_no_request_hides_in_the_body_of_another(gateway: Running, connection: socket.socket, what: str) -> None:
    inner = b"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer " + gateway.key.encode() + b"\r\n\r\n"
    connection.sendall(head_of(gateway, CHAT, *SMUGGLED[what].split("\r\n")) + b"0\r\n\r\n" + inner)
    data = everything(connection)
    assert data.count(b"HTTP/1.1 ") <= 1
    assert b'"object":"list"' not in data.replace(b" ", b"")
    assert b"HTTP/1.1 200" not in data


@pytest.mark.parametrize("what", SMUGGLED)
def test_what_is_no_http_is_told_so_and_counted(gateway: Running, connection: socket.socket, what: str) -> None:
    connection.sendall(head_of(gateway, CHAT, *SMUGGLED[what].split("\r\n")) + b"0\r\n\r\n")
    status, body = refused(everything(connection))
    assert (status, body["error"]["code"]) == (400, "invalid_http")
    assert 'code="invalid_http"' in httpx.get(f"{gateway.url}/metrics").text


CHUNKS = {
    "huge": b"ffffffffffffffff\r\n",
    "beyond": b"1" + b"0" * 40 + b"\r\n",
    "no number": b"xyz\r\n",
    "long": b"0" * 70_000,
}


@pytest.mark.parametrize("what", CHUNKS)
def test_a_chunk_of_an_impossible_size_ends_the_connection(
    gateway: Running, connection: socket.socket, what: str
) -> None:
    connection.sendall(head_of(gateway, CHAT, "Transfer-Encoding: chunked") + CHUNKS[what])
    data = everything(connection)
    assert b"HTTP/1.1 200" not in data


NOT_SERVED = {"the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "its beginning": b"PRI * HTTP/2.0\r\n\r\n"}
NOT_SERVED |= {"a tunnel": b"CONNECT a:443 HTTP/1.1\r\n\r\n", "a method of nobody": b"BREW /pot HTTP/1.1\r\n\r\n"}


@pytest.mark.parametrize("what", NOT_SERVED)
def test_a_method_that_is_not_served_is_told_so(connection: socket.socket, what: str) -> None:
    connection.sendall(NOT_SERVED[what])
    status, body = refused(everything(connection))
    assert (status, body["error"]["code"]) == (501, "method_not_served")


def test_another_version_of_http_is_answered_in_ours_and_the_connection_closed(connection: socket.socket) -> None:
    connection.sendall(b"GET /health HTTP/2.0\r\n\r\n")
    assert everything(connection).startswith(b"HTTP/1.1 ")


def test_what_comes_behind_a_body_is_the_next_request_or_nothing(gateway: Running, connection: socket.socket) -> None:
    body = json.dumps(chat(model="small")).encode()
    connection.sendall(head_of(gateway, CHAT, f"Content-Length: {len(body)}") + body + b"\x00\x01garbage\r\n\r\n")
    data = everything(connection)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.count(b"HTTP/1.1 400 ") == 1


def test_after_all_that_the_gateway_is_well(gateway: Running) -> None:
    with gateway_client(gateway) as client:
        assert client.post(CHAT, json=chat(model="small")).status_code == 200
    assert "Traceback" not in gateway.log.read_text()


def gateway_client(gateway: Running) -> httpx.Client:
    return httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=20)


def test_a_gateway_may_open_as_many_files_as_the_machine_lets_it() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        assert open_files(1) == []
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256
        (note,) = open_files(10**9)
        assert "server.max_connections (1000000000)" in note
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
