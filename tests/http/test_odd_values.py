"""Values at the edge of what a type can hold are answered or refused with 400, on every route, and never fail."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from backends.scripted import Line, always
from benchmarks.scripted_server import ScriptedServer
from router.http.admin import _days
from router.stores.reports import SpendLine, as_csv
from tests.http.conftest import Running, chat
from tests.http.module import candidates, gateway_over

CHAT = "/v1/chat/completions"
ADMIN = "sk-admin-of-this-test"
LONE = "\\ud800"  # half of a pair of surrogates, as JSON may spell it
HI = '"messages":[{"role":"user","content":"hi"}]'


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("odd")

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        made = candidates(folder, engine, {"small": {}})
        made["backends"]["fake"] = {"kind": "scripted"}
        made["models"].append({**made["models"][0], "name": "fake", "backend": "fake"})
        return {**made, "auth": {"admin_key": ADMIN}}

    with gateway_over(folder, always(Line()), settings) as (running, _):
        yield running


def asked(gateway: Running, method: str, path: str, **more: Any) -> httpx.Response:
    key = ADMIN if path.startswith("/admin") else gateway.key
    headers = {"Authorization": f"Bearer {key}", "content-type": "application/json", **more.pop("headers", {})}
    return httpx.request(method, gateway.url + path, headers=headers, timeout=20, **more)


ADMIN_GETS = [
    "audit?after=abc",
    "audit?after=99999999999999999999999",
    "audit?after=-1",
    "audit?after=%00",
    "audit?after=1-2",
    "audit?after=%D9%A3",
    "audit?limit=99999999999999999999999",
    "keys?after=%ff",
    "tenants?after=%ed%a0%80",
    "tenants/%ed%a0%80",
    "keys/%00",
    "spend?since=0001-01-01",
    "spend?until=0001-01-02",
    "spend?since=9999-12-31&until=9999-12-31",
    "spend?since=2026-01-01&until=2020-01-01",
    "spend?since=1900-01-01&until=9999-12-31",
    "spend?since=20000-01-01",
    "spend?since=1e400",
    "spend?since=99999999999999999999",
    "budgets?tenant=%ed%a0%80",
]


@pytest.mark.parametrize("path", ADMIN_GETS)
def test_what_an_admin_may_ask_for(gateway: Running, path: str) -> None:
    assert asked(gateway, "GET", f"/admin/v1/{path}").status_code in {200, 400, 404}


KEYS = [
    f'{{"tenant":"a","expires_ms":{2**63}}}',
    '{"tenant":"a","expires_ms":-5}',
    '{"tenant":"a","expires_ms":1e400}',
    '{"tenant":"aLONE"}',
    '{"tenant":"a","name":"LONE"}',
    '{"tenant":"a","metadata":{"LONE":"x"}}',
    f'{{"tenant":"a","limits":[{{"requests_per_minute":{10**30}}}]}}',
    '{"tenant":"a","budgets":["1e400 USD per day"]}',
    '{"tenant":"a","name":"x\\u0000y"}',
]


@pytest.mark.parametrize("body", KEYS)
def test_what_a_key_may_be_made_of(gateway: Running, body: str) -> None:
    assert asked(gateway, "POST", "/admin/v1/keys", content=body.replace("LONE", LONE)).status_code in {201, 400, 404}


REQUESTS = [
    f'{{"model":"MODEL","n":{2**63},{HI}}}',
    f'{{"model":"MODEL","max_tokens":{2**70},{HI}}}',
    f'{{"model":"MODEL","seed":{2**80},{HI}}}',
    f'{{"model":"MODEL","temperature":1e400,{HI}}}',
    f'{{"model":"MODEL","stream":true,"stream_options":{{"x":1e400}},{HI}}}',
    f'{{"model":"MODEL","tools":[{{"type":"function","function":{{"name":"x","parameters":{{"a":1e400}}}}}}],{HI}}}',
    f'{{"model":"MODEL","response_format":{{"type":"json_schema","json_schema":{{"schema":{{"minimum":1e400}}}}}},{HI}}}',
    f'{{"model":"MODEL","metadata":1e400,{HI}}}',
    f'{{"model":"MODEL","metadata":{{"tags":["x"],"a":1e400}},{HI}}}',
    f'{{"model":"MODEL","tags":[1e400],{HI}}}',
    f'{{"model":"MODEL{LONE}",{HI}}}',
    f'{{"model":"MODEL","user":"{LONE}",{HI}}}',
    f'{{"model":"MODEL","{LONE}":1,{HI}}}',
    f'{{"model":"MODEL","messages":[{{"role":"user","content":"{LONE}"}}]}}',
    f'{{"model":"MODEL","routing":{{"max_cost_usd":1e308}},{HI}}}',
    f'{{"model":"MODEL","routing":{{"allowed_models":["{LONE}"]}},{HI}}}',
]


@pytest.mark.parametrize("body", REQUESTS)
@pytest.mark.parametrize("model", ["small", "fake"])
@pytest.mark.parametrize("path", [CHAT, "/v1/route"])
def test_what_a_request_may_hold(gateway: Running, path: str, model: str, body: str) -> None:
    answer = asked(gateway, "POST", path, content=body.replace("MODEL", model))
    assert answer.status_code in {200, 400, 404}, answer.text


FEEDBACK = [
    '{"decision_id":"LONE","score":1}',
    '{"response_id":"LONE","score":1}',
    '{"decision_id":"d","score":1e400}',
    '{"decision_id":"x\\u0000","score":1}',
    '{"decision_id":"d","score":1,"comment":"LONE"}',
]


@pytest.mark.parametrize("body", FEEDBACK)
def test_what_a_judgement_may_hold(gateway: Running, body: str) -> None:
    assert asked(gateway, "POST", "/v1/feedback", content=body.replace("LONE", LONE)).status_code in {400, 404}


@pytest.mark.parametrize("name", ["x-request-id", "x-session-id", "traceparent", "x-pointsman-preference"])
def test_what_a_header_may_hold(gateway: Running, name: str) -> None:
    for value in (b"\xff\xfe", "é".encode(), b"x" * 10_000, b""):
        answer = asked(gateway, "POST", CHAT, json=chat(model="small"), headers={name: value})
        assert answer.status_code == (400 if name == "x-pointsman-preference" else 200), answer.text


def test_a_report_over_far_dates_has_what_was_spent(gateway: Running) -> None:
    assert asked(gateway, "POST", CHAT, json=chat(model="small")).status_code == 200
    for dates in ("since=1900-01-01&until=9999-12-31", "since=2020-01-01", "until=9999-12-31", ""):
        assert asked(gateway, "GET", f"/admin/v1/spend?{dates}").json()["data"], dates


def test_days_to_come_are_not_looked_at() -> None:
    today = dt.date(2026, 1, 31)
    assert _days(dt.date(1900, 1, 1), dt.date.max, today) == (dt.date(1900, 1, 1), dt.date(2026, 2, 1))
    assert _days(None, None, today) == (dt.date(2026, 1, 2), today)
    assert _days(None, dt.date.min, today) == (dt.date.min, dt.date.min)


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_of_a_report_is_a_formula(name: str) -> None:
    line = SpendLine("2026-01-01", name, name, name, name, 1, 2, 3, 4)
    text = as_csv([line])
    assert f"'{name}" in text
    assert f",{name}" not in text
    assert (
        as_csv([SpendLine("2026-01-01", "a-b", "", "k", "m", 1, 2, 3, -4)])
        .splitlines()[1]
        .startswith("2026-01-01,a-b,")
    )


def test_nothing_of_this_failed(gateway: Running) -> None:
    assert "Traceback" not in gateway.log.read_text()
    assert json.loads(asked(gateway, "GET", "/ready").content)["status"] == "ready"


@pytest.mark.parametrize("path", ["keys?tenant=acme", "spend?form=2026-01-01", "audit?kind=x", "prices?name=small"])
def test_a_filter_that_is_none_is_named_instead_of_showing_everything(gateway: Running, path: str) -> None:
    refused = asked(gateway, "GET", f"/admin/v1/{path}")
    name = path.partition("?")[2].partition("=")[0]
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"] == name
    assert f"no query parameter '{name}'" in refused.json()["error"]["message"]
