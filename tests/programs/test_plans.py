"""A plan tells before it runs what every step reads, writes and costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backends.dialects.chat import text_of
from backends.scripted import Line
from router.errors import InvalidRequest
from router.gateway.step_history import StepHistory
from router.programs.explaining import planned
from router.types import DecisionRecord, SettlementRecord
from tests.programs.conftest import DAY, programs_in
from tests.router.conftest import House, model

pytestmark = pytest.mark.anyio
PROGRAMS = {
    "sure": {"kind": "escalate", "of": ["small", "large"]},
    "vote3": {"kind": "vote", "of": "small", "n": 3},
    "one": {"kind": "vote", "of": "small", "n": 1},
    "best3": {"kind": "best_of", "of": "large", "n": 3},
    "digest": {"kind": "map_reduce", "map": "small", "reduce": "large", "part_tokens": 64},
    "most": {"kind": "map_reduce", "map": "small", "reduce": "large", "part_tokens": 64, "exact": "max"},
    "draft": {"kind": "refine", "draft": "small", "critic": "large"},
    "agent": {"kind": "roles", "plan": "large", "call": "small", "summarise": "large", "rounds": 1},
    "deep": {"kind": "vote", "of": "one", "n": 2},
}
LONG = "\n\n".join(f'Page {i}. "Rain", häfen and 日本. ' * 12 for i in range(40)) + "\n\nHow was it?"
SAID = "It is sunny, they say."


def counts(name: str, body: Mapping[str, Any]) -> Line:
    """An engine of bytes, with four tokens around each message, that says the same always."""
    read = sum(len(text_of(each).encode()) + 4 for each in body["messages"])
    return Line(text=SAID, prompt_tokens=read, completion_tokens=len(SAID))


async def plan_for(house: House, name: str, text: str) -> dict[str, Any]:
    call = house.call(text, model=name, max_tokens=64)
    decision = await house.gateway.explain(house.principal, call)
    found: Any = await planned(house.gateway, house.principal, call, decision)
    return dict(found["plan"])


async def taken(house: House) -> dict[str, tuple[int, int]]:
    """(prompt, completion) tokens by step of the last run."""
    log = [entry async for _, entry in house.stores.log.tail("", follow=False)]
    marks = {each.decision_id: each.metadata for each in log if isinstance(each, DecisionRecord)}
    run = next(marks[e.decision_id]["run"] for e in reversed(log) if "run" in marks.get(e.decision_id, {}))
    ended = [e for e in log if isinstance(e, SettlementRecord) and marks[e.decision_id].get("run") == run]
    roles = [marks[each.decision_id]["step"].lstrip("0123456789 ") for each in ended]
    return {role: (e.prompt_tokens, e.completion_tokens) for role, e in zip(roles, ended, strict=True)}


@pytest.mark.parametrize("text", ["How is it?", LONG], ids=["short", "long"])
@pytest.mark.parametrize("name", [each for each in PROGRAMS if each != "deep"])
async def test_a_plan_tells_the_tokens_of_every_step_and_what_they_cost(tmp_path: Path, name: str, text: str) -> None:
    wide = {"small": 8192 if name in ("digest", "most") else 65_536, "large": 65_536}
    models = {
        each: model(each, 10**8, context_tokens=context, max_output_tokens=256, bytes_per_token=1.0)
        for each, context in wide.items()
    }
    async with programs_in(tmp_path, PROGRAMS, lines=None, **models) as house:
        for script in house.scripts.values():
            script._script = counts
        before = await plan_for(house, name, text)
        answer, _ = await house.read(text, model=name, max_tokens=64)  # from which it learns how long answers are
        plan = await plan_for(house, name, text)
        reported = {each["step"]: (each["prompt_tokens"], each["completion_tokens"]) for each in plan["steps"]}
        steps = await taken(house)
        assert {role: reported[role] for role in steps} == steps
        firsts = {each["step"]: each["prompt_tokens"] for each in before["steps"] if each["stage"] == 0}
        assert {role: steps[role][0] for role in firsts if role in steps} == {
            role: tokens for role, tokens in firsts.items() if role in steps
        }
        spent = sum(float(each["expected_usd"]) / each["chance"] for each in plan["steps"] if each["step"] in steps)
        assert spent * 1e9 == pytest.approx(answer.total, rel=1e-6)
        assert (await house.spent(DAY))[1] == 0


async def test_a_plan_sends_and_spends_nothing(tmp_path: Path) -> None:
    async with programs_in(tmp_path, PROGRAMS) as house:
        for name in PROGRAMS:
            assert (await plan_for(house, name, "How is it?"))["steps"]
        assert not any(script.sent for script in house.scripts.values())
        assert await house.spent(DAY) == (0, 0)


async def test_a_plan_of_what_cannot_be_split_is_refused_as_the_run_would_be(tmp_path: Path) -> None:
    small = model("small", 10**8, context_tokens=1024, max_output_tokens=64)
    async with programs_in(tmp_path, PROGRAMS, small=small, large=model("large", 10**9)) as house:
        call = house.call(
            "",
            model="digest",
            messages=[{"role": "system", "content": "Rule. " * 600}, {"role": "user", "content": LONG}],
        )
        decision = await house.gateway.explain(house.principal, call)
        with pytest.raises(InvalidRequest, match="end the long message"):
            await planned(house.gateway, house.principal, call, decision)


def test_what_is_expected_of_steps_comes_to_what_was_seen() -> None:
    history = StepHistory()
    assert history.chance("sure", "try 2", 0.35) == 0.35
    for run in range(2000):
        history.answered("sure", "try 1", 10 + run % 21)
        history.ran("sure", ["try 1", "try 2"] if run % 10 == 0 else ["try 1"])
    assert history.tokens("sure", "try 2", 256) == pytest.approx(20, abs=0.1)
    assert history.chance("sure", "try 2", 0.35) == pytest.approx(0.1, abs=0.002)
    assert history.chance("sure", "try 1", 1.0) == 1.0
    assert history.tokens("other", "try 1", 256) == 256


async def test_a_run_of_one_step_is_one_decision_that_says_whom_it_asked(tmp_path: Path) -> None:
    async with programs_in(tmp_path, PROGRAMS) as house:
        answer, body = await house.read("How is it?", model="one")
        plain, _ = await house.read("How is it?", model="small")
        assert b'"model":"one"' in body
        assert (answer.total, answer.attempt.hold.amount) == (plain.total, plain.attempt.hold.amount)
        log = [entry async for _, entry in house.stores.log.tail("", follow=False)]
        mine = [each for each in log if isinstance(each, DecisionRecord) and each.metadata.get("program") == "one"]
        assert [(each.model, each.metadata["asked"], each.metadata["step"]) for each in mine] == [
            ("one", "small", "vote 1")
        ]
        assert mine[0].metadata["run"] == mine[0].decision_id == answer.attempt.decision.decision_id
        assert await house.spent(DAY) == (answer.total + plain.total, 0)
