"""Clients that begin in HTTP/2, which is not spoken here, and Go's own client: each asks, streams and is refused."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from backends.scripted import Line, always
from benchmarks.scripted_server import ScriptedServer
from router.http.http2 import MOST_BYTES, PREFACE, frame, frames
from tests.http.conftest import Running, chat, serving, settings_for

CHAT = "/v1/chat/completions"
HEADERS, RST_STREAM, SETTINGS, DATA = 1, 3, 4, 0
REQUIRED = (13).to_bytes(4)
BODIES = [json.dumps(each) for each in (chat(), chat(stream=True), {**chat(), "model": "nobody"})]
STRANGE = (b"\x00", b"\x00" * 9, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)), b"\x00\x00\x00\x01" + b"\xff" * 5)
NODE = """
const session = require("http2").connect(process.argv[1]); session.on("error", () => {});
const stream = session.request({":path": "/v1/chat/completions", ":method": "POST"});
stream.on("error", e => console.log(e.message)); stream.on("close", () => session.destroy()); stream.end("{}");
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("http2")
    engine = ScriptedServer(always(Line(text="one two three")))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(engine):
        settings = settings_for(folder, {"small": engine}, server={"head_s": 2})
        with portal.wrap_async_context_manager(serving(folder, settings)) as running:
            yield running


@pytest.fixture
def connection(gateway: Running) -> Iterator[socket.socket]:
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as made:
        yield made


def told(connection: socket.socket) -> bytes:
    """All that comes until the gateway closes, or a reset ends it."""
    data = b""
    try:
        while more := connection.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


def test_every_stream_of_http2_is_told_that_http_1_1_is_required(connection: socket.socket) -> None:
    opening = PREFACE + frame(SETTINGS) + frame(HEADERS, 1, b"x" * 30)
    for at in range(0, len(opening), 26):  # the preface and a little, then piece by piece
        connection.sendall(opening[at : at + 26])
    connection.sendall(frame(DATA, 1, b"{}") + frame(HEADERS, 3, b"y"))
    refused = frame(RST_STREAM, 1, REQUIRED) + frame(RST_STREAM, 3, REQUIRED)
    assert told(connection) == frame(SETTINGS) + refused  # and closed, once nothing more is waited for


def test_a_client_of_http2_that_never_ends_is_cut(connection: socket.socket, gateway: Running) -> None:
    connection.sendall(PREFACE + frame(SETTINGS))
    try:
        for _ in range(MOST_BYTES // 1024 + 64):
            connection.sendall(b"\xff" * 1024)
    except OSError:
        pass
    assert told(connection) in (frame(SETTINGS), b"")
    assert httpx.get(f"{gateway.url}/health").status_code == 200


def test_whatever_stands_behind_the_preface_the_gateway_goes_on(gateway: Running) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    for behind in (
        b"\x00",
        b"\x00" * 9,
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(256)),
        b"\x00\x00\x00\x01" + b"\xff" * 5,
    ):
        with socket.create_connection((host, int(port)), 10) as made:
            made.sendall(PREFACE + behind)
            assert made.recv(9) == frame(SETTINGS)
    assert httpx.get(f"{gateway.url}/health").status_code == 200
    assert "Traceback" not in gateway.log.read_text()


def test_half_a_frame_is_waited_for() -> None:
    whole = frame(DATA, 5, b"abc") + frame(HEADERS, 7)
    assert [(each.kind, each.stream) for each in frames(whole)] == [(DATA, 5), (HEADERS, 7)]
    assert [each.kind for each in frames(whole[:-1])] == [DATA]


def curl_speaks_http2() -> bool:
    curl = shutil.which("curl")
    return curl is not None and b"HTTP2" in subprocess.run([curl, "-V"], capture_output=True, check=False).stdout


@pytest.mark.skipif(not curl_speaks_http2(), reason="needs a curl with HTTP/2: apt-get install curl")
@pytest.mark.parametrize("way", ["--http2", "--http2-prior-knowledge", "--http1.0", "--http1.1"])
def test_curl_is_answered_whatever_version_it_begins_with(gateway: Running, way: str) -> None:
    command = ["curl", "-sS", "-m", "20", way, "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {gateway.key}"]
    found = []
    for body in BODIES:
        done = subprocess.run(
            [*command, "-d", body, gateway.url + CHAT], capture_output=True, text=True, check=True, timeout=30
        )
        found.append(done.stdout.strip().splitlines())
    assert [lines[-1] for lines in found] == ["200", "200", "404"]
    assert json.loads(found[0][0])["choices"][0]["message"]["content"] == "one two three"
    assert "data: [DONE]" in found[1]
    assert json.loads(found[2][0])["error"]["code"] == "model_not_found"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node: apt-get install nodejs")
def test_nodes_http2_is_told_the_reason(gateway: Running) -> None:
    done = subprocess.run(["node", "-e", NODE, gateway.url], capture_output=True, text=True, check=False, timeout=30)
    assert "HTTP_1_1_REQUIRED" in done.stdout, done.stderr


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go: apt-get install golang-go")
def test_gos_own_client_is_answered(gateway: Running, tmp_path: Path) -> None:
    env = {**os.environ, "GO111MODULE": "off", "GOCACHE": str(tmp_path / "cache"), "GOPATH": str(tmp_path / "path")}
    program = str(Path(__file__).with_name("client.go"))
    done = subprocess.run(
        ["go", "run", program, gateway.url + CHAT, gateway.key, *BODIES],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    plain, stream, error = done.stdout.splitlines() if done.returncode == 0 else ["", "", done.stderr]
    assert plain.startswith("200 HTTP/1.1 "), error
    assert json.loads(plain.split(" ", 2)[2])["choices"][0]["message"]["content"] == "one two three"
    assert stream == "200 HTTP/1.1 data: [DONE]"
    assert error.startswith("404 HTTP/1.1 ")
    assert json.loads(error.split(" ", 2)[2])["error"]["code"] == "model_not_found"
