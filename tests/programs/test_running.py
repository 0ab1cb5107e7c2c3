"""A program is one request: one hold for its worst case, one bill, and steps that the log shows."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from backends.scripted import Line, Trouble
from router.errors import BudgetExceeded, InvalidRequest, PointsmanError, UpstreamFailed
from router.types import Budget, DecisionRecord, NanoUsd, Principal, SettlementRecord
from tests.programs.conftest import DAY, programs_in
from tests.router.conftest import House, model

pytestmark = pytest.mark.anyio
VOTE = {"vote5": {"kind": "vote", "of": "small", "n": 5}}


def text(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def say(house: House, model: str, *words: str, **more: Any) -> None:
    """The model says these one after the other, and the last for ever."""
    numbers = count()
    house.scripts[model]._script = lambda _m, _b: Line(text=words[min(next(numbers), len(words) - 1)], **more)


async def entries(house: House) -> list[Any]:
    return [entry async for _, entry in house.stores.log.tail("", follow=False)]


async def test_a_vote_returns_what_most_say_and_asks_no_more_than_it_must(tmp_path: Path) -> None:
    async with programs_in(tmp_path, VOTE) as house:
        say(house, "small", "seven", "Eight.", "eight", "eight")
        answer, body = await house.read("What is 4 + 4?", model="vote5")
        assert text(body) == "Eight."
        assert len(house.scripts["small"].sent) == 4
        assert json.loads(body)["model"] == "vote5"
        assert json.loads(body)["usage"]["completion_tokens"] == 4
        assert await house.spent(DAY) == (answer.total, 0)


async def test_at_temperature_0_one_model_is_asked_once_and_auto_takes_it_by_its_own_name(tmp_path: Path) -> None:
    programs = {**VOTE, "best4": {"kind": "best_of", "of": "small", "n": 4}}
    async with programs_in(tmp_path, programs, policy="random") as house:  # type: ignore[arg-type]  # open_house takes it
        for name in programs:
            answer, _ = await house.read("What is 4 + 4?", model=name, temperature=0)
            assert answer.attempt.model.name == name
        assert len(house.scripts["small"].sent) == 2
        drawn = {(await house.read("What?", temperature=0.0))[0].attempt.model.name for _ in range(24)}
        assert drawn == {"small", "large"}
        drawn = {(await house.read("What?", temperature=0.7))[0].attempt.model.name for _ in range(48)}
        assert drawn == {"small", "large", *programs}


async def test_auto_draws_no_program_for_a_request_of_several_answers_whoever_asked_before(tmp_path: Path) -> None:
    async with programs_in(tmp_path, VOTE, policy="random") as house:  # type: ignore[arg-type]  # open_house takes it
        for first in (1, 2):
            drawn = {(await house.read("What?", n=3 - first))[0].attempt.model.name for _ in range(24)}
            assert ("vote5" in drawn) == (first == 2)
            house.gateway.decider._usual_of = None
            drawn = {(await house.read("What?", n=first))[0].attempt.model.name for _ in range(24)}
            assert ("vote5" in drawn) == (first == 1)


async def test_each_step_is_a_logged_decision_of_the_run_and_the_bill_is_their_sum(tmp_path: Path) -> None:
    async with programs_in(tmp_path, VOTE) as house:
        say(house, "small", "eight")
        answer, _ = await house.read("What is 4 + 4?", model="vote5")
        log = await entries(house)
        run = answer.attempt.decision.decision_id
        steps = [each for each in log if isinstance(each, DecisionRecord) and each.metadata.get("run") == run]
        assert [each.metadata["step"] for each in steps] == ["1 vote 1", "2 vote 2", "3 vote 3"]
        assert {each.metadata["program"] for each in steps} == {"vote5"}
        paid = {each.decision_id: each.cost for each in log if isinstance(each, SettlementRecord)}
        assert paid[run] == sum(paid[each.decision_id] for each in steps) == answer.total > 0


async def test_the_hold_is_the_worst_case_of_all_steps(tmp_path: Path) -> None:
    async with programs_in(tmp_path, VOTE) as house:
        answer = await house.ask("What is 4 + 4?", model="vote5", max_tokens=10)
        one = await house.ask("What is 4 + 4?", model="small", max_tokens=10)
        assert answer.attempt.hold.amount == 5 * one.attempt.hold.amount
        await answer.close()
        await one.close()


async def test_a_step_that_would_leave_the_plan_is_not_started(tmp_path: Path) -> None:
    async with programs_in(
        tmp_path, {"vote3": {"kind": "vote", "of": "small", "n": 3, "stop": "never", "at_once": 1}}
    ) as house:
        say(house, "small", "one", "two", prompt_tokens=4000)  # a liar: no prompt of this length was sent
        answer, body = await house.read("hi", model="vote3", max_tokens=4)
        assert text(body) == "one"
        assert len(house.scripts["small"].sent) < 3
        assert await house.spent(DAY) == (answer.total, 0)


async def test_a_vote_that_fails_is_no_vote_and_costs_nothing(tmp_path: Path) -> None:
    async with programs_in(tmp_path, VOTE) as house:
        numbers = count()
        house.scripts["small"]._script = lambda _m, _b: Line(
            text="eight", trouble="500" if next(numbers) == 1 else None
        )
        answer, body = await house.read("What is 4 + 4?", model="vote5")
        assert text(body) == "eight"
        assert await house.spent(DAY) == (answer.total, 0)


async def test_where_every_step_fails_the_run_is_free_and_the_error_the_callers(tmp_path: Path) -> None:
    async with programs_in(tmp_path, VOTE, lines={"small": Line(trouble="500")}) as house:
        with pytest.raises(UpstreamFailed):
            await house.read("What is 4 + 4?", model="vote5")
        assert await house.spent(DAY) == (0, 0)


@pytest.mark.parametrize(("trouble", "status"), [("hang", 504), ("busy", 429), ("500", 502), ("reset", 502)])
async def test_a_program_fails_as_its_step_did(tmp_path: Path, trouble: Trouble, status: int) -> None:
    async with programs_in(tmp_path, VOTE, lines={"small": Line(trouble=trouble)}) as house:
        house.scripts["small"]._patience_s = 0.05
        with pytest.raises(PointsmanError) as raised:
            await house.read("What is 4 + 4?", model="vote5")
        assert raised.value.status == status
        assert await house.spent(DAY) == (0, 0)


async def test_what_was_spent_before_a_step_failed_is_charged(tmp_path: Path) -> None:
    program = {"draft": {"kind": "refine", "draft": "small", "critic": "large"}}
    async with programs_in(tmp_path, program, lines={"large": Line(trouble="500")}) as house:
        with pytest.raises(UpstreamFailed):
            await house.read("Write.", model="draft")
        spent, held = await house.spent(DAY)
        assert (spent > 0, held) == (True, 0)


async def test_a_stream_shows_its_progress_as_comments_and_then_the_answer(tmp_path: Path) -> None:
    async with programs_in(tmp_path, VOTE) as house:
        say(house, "small", "it is eight")
        answer, body = await house.read(
            "What is 4 + 4?", model="vote5", stream=True, stream_options={"include_usage": True}
        )
        lines = body.decode().split("\n\n")
        assert lines[:3] == [": 1/5 small", ": 2/5 small", ": 3/5 small"]
        assert lines[-2] == "data: [DONE]"
        usage = json.loads(lines[-3].removeprefix("data: "))["usage"]
        assert usage["completion_tokens"] == 9
        assert await house.spent(DAY) == (answer.total, 0)


async def test_when_a_run_is_logged_as_over_all_its_steps_are(tmp_path: Path) -> None:
    """Whoever sums what is in the log while a gateway is killed finds no run that costs more than its steps."""
    program = {"draft": {"kind": "refine", "draft": "small", "critic": "large"}}
    async with programs_in(tmp_path, program) as house:
        for stream in (False, True):
            answer, _ = await house.read("Write.", model="draft", stream=stream)
            run = answer.attempt.decision.decision_id
            log = await entries(house)
            steps = {e.decision_id for e in log if isinstance(e, DecisionRecord) and e.metadata.get("run") == run}
            ended = [e.decision_id for e in log if isinstance(e, SettlementRecord) and e.decision_id in {run, *steps}]
            assert len(ended) == len(steps) + 1
            assert ended[-1] == run


async def test_the_last_step_of_a_stream_streams_as_it_comes(tmp_path: Path) -> None:
    program = {"draft": {"kind": "refine", "draft": "small", "critic": "large"}}
    async with programs_in(tmp_path, program, lines={"large": Line(text="too short")}) as house:
        say(house, "small", "a", "a better one")
        answer, body = await house.read("Write.", model="draft", stream=True)
        assert body.count(b'"delta":{"content":') == 3
        assert json.loads(body.split(b"data: ")[1])["model"] == "draft"
        assert await house.spent(DAY) == (answer.total, 0)


async def test_who_hangs_up_during_a_program_leaves_no_hold(tmp_path: Path) -> None:
    program = {"draft": {"kind": "refine", "draft": "small", "critic": "large"}}
    async with programs_in(tmp_path, program, lines={"large": Line(text="no", delay_s=30)}) as house:
        answer = await house.ask("Write.", model="draft", stream=True)
        stream = answer.__aiter__()
        assert await anext(stream) == b": 1/3 small\n\n"
        await answer.close()
        spent, held = await house.spent(DAY)
        assert (spent > 0, held) == (True, 0)


async def test_a_budget_on_one_model_bounds_every_program_that_may_ask_it(tmp_path: Path) -> None:
    programs = {"draft": {"kind": "refine", "draft": "small", "critic": "large"}, **VOTE}
    async with programs_in(tmp_path, {**programs, "deep": {"kind": "vote", "of": "draft", "n": 1}}) as house:
        house.principal = Principal("k_1", "acme", budgets=(Budget("tenant:acme|model:large", NanoUsd(1000), 86_400),))
        for name in ("draft", "deep"):
            with pytest.raises(BudgetExceeded):
                await house.read("Write.", model=name)
        await house.read("What is 4 + 4?", model="vote5")


async def test_local_requests_reach_no_remote_arm_through_a_program(tmp_path: Path) -> None:
    draft = {"kind": "refine", "draft": "small", "critic": "large"}
    program = {"best3": {"kind": "best_of", "of": "auto", "n": 3}, "draft": draft}
    far = model("large", 10**9, local=False)
    async with programs_in(tmp_path, program, small=model("small", 10**8), large=far) as house:
        house.principal = Principal("k_1", "acme", local_only=True, budgets=(DAY,))
        await house.read("What is 4 + 4?", model="best3")
        with pytest.raises(InvalidRequest, match="must stay local"):
            await house.read("What is 4 + 4?", model="draft")
        assert not house.scripts["large"].sent


async def test_a_drawn_program_that_cannot_take_the_request_gives_way_to_another_arm(tmp_path: Path) -> None:
    program = {"digest": {"kind": "map_reduce", "map": "small", "reduce": "small", "part_tokens": 16}}
    small = model("small", 10**7, context_tokens=1024, max_output_tokens=128)
    large = model("large", 10**10, context_tokens=60_000)
    async with programs_in(tmp_path, program, small=small, large=large) as house:
        long = [{"role": "system", "content": "Rule. " * 400}, {"role": "user", "content": "word " * 1200}]
        answer, _ = await house.read(messages=long)
        assert answer.attempt.model.name == "large"
        assert await house.spent(DAY) == (answer.total, 0)


async def test_a_program_within_a_program_answers_by_the_outer_name(tmp_path: Path) -> None:
    programs = {**VOTE, "draft": {"kind": "refine", "draft": "vote5", "critic": "large"}}
    async with programs_in(tmp_path, programs, lines={"large": Line(text="longer")}) as house:
        for stream in (False, True):
            answer, body = await house.read("Write.", model="draft", stream=stream)
            names = {json.loads(part)["model"] for part in re.findall(rb"\{.*\}", body)}
            assert names == {"draft"}
            assert await house.spent(DAY) == (answer.total * (2 if stream else 1), 0)


async def test_a_draft_that_calls_a_tool_is_the_answer(tmp_path: Path) -> None:
    program = {"draft": {"kind": "refine", "draft": "small", "critic": "large"}}
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    line = Line(text="", finish_reason="tool_calls", message={"tool_calls": [call]})
    able = model("small", 10**8, capabilities=frozenset({"chat", "tools"}))
    async with programs_in(tmp_path, program, lines={"small": line}, small=able, large=model("large", 10**9)) as house:
        _, body = await house.read("How is the weather?", model="draft", tools=[tool])
        assert json.loads(body)["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
        assert not house.scripts["large"].sent
