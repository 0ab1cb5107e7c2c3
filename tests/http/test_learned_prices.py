"""Machines whose price is known: routing follows what tokens are measured to cost, tenants pay list prices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from policies.estimators.machine_time import KEPT
from tests.http.conftest import chat, serving, settings_for, until

pytestmark = pytest.mark.anyio

TOKENS = 50
LIST_USD = {"first": 1e-6, "second": 10e-6}  # for a token, as settings_for prices them
DELAYS = {"first": 0.15, "second": 0.03}


def script(delays: Mapping[str, float]) -> Any:
    """Every answer takes as long as `delays` says now."""
    return lambda model, _body: Line(completion_tokens=TOKENS, prompt_tokens=10, delay_s=delays[model])


def with_machine_rate(folder: Path, engine: ScriptedServer, usd_per_hour: float | None = 1.8) -> dict[str, Any]:
    settings = settings_for(folder, {"first": engine, "second": engine})
    for section in settings["backends"].values():
        section["machine_usd_per_hour"] = usd_per_hour
    return settings


async def ask(client: httpx.AsyncClient, model: str, count: int, *, at_once: int = 1) -> None:
    for _ in range(count // at_once):
        answers = await asyncio.gather(
            *(client.post("/v1/chat/completions", json=chat(model=model)) for _ in range(at_once))
        )
        assert {answer.status_code for answer in answers} == {200}


async def candidates(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    decision = (await client.post("/v1/route", json=chat())).json()
    return {each["model"]: each for each in decision["candidates"]}


async def learned(client: httpx.AsyncClient, count: int) -> dict[str, dict[str, float]]:
    """Prices once this many answers of both are taken in."""

    async def known() -> bool:
        return all(each["learned_price"]["answers"] >= count for each in (await candidates(client)).values())

    await until(known)
    return {name: each["learned_price"] for name, each in (await candidates(client)).items()}


async def test_traffic_goes_where_a_token_is_measured_to_be_cheap_and_follows_when_that_changes(tmp_path: Path) -> None:
    delays = dict(DELAYS)
    async with ScriptedServer(script(delays), models=[]) as engine:
        async with serving(tmp_path, with_machine_rate(tmp_path, engine)) as gateway, gateway.client() as client:
            for model in DELAYS:
                await ask(client, model, 8)
            await learned(client, 8)
            answer = await client.post("/v1/chat/completions", json=chat())
            assert answer.headers["x-pointsman-model"] == "second"  # ten times as expensive by the list
            delays |= {"first": 0.01}
            await ask(client, "first", KEPT)
            await learned(client, 8)

            async def shifted() -> bool:
                return bool((await client.post("/v1/route", json=chat())).json()["model"] == "first")

            await until(shifted)


async def test_the_learned_price_is_the_machine_s_time_at_its_rent(tmp_path: Path) -> None:
    async with ScriptedServer(script(DELAYS), models=[]) as engine:
        async with serving(tmp_path, with_machine_rate(tmp_path, engine)) as gateway, gateway.client() as client:
            took_s = {}
            for model in DELAYS:
                began = time.monotonic()
                await ask(client, model, KEPT, at_once=4)
                took_s[model] = time.monotonic() - began
            prices = await learned(client, KEPT)
            for model, delay_s in DELAYS.items():
                usd = (10 * prices[model]["prompt"] + TOKENS * prices[model]["completion"]) / 1e6
                machine_s = KEPT * usd / (1.8 / 3600)
                assert delay_s * KEPT / 4 <= machine_s <= 1.1 * took_s[model]  # four at once share the machine
            expected = (await candidates(client))["first"]["cost_usd"]
            assert expected == pytest.approx(TOKENS * prices["first"]["completion"] / 1e6, rel=0.5)


async def test_tenants_pay_list_prices_all_the_same(tmp_path: Path) -> None:
    async with ScriptedServer(script(DELAYS), models=[]) as engine:
        async with serving(tmp_path, with_machine_rate(tmp_path, engine)) as gateway, gateway.client() as client:
            for model, usd in LIST_USD.items():
                answer = await client.post("/v1/chat/completions", json=chat(model=model))
                assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx((10 + TOKENS) * usd)


async def test_a_gateway_that_starts_again_knows_the_same_prices_from_the_log(tmp_path: Path) -> None:
    async with ScriptedServer(script(DELAYS), models=[]) as engine:
        async with serving(tmp_path, with_machine_rate(tmp_path, engine)) as gateway, gateway.client() as client:
            for model in DELAYS:
                await ask(client, model, 8, at_once=2)
            before = await learned(client, 8)
        async with serving(tmp_path, with_machine_rate(tmp_path, engine)) as gateway, gateway.client() as client:
            assert await learned(client, 8) == before


async def test_the_metrics_page_tells_the_learned_prices(tmp_path: Path) -> None:
    async with ScriptedServer(script(DELAYS), models=[]) as engine:
        async with serving(tmp_path, with_machine_rate(tmp_path, engine)) as gateway, gateway.client() as client:
            for model in DELAYS:
                await ask(client, model, 2)
            prices = await learned(client, 2)

            async def reported() -> bool:
                page = (await client.get("/metrics")).text
                samples = {
                    (each.name, *sorted(each.labels.values())): each.value
                    for family in text_string_to_metric_families(page)
                    for each in family.samples
                }
                found = samples.get(("pointsman_learned_price_usd", "completion", "first"))
                return found == pytest.approx(prices["first"]["completion"])

            await until(reported)


async def test_a_backend_s_machine_gets_a_price_while_it_runs(tmp_path: Path) -> None:
    async with ScriptedServer(script(DELAYS), models=[]) as engine:
        async with serving(tmp_path, with_machine_rate(tmp_path, engine, None)) as gateway, gateway.client() as client:
            assert all("learned_price" not in each for each in (await candidates(client)).values())
            gateway.rewrite(with_machine_rate(tmp_path, engine))

            async def priced() -> bool:
                return all("learned_price" in each for each in (await candidates(client)).values())

            await until(priced)
