"""Answers are judged without being told, over HTTP: at whose expense, for whom, and what a broken judge costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.scripted_server import ScriptedServer
from router.types import Feedback, SettlementRecord
from tests.http.conftest import Running, chat, engine, logged, serving, settings_for, until

pytestmark = pytest.mark.anyio
ACME, PAYER = "sk-acme-00000000000000000001", "sk-payer-0000000000000000001"
RULES = [{"route": "small", "regex": r"^\d+$"}]


def settings(folder: Path, small: ScriptedServer, judge: ScriptedServer, **more: Any) -> dict[str, Any]:
    tenants: dict[str, Any] = {
        "acme": {"keys": [{"secret": ACME}], **more.pop("acme", {})},
        "payer": {"keys": [{"secret": PAYER}], "budgets": ["1000 USD per day"]},
    }
    learning = {"rules": RULES, "judge": {"models": ["judge"], "key": PAYER, "share": 1.0}, **more}
    return settings_for(folder, {"small": small, "judge": judge}, tenants=tenants, learning=learning)


async def ask(gateway: Running, *, stream: bool = False) -> str:
    """Ask small as acme and read to the end; the decision's id."""
    async with httpx.AsyncClient(base_url=gateway.url, headers={"Authorization": f"Bearer {ACME}"}) as client:
        body = chat("what is 6 * 7?") | {"model": "small", "stream": stream}
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200
        return answer.headers["x-pointsman-decision-id"]


async def said(folder: Path, decision_id: str) -> dict[str, Feedback]:
    entries = [entry async for _, entry in logged(folder)]
    return {e.source: e for e in entries if isinstance(e, Feedback) and e.decision_id == decision_id}


async def paid(folder: Path) -> list[str]:
    """Who paid for each answer of the judge."""
    entries = [entry async for _, entry in logged(folder)]
    return [e.tenant for e in entries if isinstance(e, SettlementRecord) and e.model == "judge" and e.cost]


@pytest.mark.parametrize("stream", [False, True])
async def test_rules_and_a_judge_that_another_tenant_pays_for_are_rows_in_the_log(tmp_path: Path, stream: bool) -> None:
    async with engine(text="42") as small, engine(text="9") as judge:
        async with serving(tmp_path, settings(tmp_path, small, judge)) as gateway:
            name = await ask(gateway, stream=stream)

            async def judged() -> bool:
                return {"validator:regex", "judge:judge"} <= (await said(tmp_path, name)).keys()

            await until(judged)
            found = await said(tmp_path, name)
            assert (found["validator:regex"].score, found["judge:judge"].score) == (1.0, 0.9)
            assert await paid(tmp_path) == ["payer"]


async def test_a_tenant_that_says_so_is_not_looked_at_from_the_next_reload_on(tmp_path: Path) -> None:
    async with engine(text="42") as small, engine(text="9") as judge:
        async with serving(tmp_path, settings(tmp_path, small, judge)) as gateway:
            gateway.rewrite(settings(tmp_path, small, judge, rules=[{"regex": "("}]))  # the old ones stay
            first = await ask(gateway)

            async def judged() -> bool:
                return "validator:regex" in await said(tmp_path, first)

            await until(judged)
            gateway.rewrite(settings(tmp_path, small, judge, acme={"learn_from": []}))

            async def quiet() -> bool:
                name = await ask(gateway)
                await ask(gateway)
                return not await said(tmp_path, name)

            await until(quiet)


@pytest.mark.parametrize("trouble", ["500", "garbage"])
async def test_a_broken_judge_costs_the_verdict_and_nothing_else(tmp_path: Path, trouble: str) -> None:
    broken = {"trouble": "500"} if trouble == "500" else {"text": "\x00 no number, no letter \u202e"}
    async with engine(text="42") as small, engine(**broken) as judge:
        async with serving(tmp_path, settings(tmp_path, small, judge)) as gateway:
            names = [await ask(gateway, stream=bool(i % 2)) for i in range(4)]

            async def graded() -> bool:
                return "validator:regex" in await said(tmp_path, names[-1])

            await until(graded)
            for name in names:
                assert "judge:judge" not in await said(tmp_path, name)
