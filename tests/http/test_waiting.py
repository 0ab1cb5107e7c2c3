"""A second has a price where a tenant says so, and a request may bound how long its answer takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.conftest import chat, engine, serving, settings_for, until

pytestmark = pytest.mark.anyio
WORDS = "word " * 40
SECRETS = {name: f"sk-of-the-tenant-{name}" for name in ("patient", "hurried", "between")}
WORTH = {"patient": None, "hurried": 1.0, "between": 1e-9}
TENANTS = {name: {"latency_usd_per_s": WORTH[name], "keys": [{"secret": SECRETS[name]}]} for name in SECRETS}


def client_of(tenant: str, url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {SECRETS[tenant]}"}, timeout=30)


async def shown(client: httpx.AsyncClient, **routing: Any) -> dict[str, Any]:
    asked = chat("How long does it take?", max_tokens=40) | ({"routing": routing} if routing else {})
    found: dict[str, Any] = (await client.post("/v1/route", json=asked)).json()
    assert "candidates" in found, found
    return found | {"by": {each["model"]: each for each in found["candidates"]}}


async def test_two_speeds_are_told_apart_and_weigh_what_a_second_is_worth(tmp_path: Path) -> None:
    async with engine(text=WORDS, piece_delay_s=0.02) as slow, engine(text=WORDS) as quick:
        settings = settings_for(tmp_path, {"slow": slow, "quick": quick}, tenants=TENANTS)
        async with serving(tmp_path, settings) as gateway, client_of("patient", gateway.url) as patient:
            for model in ("slow", "quick") * 5:
                asked = chat("How long does it take?", max_tokens=40, stream=True) | {"model": model}
                assert (await patient.post("/v1/chat/completions", json=asked)).status_code == 200

            async def are_apart() -> bool:
                by = (await shown(patient))["by"]
                return bool(by["slow"]["delay_s"] > 3 * by["quick"]["delay_s"])

            await until(are_apart)
            found = await shown(patient)
            assert found["model"] == "slow"  # the cheapest
            assert "waiting_usd" not in found["by"]["slow"]
            async with client_of("hurried", gateway.url) as hurried, client_of("between", gateway.url) as between:
                pressed = await shown(hurried)
                assert pressed["model"] == "quick"
                assert pressed["by"]["slow"]["waiting_usd"] == pytest.approx(pressed["by"]["slow"]["delay_s"], rel=0.2)
                assert (await shown(between))["model"] == "slow"
            most = (found["by"]["slow"]["delay_s"] + found["by"]["quick"]["delay_s"]) / 2
            bounded = await shown(patient, max_delay_s=most)
            assert bounded["model"] == "quick"
            assert "over the request's max_delay_s" in bounded["by"]["slow"]["reason"]
            nobody = await patient.post(
                "/v1/chat/completions", json=chat("hello", max_tokens=40) | {"routing": {"max_delay_s": 1e-6}}
            )
            assert nobody.status_code in {400, 503}
            assert "max_delay_s" in nobody.text


@pytest.mark.parametrize("wrong", [0, -1, 1e9, "soon"])
async def test_a_bound_that_is_none_is_refused_by_its_path(tmp_path: Path, wrong: object) -> None:
    async with (
        engine() as only,
        serving(tmp_path, settings_for(tmp_path, {"m": only})) as gateway,
        gateway.client() as c,
    ):
        answer = await c.post("/v1/chat/completions", json=chat() | {"routing": {"max_delay_s": wrong}})
        assert answer.status_code == 400
        assert "max_delay_s" in answer.json()["error"]["message"]
