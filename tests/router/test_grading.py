"""A request's own rules grade its answer, after it was sent; a person has the last word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.scripted import Line
from router.types import Feedback
from tests.router.conftest import House, now_ms, open_house

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
WANTED = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}


async def graded(house: House, **more: Any) -> str:
    """Ask, grade as the route does, and return the decision id."""
    answer, body = await house.read("How old is Ada? Answer in JSON.", **more)
    await house.gateway.observer.observe(answer.attempt, body, streamed=False)
    return answer.attempt.decision.decision_id


def scores(house: House) -> list[float]:
    known = house.learning.views.table.history(house.gateway.decider.catalogue.arms()).scores
    return known[~np.isnan(known)].tolist()


@pytest.mark.parametrize(("text", "score"), [('{"age": 36}', 1.0), ('{"age": "old"}', 0.0), ("she is 36", 0.0)])
async def test_an_answer_is_graded_by_the_schema_it_was_asked_for(tmp_path: Path, text: str, score: float) -> None:
    async with open_house(tmp_path, lines={"small": Line(text=text)}) as house:
        await graded(house, response_format=WANTED)
        await house.until(lambda: scores(house) == [score])


async def test_a_tool_call_is_graded_by_the_tool_s_own_schema(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "age_of", "arguments": '{"person": "Ada"}'}}
    tool = {"type": "function", "function": {"name": "age_of", "parameters": {"type": "object", "required": ["name"]}}}
    line = Line(text="", message={"tool_calls": [call], "content": None}, finish_reason="tool_calls")
    async with open_house(tmp_path, lines={"small": line}) as house:
        decider = house.gateway.decider
        able = tuple(replace(m, capabilities=m.capabilities | {"tools"}) for m in decider.catalogue.models)
        decider.catalogue = replace(decider.catalogue, models=able)
        await graded(house, tools=[tool])
        await house.until(lambda: scores(house) == [0.0])


async def test_an_answer_without_rules_is_not_graded(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        decision_id = await graded(house)
        assert await house.stores.log.judge(Feedback(decision_id, now_ms(), 0.5, tenant="acme"))
        await house.until(lambda: scores(house) == [0.5])


async def test_a_person_s_judgement_replaces_the_rules_and_is_not_replaced_by_them(tmp_path: Path) -> None:
    async with open_house(tmp_path, lines={"small": Line(text='{"age": 36}')}) as house:
        decision_id = await graded(house, response_format=WANTED)
        assert await house.stores.log.judge(Feedback(decision_id, now_ms(), 0.25, tenant="acme"))
        await house.until(lambda: scores(house) == [0.25])
        assert await house.stores.log.judge(
            Feedback(decision_id, now_ms(), 1.0, source="validator:late", tenant="acme")
        )
        assert await house.stores.log.judge(Feedback(decision_id, now_ms(), 0.75, replace=True, tenant="acme"))
        await house.until(lambda: scores(house) == [0.75])
