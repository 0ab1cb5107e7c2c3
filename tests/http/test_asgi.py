"""The application is ASGI and no more: plain uvicorn with default settings serves it, under the usual middleware."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import uvicorn
import yaml
from anyio.from_thread import start_blocking_portal
from starlette.middleware.cors import CORSMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from router.http.app import App
from router.settings import load
from router.wiring import open_runtime
from tests.http.conftest import chat
from tests.http.module import candidates

CHAT = "/v1/chat/completions"
WORDS = "one two three"
ORIGIN = {"Origin": "https://app.example"}


def traced(app: Any) -> Any:
    """OpenTelemetry's middleware around it, as its instrumentation puts it there."""
    name = "opentelemetry.instrumentation.asgi"
    return pytest.importorskip(name, reason="needs the extra `test`").OpenTelemetryMiddleware(app)


def wrapped(app: Any) -> Any:
    behind_a_proxy: Any = ProxyHeadersMiddleware(traced(app), trusted_hosts="*")
    return CORSMiddleware(
        behind_a_proxy,
        allow_origins=["*"],
        allow_headers=["*"],
        allow_methods=["*"],
    )


@contextmanager
def plain_uvicorn(app: Any, **more: Any) -> Iterator[str]:
    """uvicorn as `uvicorn module:app` runs it."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, **more))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module", params=["bare", "wrapped"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    folder = tmp_path_factory.mktemp("asgi")
    lines = {"small": Line(text=WORDS), "slow": Line(text="word " * 500, piece_delay_s=0.02)}
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(ScriptedServer(by_model(lines))) as engine,
    ):
        open_to_all = {"auth": {"required": False}, "telemetry": {"open_to": "everyone"}}
        made = candidates(folder, engine, {"small": {}, "slow": {}}) | open_to_all
        (folder / "pointsman.yaml").write_text(yaml.safe_dump(made))
        app = App(partial(open_runtime, load(folder / "pointsman.yaml"), None))
        with plain_uvicorn(app if request.param == "bare" else wrapped(app)) as url:
            yield url, engine


@pytest.fixture
def client(served: tuple[str, Any]) -> Iterator[httpx.Client]:
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    with httpx.Client(base_url=served[0], headers=headers, timeout=30) as client:
        yield client


def test_a_plain_answer(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=chat(model="small"), headers=ORIGIN)
    assert answer.json()["choices"][0]["message"]["content"] == WORDS
    assert answer.headers["x-pointsman-model"] == "small"


def test_a_streamed_answer(client: httpx.Client) -> None:
    with client.stream("POST", CHAT, json=chat(model="small", stream=True), headers=ORIGIN) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]"


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/metrics"])
def test_every_other_route(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_a_refusal_and_a_body_over_the_limit(client: httpx.Client) -> None:
    assert client.post(CHAT, json=chat(model="nobody")).json()["error"]["code"] == "model_not_found"
    assert client.post(CHAT, content=b" " * (17 * 2**20)).status_code == 413


def test_a_client_that_hangs_up_cuts_the_engine_off(served: tuple[str, Any], client: httpx.Client) -> None:
    _, engine = served
    with client.stream("POST", CHAT, json=chat(model="slow", stream=True)) as answer:
        next(answer.iter_lines())
    for _ in range(500):
        if engine.hung_up.is_set():
            break
        threading.Event().wait(0.02)
    assert engine.hung_up.is_set()


def test_a_preflight_is_the_middlewares_to_answer(client: httpx.Client, request: pytest.FixtureRequest) -> None:
    asked = {**ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = client.options(CHAT, headers=asked)
    is_wrapped = "wrapped" in request.node.name
    assert answer.status_code == (200 if is_wrapped else 405)
    assert ("access-control-allow-origin" in answer.headers) == is_wrapped


def test_the_application_before_its_lifespan_says_that_it_is_not_open() -> None:
    app = App(lambda: pytest.fail("not opened"))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/health", "headers": []}
    asyncio.run(app(scope, lambda: pytest.fail("read"), send))
    assert sent[0]["status"] == 503
