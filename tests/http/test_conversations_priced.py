"""An agent's conversation is one bill: what a model has cached makes its next turn cheap there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import followed, serving, settings_for, until

pytestmark = pytest.mark.anyio
TURN = "word " * 200
PRICES = {"caching": {"prompt": 1.0, "cached": 0.05, "completion": 2.0}, "plain": {"prompt": 0.5, "completion": 2.0}}


class Cache:
    """An engine's prefix cache: the longest run of messages that it has read before, four bytes a token."""

    def __init__(self) -> None:
        self.read: set[str] = set()

    def __call__(self, _model: str, body: Mapping[str, Any]) -> Line:
        messages: Sequence[Any] = body["messages"]
        runs = [json.dumps(messages[:count]) for count in range(1, len(messages) + 1)]
        found = max((len(run) for run in runs if run in self.read), default=0)
        self.read.update(runs)
        usage = {
            "prompt_tokens": len(runs[-1]) // 4,
            "completion_tokens": 10,
            "total_tokens": len(runs[-1]) // 4 + 10,
            "prompt_tokens_details": {"cached_tokens": found // 4},
        }
        return Line(text="It is done, all of it.", usage=usage)


def said(turns: int, about: str) -> dict[str, Any]:
    messages: list[dict[str, str]] = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"{about} {turn}: {TURN}"})
        messages.append({"role": "assistant", "content": "It is done, all of it."})
    return {"messages": messages[:-1]}


async def converse(client: httpx.AsyncClient, model: str, about: str, turns: int) -> list[str]:
    answered = []
    for turn in range(1, turns + 1):
        answer = await client.post("/v1/chat/completions", json=said(turn, about) | {"model": model})
        answered.append(answer.json()["model"])
    return answered


async def route(client: httpx.AsyncClient, about: str, turns: int) -> dict[str, Any]:
    found: dict[str, Any] = (await client.post("/v1/route", json=said(turns, about) | {"model": "auto"})).json()
    return found | {"by": {each["model"]: each for each in found["candidates"]}}


async def test_a_conversation_stays_where_its_cache_makes_it_cheaper_and_a_new_one_goes_where_it_is_cheap(
    tmp_path: Path,
) -> None:
    async with ScriptedServer(Cache()) as caching, ScriptedServer(Cache()) as plain:
        settings = settings_for(tmp_path, {"caching": caching, "plain": plain})
        for model in settings["models"]:
            model["price"] = PRICES[model["name"]]
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            for number in range(4):
                await converse(client, "caching", f"lesson {number}", 6)
            await converse(client, "caching", "the matter", 6)

            async def is_known() -> bool:
                return float((await route(client, "the matter", 7))["by"]["caching"]["cached_share"]) > 0.6

            await until(is_known)
            shown = await route(client, "the matter", 7)
            assert shown["model"] == "caching"
            assert shown["by"]["caching"]["cost_usd"] < shown["by"]["plain"]["cost_usd"]
            fresh = await route(client, "something else", 1)
            assert fresh["model"] == "plain"
            assert await converse(client, "auto", "something else", 3) == ["plain"] * 3  # a switch would not pay
            await until(lambda: followed(client, tmp_path, answers=5 * 6 + 3))
            shown = await route(client, "the matter", 7)
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            again = await route(client, "the matter", 7)
            assert [again["by"][name]["cost_usd"] for name in PRICES] == [
                shown["by"][name]["cost_usd"] for name in PRICES
            ]
