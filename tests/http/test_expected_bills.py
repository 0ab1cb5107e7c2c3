"""What a conversation's turns are expected to cost is what they are charged, however many tokens its bytes are."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import followed, serving, settings_for, until

pytestmark = pytest.mark.anyio
TURNS, WARM, COUNTED = 20, 6, 4  # of a session; sessions
PRICE = {"prompt": 3.0, "cached": 0.3, "completion": 15.0}
SYSTEM = "Be brief. " * 30
WORDS = "the a tool found wrote file line of in test that was not there and it returned error value list".split()  # noqa: SIM905


class Agents:
    """An engine with a prefix cache, that makes `bytes_per_token` of what it reads and 90 tokens of a tool's text."""

    def __init__(self, bytes_per_token: float) -> None:
        self.bytes_per_token = bytes_per_token
        self.read: set[str] = set()
        self.rng = random.Random(5)

    def __call__(self, _model: str, body: Mapping[str, Any]) -> Line:
        runs = [json.dumps(body["messages"][:count]) for count in range(1, len(body["messages"]) + 1)]
        found = max((len(run) for run in runs if run in self.read), default=0)
        self.read.update(runs)
        words = self.rng.randint(30, 40)
        read = int(len(runs[-1]) / self.bytes_per_token) + 90
        usage = {
            "prompt_tokens": read,
            "completion_tokens": 2 * words,
            "total_tokens": read + 2 * words,
            "prompt_tokens_details": {"cached_tokens": int(found / self.bytes_per_token) // 16 * 16},
        }
        return Line(text=" ".join(self.rng.choices(WORDS, k=words)), usage=usage)


async def lived(client: httpx.AsyncClient, names: list[str], rng: random.Random) -> dict[str, float]:
    """All turns of these sessions, side by side: what was expected of them, and what was charged, in USD."""
    found = dict.fromkeys(("expected", "charged", "answers"), 0.0)
    talks: dict[str, list[Any]] = {name: [{"role": "system", "content": f"{name}. {SYSTEM}"}] for name in names}
    for turn in range(TURNS):
        for name, messages in talks.items():
            said = " ".join(rng.choices(WORDS, k=rng.randint(20, 200)))
            messages.append({"role": "user", "content": f"{name} {turn}: {said}"})
            body = {"messages": messages, "max_tokens": 400}
            shown = (await client.post("/v1/route", json={**body, "model": "auto"})).json()
            answer = await client.post("/v1/chat/completions", json={**body, "model": "engine"})
            found["expected"] += next(each["cost_usd"] for each in shown["candidates"] if each["model"] == "engine")
            found["charged"] += float(answer.headers["x-pointsman-cost-usd"])
            found["answers"] += 1
            judged = {"decision_id": answer.headers["x-pointsman-decision-id"], "score": rng.random()}
            assert (await client.post("/v1/feedback", json=judged)).status_code == 200
            messages.append(answer.json()["choices"][0]["message"])
        await asyncio.sleep(0.1)  # the log is followed a moment later
    return found


@pytest.mark.parametrize(
    ("policy", "bytes_per_token"), [("cheapest", 2.2), ("neighbours", 2.2), ("paced", 7.0), ("paced", 4.0)]
)
async def test_the_turns_of_sessions_cost_what_was_expected(
    tmp_path: Path, bytes_per_token: float, policy: str
) -> None:
    """At most 3 % apart, though a token is counted as four bytes."""
    rng = random.Random(11)
    async with ScriptedServer(Agents(bytes_per_token)) as engine:
        settings = settings_for(tmp_path, {"engine": engine, "other": engine}, policy={"name": policy})
        settings["models"][0]["price"] = PRICE
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            warm = await lived(client, [f"warm {n}" for n in range(WARM)], rng)
            await until(lambda: followed(client, tmp_path, answers=int(warm["answers"])))
            found = await lived(client, [f"agent {n}" for n in range(COUNTED)], rng)
    assert found["expected"] == pytest.approx(found["charged"], rel=0.03)
