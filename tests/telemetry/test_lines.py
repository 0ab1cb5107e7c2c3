"""A line for each request says who asked and what came of it, and never what was asked or with which secret."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from router.gateway.types import ServedRequest
from router.telemetry.logs import JsonLines, RequestLines, TextLines, configure, line_of
from tests.http.conftest import Running, chat
from tests.http.module import candidates, gateway_over

CHAT = "/v1/chat/completions"
KEY, ADMIN = "sk-hushhush-acme-key", "sk-hushhush-admin-key"
PROMPT, ANSWER = "the prompt is violets", "the answer is roses"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("lines")
    script = by_model(
        {"small": Line(text=ANSWER), "bad": Line(trouble="500"), "cut": Line(ANSWER, trouble="reset", trouble_after=2)}
    )

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        tenants = {"acme": {"teams": {"red": {}}, "keys": [{"secret": KEY, "team": "red", "name": "laptop"}]}}
        made = candidates(folder, engine, {"small": {}, "bad": {}, "cut": {}})
        return {**made, "tenants": tenants, "auth": {"admin_key": ADMIN}, "log": {"keep_text": True}}

    with gateway_over(folder, script, settings) as (running, _):
        yield running


def lines(gateway: Running) -> list[dict[str, Any]]:
    """All that was logged: JSON, every line of it."""
    return [json.loads(line) for line in gateway.log.read_text().splitlines() if line.startswith("{")]


def line_with(gateway: Running, request_id: str) -> dict[str, Any]:
    """The only line of a request, once it is there."""
    found: list[dict[str, Any]] = []

    def come() -> bool:
        found[:] = [line for line in lines(gateway) if line.get("request_id") == request_id]
        return bool(found)

    wait(come)
    (line,) = found
    return line


def wait(come: Callable[[], bool]) -> None:
    due = time.monotonic() + 10
    while not come():
        assert time.monotonic() < due, "it did not come"
        time.sleep(0.05)


def ask(gateway: Running, request_id: str, key: str = KEY, **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}", "x-request-id": request_id}
    return httpx.post(gateway.url + CHAT, headers=headers, json=chat(PROMPT) | more, timeout=30)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_has_a_line_with_what_it_cost_and_where_its_time_went(gateway: Running, stream: bool) -> None:
    answer = ask(gateway, f"answered-{stream}", model="small", stream=stream)
    line = line_with(gateway, f"answered-{stream}")
    assert {
        key: line[key] for key in ("status", "reason", "tenant", "team", "key", "model", "asked_for", "stream")
    } == {
        "status": 200,
        "reason": "ok",
        "tenant": "acme",
        "team": "red",
        "key": "laptop",
        "model": "small",
        "asked_for": "small",
        "stream": stream,
    }
    assert line["decision_id"] == answer.headers["x-pointsman-decision-id"]
    assert line["tokens"]["prompt"] > 0
    assert line["tokens"]["completion"] > 0
    assert line["cost_usd"] > 0
    if not stream:
        assert line["cost_usd"] == float(answer.headers["x-pointsman-cost-usd"])
    assert line["stages_ms"]["first_byte"] <= line["ms"]
    assert line["overhead_ms"] <= line["ms"]
    assert line["time"].endswith("Z")


def test_refusals_have_lines_too(gateway: Running) -> None:
    assert ask(gateway, "no-key", "sk-hushhush-nobody").status_code == 401
    assert ask(gateway, "no-model", model="nobody").status_code == 404
    assert ask(gateway, "no-engine", model="bad").status_code == 502
    ask(gateway, "broken", model="cut", stream=True)
    reported = [line_with(gateway, name) for name in ("no-key", "no-model", "no-engine", "broken")]
    assert [(line["status"], line["reason"], line.get("tenant"), line["level"]) for line in reported] == [
        (401, "invalid_api_key", None, "info"),
        (404, "model_not_found", "acme", "info"),
        (502, "upstream_failed", "acme", "error"),
        (200, "stream_broken", "acme", "info"),
    ]


def test_other_routes_have_lines_but_for_what_is_asked_every_second(gateway: Running) -> None:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    with httpx.Client(base_url=gateway.url) as client:
        for path in ("/health", "/ready", "/metrics"):
            assert client.get(path, headers={"x-request-id": "quiet"}).status_code == 200
        client.put("/admin/v1/tenants/blue", json={}, headers={**headers, "x-request-id": "made"})
        client.get("/nowhere", headers={"x-request-id": "lost"})
        unnamed = client.get("/v1/models", headers=headers).headers["x-request-id"]
    made, lost = line_with(gateway, "made"), line_with(gateway, "lost")
    assert (made["method"], made["path"], made["status"]) == ("PUT", "/admin/v1/tenants/blue", 200)
    assert made["key"] == "admin"
    assert (lost["status"], lost["reason"]) == (404, "unknown_url")
    assert line_with(gateway, unnamed)["path"] == "/v1/models"
    assert not [line for line in lines(gateway) if line.get("request_id") == "quiet"]


def test_what_is_refused_before_it_is_a_request_has_a_line(gateway: Running) -> None:
    place = urlsplit(gateway.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/messages HTTP/1.1\r\nx: " + b"x" * 70_000 + b"\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")
    wait(lambda: ("/v1/messages", "head_too_large") in [(x.get("path"), x.get("reason")) for x in lines(gateway)])


def test_who_hangs_up_is_in_the_log(gateway: Running) -> None:
    place, body = urlsplit(gateway.url), b"{"
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: g\r\nx-request-id: gone\r\nx-api-key: {KEY}\r\nContent-Length: 99\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        time.sleep(0.2)
    line = line_with(gateway, "gone")
    assert (line["status"], line["reason"]) == (499, "client_gone")


def test_neither_prompts_nor_answers_nor_secrets_are_in_the_log(gateway: Running) -> None:
    ask(gateway, "last", model="small")
    ask(gateway, "with-bad-fields", model="small", temperature=PROMPT, routing={"preference": PROMPT})
    line_with(gateway, "with-bad-fields")
    said = gateway.log.read_text()
    assert [secret for secret in ("hushhush", "violets", "roses") if secret in said] == []


def test_every_line_that_the_program_logs_is_an_object(gateway: Running) -> None:
    ask(gateway, "any", model="small")
    line_with(gateway, "any")
    said = gateway.log.read_text().splitlines()
    banner = [line for line in said if not line.startswith("{")]
    assert not [line for line in banner if "INFO" in line or "WARNING" in line or "ERROR" in line]


def record(line: dict[str, Any] | None, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("pointsman", logging.WARNING, __file__, 1, "%s is down", ("vllm",), None)
    made.__dict__.update(more | ({} if line is None else {"pointsman_lines": [line]}))
    return made


def request(**more: Any) -> ServedRequest:
    fields = {"method": "POST", "path": CHAT, "request_id": "req-1", "status": 429, "reason": "rate_limit_exceeded"}
    return ServedRequest(**{"at": 0.0, "seconds": 0.25, "principal": None, **fields, **more})


def test_people_read_plain_text() -> None:
    text = TextLines().format(record(line_of(request())))
    assert text == f"00:00:00  429  POST  {CHAT}  rate_limit_exceeded  250 ms  req-1"
    assert TextLines().format(record(None)).endswith("WARNING pointsman: vllm is down")


def test_what_a_client_chose_moves_no_cursor_and_begins_no_line() -> None:
    hostile = request(request_id='\x1b[2J\n{"status":200}' + "x" * 10_000, path="/a\r\nb")
    text = TextLines().format(record(line_of(hostile)))
    assert text.isprintable()
    assert len(text) < 600
    assert "\n" not in JsonLines().format(record(line_of(hostile)))


@pytest.mark.parametrize(("form", "terminal", "formatter"), [
    ("auto", True, TextLines),
    ("auto", False, JsonLines),
    ("json", True, JsonLines),
    ("text", False, TextLines),
])  # fmt: skip
def test_a_terminal_gets_text_and_the_rest_json(
    monkeypatch: pytest.MonkeyPatch, form: str, terminal: bool, formatter: type[logging.Formatter]
) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("uvicorn.error").level
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    try:
        configure("info", form)
        assert isinstance(root.handlers[0].formatter, formatter)
    finally:
        root.handlers[:], level, uvicorn = before
        root.setLevel(level)
        logging.getLogger("uvicorn.error").setLevel(uvicorn)


def test_lines_that_nobody_writes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.telemetry.logs.MOST_WAITING", 10)
    waiting = RequestLines().waiting
    waiting.extend(request(status=number) for number in range(100))
    assert len(waiting) == 10


def test_no_line_is_written_where_the_settings_want_none(tmp_path: Path) -> None:
    with gateway_over(
        tmp_path,
        by_model({"small": Line(text=ANSWER)}),
        lambda engine: {**candidates(tmp_path, engine, {"small": {}}), "telemetry": {"access_log": False}},
    ) as (running, _):
        ask(running, "silent", running.key, model="small")
        time.sleep(0.5)
        assert "silent" not in running.log.read_text()
