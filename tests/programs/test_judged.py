"""A program's answer is judged by no model that had a part in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backends.scripted import Line
from router.gateway.types import JudgeRules, LearningRules
from router.types import Principal
from tests.programs.conftest import programs_in
from tests.router.conftest import model

pytestmark = pytest.mark.anyio
SURE = {"sure": {"kind": "escalate", "of": ["small", "large"], "risk": 0.1, "audit": 0.0}}
PAYER = Principal("k_payer", "payer")


@pytest.mark.parametrize(("judges", "judged"), [(("small",), 0), (("small", "other"), 1)])
async def test_a_model_that_had_a_part_in_an_answer_does_not_judge_it(
    judges: tuple[str, ...], judged: int, tmp_path: Path
) -> None:
    async def payer(_: str) -> Principal:
        return PAYER

    models = {name: model(name, 10**8 * price) for price, name in enumerate(("small", "large", "other"), 1)}
    async with programs_in(tmp_path, SURE, lines={"other": Line(text="7")}, **models) as house:
        decider, judging = house.gateway.decider, house.gateway.observer.judging
        decider.options = replace(decider.options, learning=LearningRules(judge=JudgeRules(judges, "sk-payer", 1.0)))
        judging.find = payer
        answer, body = await house.read(model="sure")
        await house.gateway.observer.observe(answer.attempt, body, streamed=False)
        await house.until(lambda: not judging.waiting)
        assert len(house.scripts["other"].sent) == judged
        assert len(house.scripts["small"].sent) == 1
        await house.until(lambda: house.learning.learned == judged)
