"""A model that joins while the gateway runs is learned at every refit, and a restart changes no decision."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.types import DecisionRecord
from tests.http.conftest import chat, engine, followed, logged, serving, settings_for, until

pytestmark = pytest.mark.anyio
SCORES = {"small": 0.3, "large": 0.5, "late": 0.95}


async def judge(client: httpx.AsyncClient, model: str, count: int, first: int) -> None:
    for i in range(first, first + count):
        answer = await client.post("/v1/chat/completions", json=chat(f"question {i}") | {"model": model})
        judged = {"decision_id": answer.headers["x-pointsman-decision-id"], "score": SCORES[model]}
        assert (await client.post("/v1/feedback", json=judged)).json()["recorded"]


async def candidates(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    """What /v1/route says of a query that nothing is like, by model."""
    found = (await client.post("/v1/route", json=chat("zyx wvu"))).json()["candidates"]
    return {each["model"]: each for each in found}


async def last_version(folder: Path) -> str:
    """Of the policy, at the decision logged last."""
    return [entry async for _, entry in logged(folder) if isinstance(entry, DecisionRecord)][-1].version


def fitted_on(version: str) -> int:
    """Judgements that the policy was last refitted on."""
    return int(version.partition("+")[2].split(" ")[0])


async def test_a_model_that_joins_by_reload_is_not_forgotten_at_the_next_refit(tmp_path: Path) -> None:
    async with engine(text="one") as small, engine(text="two") as large, engine(text="three") as late:
        more: dict[str, Any] = {"policy": {"name": "neighbours"}, "preference": 1.0}
        engines = {"small": small, "large": large}
        async with serving(tmp_path, settings_for(tmp_path, engines, **more)) as gateway, gateway.client() as client:
            for model in engines:
                await judge(client, model, 30, first=0)
            asked = chat("zyx wvu") | {"routing": {"preference": 0.25}}
            shown = (await client.post("/v1/route", json=asked)).json()
            assert (shown["preference"], shown["lambda_per_usd"]) == (0.25, pytest.approx(9000.0))
            gateway.rewrite(settings_for(tmp_path, engines | {"late": late}, **more))
            await until(lambda: has(client, "late"))
            await judge(client, "late", 140, first=100)

            more_asked = []

            async def refitted() -> bool:
                more_asked.append("anything")
                await client.post("/v1/chat/completions", json=chat("anything"))
                return fitted_on(await last_version(tmp_path)) >= 60 + 40

            await until(refitted)
            await until(lambda: followed(client, tmp_path, answers=30 * 2 + 140 + len(more_asked)))
            known = await candidates(client)
            assert known["late"]["quality"] > 0.85 > known["large"]["quality"]
        settings = settings_for(tmp_path, engines | {"late": late}, **more)
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            again = await candidates(client)
            reported = ("quality", "sigma", "cost_usd", "score", "probability")
            assert [[each[key] for key in reported] for each in again.values()] == [
                [each[key] for key in reported] for each in known.values()
            ]


async def has(client: httpx.AsyncClient, name: str) -> bool:
    return name in await candidates(client)


async def test_whoever_finds_every_answer_of_a_model_alike_is_learned_from_too(tmp_path: Path) -> None:
    async with engine(text="one") as small, engine(text="two") as large:
        settings = settings_for(tmp_path, {"small": small, "large": large}, policy={"name": "paced"})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            for model in ("small", "large"):
                await judge(client, model, 60, first=0)
            await until(lambda: followed(client, tmp_path, answers=120))
        shutil.rmtree(tmp_path / "state" / "views-0")  # so that the start refits on all of it
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:

            async def refitted() -> bool:
                assert "could not be refitted" not in gateway.log.read_text()
                version = (await client.post("/v1/route", json=chat("zyx wvu"))).json()["policy_version"]
                return fitted_on(version) == 120

            await until(refitted, within_s=60)
