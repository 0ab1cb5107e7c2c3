"""Whichever worker is asked, the page counts what all of them did, and what those did that are gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from router.telemetry.counts import MetricCounts, see
from router.telemetry.workers import Workers
from tests.http.conftest import Running, chat
from tests.http.module import candidates, gateway_over

CHAT = "/v1/chat/completions"
PROMTOOL = shutil.which("promtool")
KEY, ADMIN = "sk-acme-0123456789", "sk-admin-0123456789"
Found = dict[tuple[Any, ...], float]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("workers")

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        tenants = {"acme": {"budgets": ["5 USD per day"], "keys": [{"secret": KEY}]}}
        more = {"server": {"workers": 2}, "tenants": tenants, "auth": {"admin_key": ADMIN}}
        return {**candidates(folder, engine, {"one": {}}), **more}

    with gateway_over(folder, by_model({"one": Line(text="fine")}), settings) as (running, _):
        yield running


def ask(gateway: Running, count: int, key: str = KEY) -> set[int]:
    """Each over a connection of its own, so that both workers answer; their statuses."""

    def one(number: int) -> int:
        body = chat(f"question {number}", stream=number % 2 == 0)
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(gateway.url + CHAT, json=body, headers=headers, timeout=30).status_code

    with ThreadPoolExecutor(10) as pool:
        return set(pool.map(one, range(count)))


def page(gateway: Running) -> Found:
    """Values by name and sorted labels, as one fresh connection shows them."""
    families = text_string_to_metric_families(httpx.get(gateway.url + "/metrics", timeout=30).text)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def requests(code: str, reason: str, tenant_class: str) -> tuple[Any, ...]:
    return "pointsman_requests_total", ("code", code), ("reason", reason), ("tenant_class", tenant_class)


def grows_by(gateway: Running, before: Found, wanted: Found) -> None:
    """On each of some pages, since two workers take turns."""

    def shown() -> list[Found]:
        pages = [page(gateway) for _ in range(6)]
        return [{labels: found.get(labels, 0) - before.get(labels, 0) for labels in wanted} for found in pages]

    until(lambda: shown() == [wanted] * 6, shown)


def until(come: Callable[[], bool], shown: Callable[[], object]) -> None:
    due = time.monotonic() + 20
    while not come():
        assert time.monotonic() < due, shown()
        time.sleep(0.1)


def test_two_workers_and_thirty_requests_show_thirty(gateway: Running) -> None:
    before = page(gateway)
    assert ask(gateway, 30) == {200}
    assert ask(gateway, 4, "sk-nobody-0123456789") == {401}
    wanted = {
        requests("200", "ok", "tenant"): 30.0,
        requests("401", "invalid_api_key", "unknown"): 4.0,
        ("pointsman_answers_total", ("model", "one"), ("outcome", "settled")): 30.0,
        ("pointsman_request_seconds_count", ("path", CHAT)): 34.0,
        ("pointsman_overhead_seconds_count", ("path", CHAT)): 30.0,
        ("pointsman_holds",): 0.0,
    }
    grows_by(gateway, before, wanted)


def test_budgets_have_gauges_that_every_worker_shows_alike(gateway: Running) -> None:
    ask(gateway, 1)
    labels = ("hard", "true"), ("period", "day"), ("scope", "tenant:acme")
    for found in [page(gateway) for _ in range(4)]:
        assert found["pointsman_budget_limit_usd", *labels] == 5.0
        assert 0 < found["pointsman_budget_spent_usd", *labels] < 0.1
        assert found["pointsman_budget_reset_seconds", *labels] <= 86_400
        assert found["pointsman_learned_judgements",] == 0


def test_routes_that_call_no_model_are_counted_by_their_pattern(gateway: Running) -> None:
    before = page(gateway)
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        for number in range(3):
            client.get(f"/v1/models/none-{number}", headers={"Authorization": f"Bearer {KEY}"})
            client.get(f"/nowhere/{number}")
        assert client.get("/admin/v1/tenants", headers={"Authorization": f"Bearer {ADMIN}"}).status_code == 200
    wanted: Found = {}
    for code, route, count in (
        ("404", "/v1/models/{name:path}", 3.0),
        ("404", "other", 3.0),
        ("200", "/admin/v1/tenants", 1.0),
    ):
        wanted["pointsman_http_requests_total", ("code", code), ("method", "GET"), ("route", route)] = count
    grows_by(gateway, before, wanted)


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool")
def test_promtool_finds_nothing_to_mend(gateway: Running) -> None:
    ask(gateway, 6)
    text = httpx.get(gateway.url + "/metrics").content
    done = subprocess.run([str(PROMTOOL), "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_what_a_killed_worker_counted_stays_counted(gateway: Running) -> None:
    before = page(gateway)
    ask(gateway, 20)
    wanted = {requests("200", "ok", "tenant"): 20.0}
    grows_by(gateway, before, wanted)
    time.sleep(2.0)  # a worker keeps its counts once a second
    workers = [each for each in psutil.Process(gateway.process.pid).children() if "spawn_main" in str(each.cmdline())]
    assert len(workers) == 2
    os.kill(workers[0].pid, signal.SIGKILL)
    grows_by(gateway, before, wanted)


@pytest.mark.anyio
async def test_of_a_worker_that_is_gone_the_counts_count_and_the_gauges_do_not(tmp_path: Path) -> None:
    mine, other = MetricCounts(), MetricCounts(holds=3, backends={"vllm": False}, breakers={("vllm", "a"): "open"})
    mine.counter("answers")["one", "settled"] = 2
    other.counter("answers")["one", "settled"] = 40
    see(other.histograms.setdefault("request_seconds", {}), (CHAT,), 0.2)
    here, there = Workers(tmp_path, lambda: mine), Workers(tmp_path, lambda: other)
    async with here.open():
        async with there.open():
            both = await here.total()
        after = await here.total()
    assert (both.holds, both.backends, both.breakers) == (3, {"vllm": False}, {("vllm", "a"): "open"})
    assert (after.holds, after.backends, after.breakers) == (0, {}, {})
    for total in (both, after):
        assert total.counters["answers"] == {("one", "settled"): 42}
        assert total.histograms["request_seconds"][CHAT,][-1] == 0.2


@pytest.mark.anyio
async def test_what_lies_in_the_folder_and_is_no_worker_changes_nothing(tmp_path: Path) -> None:
    mine = MetricCounts(holds=1)
    for name, text in (("1.counts", b"\xc1"), ("2.counts", b""), ("note.txt", b"hello"), ("3.sock", b"")):
        (tmp_path / name).write_bytes(text)
    workers = Workers(tmp_path, lambda: mine)
    async with workers.open():
        assert (await workers.total()).holds == 1
