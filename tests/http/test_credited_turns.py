"""A person's judgement of the last turn is heard of by the turns before it, less and less, and logged as what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from policies.records import Feedback
from tests.http.conftest import chat, engine, followed, logged, serving, settings_for, until

pytestmark = pytest.mark.anyio


async def conversation(client: httpx.AsyncClient, turns: int, *, session: str | None = None) -> list[str]:
    """Decision ids of its turns."""
    messages: list[Any] = []
    headers = {} if session is None else {"x-session-id": session}
    found = []
    for turn in range(turns):
        messages.append({"role": "user", "content": f"{session} and {turn}"})
        answer = await client.post("/v1/chat/completions", json={**chat(), "messages": messages}, headers=headers)
        messages.append(answer.json()["choices"][0]["message"])
        found.append(answer.headers["x-pointsman-decision-id"])
    return found


async def judge(client: httpx.AsyncClient, decision: str, score: float) -> dict[str, Any]:
    answer = await client.post("/v1/feedback", json={"decision_id": decision, "score": score})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_earlier_turns_get_a_share_under_a_source_of_its_own(tmp_path: Path) -> None:
    async with engine() as only:
        async with serving(tmp_path, settings_for(tmp_path, {"m": only})) as gateway, gateway.client() as client:
            named, other = await conversation(client, 4, session="s"), await conversation(client, 3)
            await conversation(client, 2, session="another")
            await until(lambda: followed(client, tmp_path, answers=9))
            assert (await judge(client, named[1], 1.0))["credited"] == 1
            assert (await judge(client, named[3], 0.2))["credited"] == 3
            assert (await judge(client, other[2], 0.4))["credited"] == 1  # its first turn was no conversation yet
            assert "credited" not in await judge(client, named[0], 0.9)

            async def all_said() -> list[tuple[str, str, float, float]]:
                found = [entry async for _, entry in logged(tmp_path) if isinstance(entry, Feedback)]
                return [(each.decision_id, each.source, each.score, each.reliability) for each in found]

            async def are_there() -> bool:
                return len(await all_said()) == 9

            await until(are_there)
            assert await all_said() == [
                (named[1], "user", 1.0, 1.0),
                (named[0], "session", 1.0, 0.5),
                (named[3], "user", 0.2, 1.0),
                (named[2], "session", 0.2, 0.5),
                (named[1], "session", 0.2, 0.25),
                (named[0], "session", 0.2, 0.125),
                (other[2], "user", 0.4, 1.0),
                (other[1], "session", 0.4, 0.5),
                (named[0], "user", 0.9, 1.0),
            ]


async def test_nothing_is_passed_on_where_the_settings_say_so(tmp_path: Path) -> None:
    async with engine() as only:
        settings = settings_for(tmp_path, {"m": only}, feedback={"credit": 0})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            turns = await conversation(client, 3, session="s")
            await until(lambda: followed(client, tmp_path, answers=3))
            assert "credited" not in await judge(client, turns[2], 1.0)
