"""What HTTP allows a client to do with its connection, in bytes: in pieces, in a row, of old, and gone."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, chat
from tests.http.module import candidates, gateway_over

CHAT = "/v1/chat/completions"
WORDS = "one two three"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("connections")
    script = by_model({"small": Line(text=WORDS), "slow": Line(text=WORDS, delay_s=0.3)})

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        return candidates(folder, engine, {"small": {}, "slow": {}}) | {"server": {"idle_s": 5}}

    with gateway_over(folder, script, settings) as (running, _):
        yield running


@pytest.fixture
def connection(gateway: Running) -> Iterator[socket.socket]:
    place = urlsplit(gateway.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as opened:
        yield opened


def message(
    gateway: Running,
    body: bytes,
    *,
    target: str = CHAT,
    version: str = "1.1",
    framing: str | None = None,
    more: str = "",
) -> bytes:
    """A request as it goes over the wire; its body follows as it is."""
    lines = [f"POST {target} HTTP/{version}", "Host: gateway", f"Authorization: Bearer {gateway.key}"]
    lines.append(framing or f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, more]).encode() + b"\r\n" + body


def asked(model: str = "small", **more: Any) -> bytes:
    return json.dumps(chat(model=model, **more)).encode()


def answers(connection: socket.socket, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """That many answers with a length or in chunks, as (status, headers, body), in the order they came."""
    found: list[tuple[int, dict[str, str], bytes]] = []
    data = b""
    while len(found) < count:
        head, gap, rest = data.partition(b"\r\n\r\n")
        whole = _body(head, rest) if gap else None
        if whole is None:
            more = connection.recv(65536)
            assert more, f"closed after {data!r}"
            data += more
            continue
        body, data = whole
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        found.append((int(lines[0].split()[1]), headers, body))
    assert data == b""
    return found


def _body(head: bytes, rest: bytes) -> tuple[bytes, bytes] | None:
    """The body and what follows it; None where it is not all there."""
    length = re.search(rb"content-length: (\d+)", head)
    if length is not None:
        size = int(length[1])
        return (rest[:size], rest[size:]) if len(rest) >= size else None
    if b"transfer-encoding: chunked" in head:
        whole, end, after = rest.partition(b"0\r\n\r\n")
        return (whole, after) if end else None
    return b"", rest  # 100 Continue


def text_of(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def test_requests_in_a_row_on_one_connection_are_answered_in_order(gateway: Running, connection: socket.socket) -> None:
    models = ["slow", "small", "small"]
    connection.sendall(b"".join(message(gateway, asked(model)) for model in models))
    found = answers(connection, 3)
    assert [(status, headers["x-pointsman-model"]) for status, headers, _ in found] == [(200, m) for m in models]


def test_other_routes_and_models_share_a_connection_in_order(gateway: Running, connection: socket.socket) -> None:
    health = b"GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n"
    connection.sendall(message(gateway, asked("slow")) + health + message(gateway, asked()) + health)
    found = answers(connection, 4)
    assert [headers.get("x-pointsman-model") for _, headers, _ in found] == ["slow", None, "small", None]


def test_a_body_may_come_byte_by_byte(gateway: Running, connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in message(gateway, asked()):
        connection.send(bytes([byte]))
    (status, _, body), *_ = answers(connection, 1)
    assert (status, text_of(body)) == (200, WORDS)


def test_a_body_may_come_in_chunks(gateway: Running, connection: socket.socket) -> None:
    body = asked()
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:])) + b"0\r\n\r\n"
    connection.sendall(message(gateway, chunks, framing="Transfer-Encoding: chunked"))
    assert answers(connection, 1)[0][0] == 200


@pytest.mark.parametrize("target", [CHAT + "?api-version=1", "http://gateway" + CHAT, "/v1/chat%2Fcompletions"])
def test_a_target_may_have_a_query_a_host_or_escapes(gateway: Running, connection: socket.socket, target: str) -> None:
    connection.sendall(message(gateway, asked(), target=target))
    assert answers(connection, 1)[0][0] == 200


def test_a_client_that_waits_for_a_word_gets_it_before_it_sends(gateway: Running, connection: socket.socket) -> None:
    body = asked()
    head = message(gateway, b"", framing=f"Content-Length: {len(body)}", more="Expect: 100-continue\r\n")
    connection.sendall(head)
    assert answers(connection, 1)[0][0] == 100
    connection.sendall(body)
    assert answers(connection, 1)[0][0] == 200


def test_a_client_that_waits_for_a_word_is_refused_before_it_sends(gateway: Running, connection: socket.socket) -> None:
    head = message(gateway, b"", framing=f"Content-Length: {2**30}", more="Expect: 100-continue\r\n")
    connection.sendall(head)
    status, _, body = answers(connection, 1)[0]
    assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")


def test_nobody_without_a_key_makes_the_gateway_read_a_long_body(gateway: Running, connection: socket.socket) -> None:
    head = message(gateway, b"", framing=f"Content-Length: {2**23}").replace(gateway.key.encode(), b"sk-nobody")
    connection.sendall(head + b"x" * 100_000)
    assert answers(connection, 1)[0][0] == 401


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_http_1_0_gets_the_answer_and_the_end_of_the_connection(
    gateway: Running, connection: socket.socket, stream: bool
) -> None:
    connection.sendall(message(gateway, asked(stream=stream), version="1.0"))
    data = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body.endswith(b"data: [DONE]\n\n") if stream else text_of(body) == WORDS


JAVA = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAABgAGAAA\r\n"


@pytest.mark.parametrize("stream", [False, True])
def test_an_offer_to_upgrade_is_ignored_and_the_request_answered(
    gateway: Running, connection: socket.socket, stream: bool
) -> None:
    """Java's own client offers HTTP/2 with every request; two of them share a connection."""
    for _ in range(2):
        connection.sendall(message(gateway, asked(stream=stream), more=JAVA + "Upgrade: h2c\r\n"))
        assert answers(connection, 1)[0][0] == 200
    connection.sendall(f"GET /health HTTP/1.1\r\nHost: g\r\n{JAVA}Upgrade: h2c\r\n\r\n".encode())
    assert answers(connection, 1)[0][0] == 200
    assert "upgrade" not in gateway.log.read_text().lower()


@pytest.mark.skipif(shutil.which("javac") is None, reason="needs a JDK: apt-get install openjdk-17-jdk-headless")
def test_javas_own_client_is_answered(gateway: Running) -> None:
    bodies = [asked(stream=stream).decode() for stream in (False, True, False)]
    program = [str(shutil.which("java")), str(Path(__file__).with_name("Client.java"))]
    command = [*program, gateway.url + CHAT, gateway.key, *bodies]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["200", "HTTP_1_1"]] * 3, done.stderr
    assert "[DONE]" in done.stdout


def test_an_offer_of_a_websocket_is_ignored_too(gateway: Running, connection: socket.socket) -> None:
    offer = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
    connection.sendall(f"GET /health HTTP/1.1\r\nHost: g\r\n{offer}\r\n".encode())
    assert answers(connection, 1)[0][0] == 200


def test_a_client_that_asks_for_it_has_its_connection_closed(gateway: Running, connection: socket.socket) -> None:
    connection.sendall(message(gateway, asked(), more="Connection: close\r\n"))
    status, headers, _ = answers(connection, 1)[0]
    assert (status, headers["connection"]) == (200, "close")
    assert connection.recv(1) == b""


def test_a_connection_nobody_uses_is_closed_but_not_before_its_time(
    gateway: Running, connection: socket.socket
) -> None:
    for _ in range(2):
        connection.sendall(message(gateway, asked()))
        assert answers(connection, 1)[0][0] == 200
        connection.settimeout(3.5)
        with pytest.raises(TimeoutError):  # the five seconds begin anew with each answer
            connection.recv(1)
    connection.settimeout(10)
    assert connection.recv(1) == b""


def test_what_is_no_http_is_refused_and_the_connection_closed(connection: socket.socket) -> None:
    connection.sendall(b"\x16\x03\x01\x02\x00hello\r\n\r\n")
    data = b"".join(iter(lambda: connection.recv(65536), b""))
    assert data.startswith(b"HTTP/1.1 400 ")
