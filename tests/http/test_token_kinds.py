"""An engine that reports cached, written and reasoning tokens is charged by kind, and every page shows the kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.http.conftest import chat, engine, serving, settings_for, until

pytestmark = pytest.mark.anyio
USAGE = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920},
    "completion_tokens_details": {"reasoning_tokens": 280},
}
BESIDE = USAGE | {"prompt_tokens": 86, "total_tokens": 386}  # a prompt that does not count what its cache had
PRICE = {"prompt": 2.5, "cached": 1.25, "completion": 10}
ADMIN = "sk-admin-of-these-tests"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}
BILL = "0.005615"  # 86 x 2.5 + 1920 x 1.25 + 300 x 10, in millionths


@pytest.mark.parametrize("usage", [USAGE, BESIDE], ids=["within", "beside"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_what_a_provider_bills_for_cached_tokens_is_what_the_tenant_pays(
    tmp_path: Path, stream: bool, usage: dict[str, Any]
) -> None:
    async with engine(text="word " * 60, usage=usage) as only:
        settings = settings_for(tmp_path, {"m": only}, auth={"admin_key": ADMIN})
        settings["models"][0]["price"] = PRICE
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            asked = chat("hello " * 1500) | {"stream": stream}
            answer = await client.post("/v1/chat/completions", json=asked)
            assert answer.status_code == 200
            if not stream:
                assert answer.headers["x-pointsman-cost-usd"] == BILL

            async def row() -> dict[str, Any]:
                said = (await client.get("/admin/v1/spend?by=tenant", headers=AS_ADMIN)).json()
                found = said["data"]
                return found[0] if found else {}

            async def is_charged() -> bool:
                return bool(await row())

            await until(is_charged)
            line = await row()
            assert (line["cost_nanousd"], line["cached"], line["reasoning"]) == (5_615_000, 1920, 280)
            csv = (await client.get("/admin/v1/spend?by=tenant&format=csv", headers=AS_ADMIN)).text.splitlines()
            assert "reasoning" in csv[0].split(",")


@pytest.mark.parametrize("marked", [True, False], ids=["asked for", "not asked for"])
async def test_a_written_cache_that_nobody_priced_is_charged_as_providers_do_where_it_was_asked_for(
    tmp_path: Path, marked: bool
) -> None:
    usage: dict[str, Any] = {"prompt_tokens": 2000, "completion_tokens": 60, "total_tokens": 2060}
    usage |= {"prompt_tokens_details": {"cache_write_tokens": 1600}}
    async with engine(text="word " * 60, usage=usage) as only:
        settings = settings_for(tmp_path, {"m": only}, auth={"admin_key": ADMIN})
        settings["models"][0]["price"] = {"prompt": 100, "completion": 0}
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            part = {"type": "text", "text": "hello " * 1500} | (
                {"cache_control": {"type": "ephemeral"}} if marked else {}
            )
            asked = chat() | {"messages": [{"role": "user", "content": [part]}], "max_tokens": 100}
            answer = await client.post("/v1/chat/completions", json=asked)
            audit = (await client.get("/admin/v1/audit", headers=AS_ADMIN)).json()["data"]
    assert answer.headers["x-pointsman-cost-usd"] == ("0.24" if marked else "0.2")  # 400 + 1600 x 1.25, in 10,000ths
    assert "hold.over" not in [each["kind"] for each in audit]
