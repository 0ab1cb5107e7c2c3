"""What the gateway knows of itself: its own time apart from its engines', how late its loop is, and whom it refused."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from anyio.from_thread import start_blocking_portal

from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from router.gateway.types import Timings
from router.http.app import App
from router.http.connections import Connection
from router.settings import load
from router.telemetry.metrics import MOST_REFUSALS, PrometheusMetrics
from router.wiring import open_runtime
from tests.http.conftest import Running, chat
from tests.http.module import candidates, gateway_over
from tests.http.test_asgi import plain_uvicorn

CHAT = "/v1/chat/completions"
WAIT_S = 2.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("seen")
    script = by_model(
        {"small": Line(text="fine"), "slow": Line(text="late", delay_s=WAIT_S), "bad": Line(trouble="500")}
    )

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        made = candidates(folder, engine, {"small": {}, "slow": {}, "bad": {}})
        made["backends"]["slow"]["timeouts"]["first_byte_s"] = 30
        limited = {"secret": "sk-limited-key", "limits": {"requests_per_minute": 1}}
        tenants = {"acme": {"keys": [limited, {"secret": "sk-acme-key"}]}}
        return {**made, "tenants": tenants}

    with gateway_over(folder, script, settings) as (running, _):
        yield running


def refusals(gateway: Running) -> dict[tuple[str, str, str], float]:
    """Counts by (status, code, tenant)."""
    found = {}
    for line in httpx.get(gateway.url + "/metrics").text.splitlines():
        if line.startswith("pointsman_refusals_total{"):
            labels, _, count = line.partition("{")[2].rpartition("} ")
            named = dict(each.split("=", 1) for each in labels.replace('"', "").split(","))
            found[named["status"], named["code"], named["tenant"]] = float(count)
    return found


def test_refusals_are_counted_by_status_code_and_tenant(gateway: Running) -> None:
    before = refusals(gateway)

    def ask(key: str, path: str = CHAT, **more: Any) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(gateway.url + path, headers=headers, timeout=30, **more).status_code

    assert ask("sk-nobody", json=chat(model="small")) == 401
    assert ask("sk-nobody", "/v1/feedback", json={}) == 401
    assert ask("sk-acme-key", json=chat(model="nobody")) == 404
    assert ask("sk-acme-key", content=b"{") == 400
    assert ask("sk-acme-key", "/v1/feedback", json={"decision_id": "x", "score": 1}) == 404
    assert ask("sk-acme-key", content=b" " * (17 * 2**20)) == 413
    assert ask("sk-acme-key", json=chat(model="bad")) == 502
    assert ask("sk-limited-key", json=chat(model="small")) == 200
    assert ask("sk-limited-key", json=chat(model="small")) == 429
    counted = {labels: count - before.get(labels, 0) for labels, count in refusals(gateway).items()}
    assert {labels: count for labels, count in counted.items() if count} == {
        ("401", "invalid_api_key", ""): 2,
        ("404", "model_not_found", "acme"): 1,
        ("400", "invalid_json", "acme"): 1,
        ("404", "not_found", "acme"): 1,
        ("413", "too_large", "acme"): 1,
        ("502", "upstream_failed", "acme"): 1,
        ("429", "rate_limit_exceeded", "acme"): 1,
    }


def test_what_is_refused_before_it_is_a_request_is_counted_too(gateway: Running) -> None:
    before = refusals(gateway).get(("431", "head_too_large", ""), 0)
    place = urlsplit(gateway.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/messages HTTP/1.1\r\nx: " + b"x" * 70_000 + b"\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")
    assert refusals(gateway)["431", "head_too_large", ""] == before + 1


def test_labels_are_bounded_whatever_engines_call_their_errors() -> None:
    metrics = PrometheusMetrics()
    metrics.turned_away(400, 'a"b\n', "acme")
    metrics.turned_away(400, "x" * 5000, "acme")
    for number in range(MOST_REFUSALS + 10):
        metrics.turned_away(400, f"code_{number}", "acme")
    page = metrics.text().decode()
    assert 'pointsman_refusals_total{code="other",status="400",tenant="acme"} 2.0' in page.replace(
        'status="400",code="other"', 'code="other",status="400"'
    )
    assert page.count("pointsman_refusals_total{") <= MOST_REFUSALS + 1


def test_the_lag_of_the_loop_is_published(gateway: Running) -> None:
    page = httpx.get(gateway.url + "/metrics").text
    (count,) = [line for line in page.splitlines() if line.startswith("pointsman_loop_lag_seconds_count")]
    assert float(count.split()[-1]) > 0


@pytest.mark.parametrize("stream", [False, True])
def test_neither_the_engines_time_nor_the_clients_is_ours(gateway: Running, stream: bool) -> None:
    """The engine takes its time before its answer, and the client as much before the rest of its body."""
    place, body = urlsplit(gateway.url), json.dumps(chat(model="slow", stream=stream)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: g\r\nx-api-key: sk-acme-key\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        connection.sendall(head.encode() + body[:10])
        time.sleep(WAIT_S)
        connection.sendall(body[10:])
        data = connection.recv(65536)
    assert data.startswith(b"HTTP/1.1 200 ")
    overhead_ms = float(data.partition(b"x-pointsman-overhead-ms: ")[2].partition(b"\r\n")[0])
    assert 0 < overhead_ms < WAIT_S * 1000


@pytest.mark.parametrize("stream", [False, True])
def test_what_waits_for_our_loop_is_ours(tmp_path: Path, stream: bool) -> None:
    """Something keeps the loop between the arrival of a request and its handler, and again when the answer comes."""

    def busy(app: Any) -> Any:
        async def keeping(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                time.sleep(0.2)  # noqa: ASYNC251  (it is to block)
            await app(scope, receive, send)

        return keeping

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(ScriptedServer(by_model({"small": Line(text="fine")}))) as engine,
    ):
        made = candidates(tmp_path, engine, {"small": {}}) | {"auth": {"required": False}}
        (tmp_path / "pointsman.yaml").write_text(yaml.safe_dump(made))
        app = App(partial(open_runtime, load(tmp_path / "pointsman.yaml"), None))
        with plain_uvicorn(busy(app), http=Connection) as url:
            answer = httpx.post(url + CHAT, json=chat(model="small", stream=stream), timeout=30)
    assert float(answer.headers["x-pointsman-overhead-ms"]) >= 200


def test_what_an_engine_took_by_its_socket_is_its_own_and_the_rest_ours() -> None:
    timings = Timings()
    timings.at -= 10.0
    timings.mark_answer(4.0)
    assert timings.spent["first_byte"] == 4.0
    assert timings.spent["wake"] >= 6.0
    timings.at -= 1.0
    timings.mark_answer(None)
    assert timings.spent["first_byte"] >= 5.0
    timings.mark_answer(1e9)  # a socket of another clock
    assert sum(timings.spent.values()) < 12.0
