"""What is learned of answers that nobody judged: by rules, by how an answer looks, and by another model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.scripted import Line
from policies.types import Float
from router.gateway.types import JudgeRules, LearningRules
from router.learning.graders.rules import AnswerRule
from router.types import Budget, Feedback, NanoUsd, Principal
from tests.router.conftest import LARGE, House, model, now_ms, open_house

pytestmark = pytest.mark.anyio
WANTED = {"type": "json_object"}
PAYER = Principal("k_payer", "payer", budgets=(Budget("tenant:payer", NanoUsd(10**9), 86_400),))


def learns(house: House, **rules: Any) -> None:
    decider = house.gateway.decider
    decider.options = replace(decider.options, learning=LearningRules(**rules))


async def seen(house: House, text: str = "How old is Ada?", *, stream: bool = False, **more: Any) -> str:
    """Ask, read to the end and look at the answer as the route does; its decision's id."""
    answer, body = await house.read(text, stream=stream, **more)
    if house.gateway.looks(answer.attempt):
        await house.gateway.observer.observe(answer.attempt, body, streamed=stream)
    if house.gateway.observer.judging.waiting:
        await house.until(lambda: not house.gateway.observer.judging.waiting)
    return answer.attempt.decision.decision_id


async def said(house: House, decision_id: str) -> dict[str, Feedback]:
    """What each source says of an answer in the log."""
    entries = [entry async for _, entry in house.stores.log.tail("", follow=False)]
    return {e.source: e for e in entries if isinstance(e, Feedback) and e.decision_id == decision_id}


# rules


@pytest.mark.parametrize(("text", "score"), [('{"age": 36}', 1.0), ("she is 36", 0.0)])
async def test_a_stream_is_graded_by_its_request_s_own_form(tmp_path: Path, text: str, score: float) -> None:
    async with open_house(tmp_path, lines={"small": Line(text=text)}) as house:
        found = await said(house, await seen(house, stream=True, response_format=WANTED))
        assert found["validator:schema"].score == score


async def test_a_tool_call_that_is_streamed_in_parts_is_graded(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "age_of", "arguments": '{"person": "Ada"}'}}
    tool = {"type": "function", "function": {"name": "age_of", "parameters": {"type": "object", "required": ["name"]}}}
    line = Line(text="", message={"tool_calls": [call], "content": None}, finish_reason="tool_calls")
    able = model("small", LARGE, capabilities=frozenset({"chat", "tools"}))
    async with open_house(tmp_path, lines={"small": line}, small=able) as house:
        found = await said(house, await seen(house, stream=True, tools=[tool]))
        assert found["validator:tools"].score == 0.0


@pytest.mark.parametrize("stream", [False, True])
async def test_an_operator_s_rules_hold_for_their_route_and_tenants(tmp_path: Path, stream: bool) -> None:
    rules = (AnswerRule("small", None, None, r"^\d+$"), AnswerRule(None, frozenset({"other"}), "never"))
    async with open_house(tmp_path, lines={"small": Line(text="36"), "large": Line(text="about 36")}) as house:
        learns(house, rules=rules)
        found = await said(house, await seen(house, stream=stream, model="small"))
        assert (found["validator:regex"].score, found["validator:regex"].reliability) == (1.0, 1.0)
        assert await said(house, await seen(house, stream=stream, model="large")) == {}


async def test_no_answer_can_keep_a_rule_busy(tmp_path: Path) -> None:
    line = Line(text="a" * 20_000 + "b")
    async with open_house(tmp_path, lines={"small": line}) as house:
        learns(house, rules=(AnswerRule(None, None, None, r"^(a+)+$"),))
        assert (await said(house, await seen(house)))["validator:regex"].score == 0.0


async def test_a_tenant_that_learns_from_nothing_is_not_looked_at(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        learns(house, rules=(AnswerRule(None, None, "36"),))
        house.principal = replace(house.principal, learn_from=())
        assert await said(house, await seen(house, response_format=WANTED)) == {}


async def test_bytes_that_are_no_answer_are_learned_nothing_of(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        learns(house, rules=(AnswerRule(None, None, "36"),), sources=("graders", "signature"))
        answer, _ = await house.read()
        for data in (
            b"",
            b"{",
            b'{"choices": 3}',
            b"data: {\n\n",
            b'data: {"choices": [{"delta": 5}]}\n\n',
            b"[" * 9000,
        ):
            for streamed in (False, True):
                await house.gateway.observer.observe(answer.attempt, data, streamed=streamed)
        assert (await said(house, answer.attempt.decision.decision_id)).keys() <= {"validator:exact", "signature"}


# how an answer looks


def looking(confidence: float) -> Line:
    top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in (("a", confidence), ("b", 1 - confidence))]
    logprobs = {"content": [{**top[0], "top_logprobs": top} for _ in range(4)]}
    message = {"role": "assistant", "content": "x"}
    return Line(
        text="x", fields={"choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}]}
    )


async def test_answers_are_judged_by_how_answers_of_their_model_looked_that_others_judged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    async with open_house(tmp_path, refit_every=1000) as house:  # later than this test ends
        learns(house, sources=("signature",))
        for i in range(80):
            right = bool(rng.random() < 0.5)
            sure = (0.97 if right else 0.55) if rng.random() < 0.9 else (0.55 if right else 0.97)
            house.scripts["small"]._script = lambda _m, _b, sure=sure: looking(sure)  # type: ignore[misc]
            decision_id = await seen(house, f"question {i}", model="small")
            noted = await said(house, decision_id)
            assert noted["signature"].says_nothing
            assert await house.stores.log.judge(Feedback(decision_id, now_ms(), float(right), tenant="acme"))
        await house.until(lambda: house.learning.learned == 80)
        await house.learning.refit()
        house.scripts["small"]._script = lambda _m, _b: looking(0.97)
        sure = (await said(house, await seen(house, "and now", model="small")))["signature"]
        house.scripts["small"]._script = lambda _m, _b: looking(0.55)
        unsure = (await said(house, await seen(house, "and then", model="small")))["signature"]
        other = (await said(house, await seen(house, "who else", model="large")))["signature"]
    assert sure.score > 0.7
    assert unsure.score < 0.3
    assert 0.2 < sure.reliability == unsure.reliability < 0.9
    assert other.says_nothing  # of a model that nobody judged


async def test_logprobs_asked_for_to_learn_reach_no_client_that_did_not_ask(tmp_path: Path) -> None:
    async with open_house(tmp_path, lines={"small": looking(0.9)}) as house:
        learns(house, sources=("signature",))
        _, silent = await house.read(model="small")
        _, asked = await house.read(model="small", logprobs=True)
        assert json.loads(silent)["choices"][0]["logprobs"] is None
        assert len(json.loads(asked)["choices"][0]["logprobs"]["content"]) == 4


async def test_what_only_notes_an_answer_s_looks_is_no_judgement(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        learns(house, sources=("signature",))
        for i in range(5):
            await seen(house, f"question {i}")
        await house.until(lambda: bool(house.learning.position))
        assert (house.learning.learned, len(house.learning.views.table)) == (0, 0)


# a judge


def judge_rules(**more: Any) -> JudgeRules:
    return JudgeRules(**({"models": ("judge",), "key": "sk-payer", "share": 1.0} | more))


def three(tmp_path: Path, verdict: str, **lines: Line) -> Any:
    models = {name: model(name, price) for name, price in (("small", 10**8), ("large", 10**9), ("judge", 10**9))}
    return open_house(tmp_path, lines={"judge": Line(text=verdict), **lines}, **models)


def paid_by(house: House, payer: Principal | None = PAYER) -> None:
    async def find(secret: str) -> Principal | None:
        return payer if secret == "sk-payer" else None

    house.gateway.observer.judging.find = find


async def test_an_answer_is_judged_by_another_model_at_the_expense_of_the_tenant_named(tmp_path: Path) -> None:
    async with three(tmp_path, "Score: 8") as house:
        learns(house, judge=judge_rules())
        paid_by(house)
        decision_id = await seen(house, "What is 2 + 2?", model="small")
        verdict = (await said(house, decision_id))["judge:judge"]
        asked = house.scripts["judge"].sent[-1]
        spent, held = await house.spent(PAYER.budgets[0])
    assert (verdict.score, verdict.tenant, verdict.propensity) == (0.8, "acme", 1.0)
    assert 0.0 < verdict.reliability < 1.0
    assert "What is 2 + 2?" in asked["messages"][1]["content"]
    assert spent > 0 == held


async def test_a_model_never_judges_itself_and_verdicts_are_not_judged(tmp_path: Path) -> None:
    async with three(tmp_path, "9") as house:
        learns(house, judge=judge_rules())
        paid_by(house)
        assert await said(house, await seen(house, model="judge")) == {}
        learns(house, judge=judge_rules(models=("judge", "large")))
        await seen(house, model="judge")
        assert len(house.scripts["large"].sent) == 1
        assert len(house.scripts["judge"].sent) == 2


async def test_what_must_stay_local_is_shown_to_no_remote_judge(tmp_path: Path) -> None:
    remote = model("judge", 10**9, local=False)
    async with open_house(tmp_path, small=model("small", 10**8), judge=remote) as house:
        learns(house, judge=judge_rules())
        paid_by(house)
        await seen(house, model="small", routing={"local_only": True})
        house.principal = replace(house.principal, local_only=True)
        await seen(house, model="small")
        house.principal = replace(house.principal, local_only=False, allowed_models=frozenset({"small"}))
        await seen(house, model="small")
        assert house.scripts["judge"].sent == []


async def test_without_money_or_a_valid_key_nothing_is_judged(tmp_path: Path) -> None:
    async with three(tmp_path, "9") as house:
        learns(house, judge=judge_rules())
        for payer in (None, replace(PAYER, budgets=(Budget("tenant:payer", NanoUsd(1), 86_400),))):
            paid_by(house, payer)
            assert await said(house, await seen(house, model="small")) == {}
        assert house.scripts["judge"].sent == []


@pytest.mark.parametrize("lie", ["", "excellent", "-3", "100/10 and more", "9" * 5000])
async def test_a_reply_that_is_no_verdict_is_none(tmp_path: Path, lie: str) -> None:
    async with three(tmp_path, lie) as house:
        learns(house, judge=judge_rules())
        paid_by(house)
        found = await said(house, await seen(house, model="small"))
    assert all(0.0 <= each.score <= 1.0 for each in found.values())
    assert not found or lie.startswith(("-3", "100"))


@pytest.mark.parametrize(("better", "score"), [("large", 0.0), ("small", 1.0), ("nobody", 0.5)])
async def test_of_two_answers_the_better_one_wins_in_whatever_order_they_are_shown(
    tmp_path: Path, better: str, score: float
) -> None:
    def prefers(_m: str, body: Mapping[str, Any]) -> Line:
        first, _, second = str(body["messages"][1]["content"]).partition("ANSWER B")
        by = f"by {better}"
        return Line(text="A" if by in first else "B" if by in second else "tie")

    async with three(tmp_path, "", small=Line(text="by small"), large=Line(text="by large")) as house:
        house.scripts["judge"]._script = prefers
        learns(house, judge=judge_rules(pairwise=True))
        paid_by(house)
        for i in range(60):
            found = await said(house, await seen(house, f"question {i}"))
            assert {each.score for each in found.values()} <= {score}
        shown = [str(body["messages"][1]["content"]) for body in house.scripts["judge"].sent]
    assert {text.index("by large") < text.index("by small") for text in shown} == {False, True}


async def test_about_as_many_answers_are_judged_as_the_share_says_and_each_could_have_been(tmp_path: Path) -> None:
    async with three(tmp_path, "9") as house:
        judging = house.gateway.observer.judging
        decisions = [(await house.read(f"question {i}"))[0].attempt.decision for i in range(40)]
        chances: Float = np.array([judging.chance(each, 0.1) for each in decisions])
    assert 0.025 <= chances.min() <= chances.max() <= 0.4


async def test_the_reliability_of_a_judge_is_what_its_verdicts_turned_out_to_be_worth(tmp_path: Path) -> None:
    """Right eight times in ten: it explains .36 of the truth's variance."""
    rng = np.random.default_rng(2)
    async with three(tmp_path, "") as house:
        views = house.learning.views
        for i in range(600):
            truth = float(rng.random() < 0.5)
            verdict = truth if rng.random() < 0.8 else 1.0 - truth
            answer, _ = await house.read(f"question {i}", model="small")
            name = answer.attempt.decision.decision_id
            for given in (
                Feedback(name, 0, verdict, "judge:judge", 0.3, tenant="acme"),
                Feedback(name, 0, truth, tenant="acme"),
            ):
                await house.stores.log.judge(given)
        await house.until(lambda: house.learning.learned == 1200)
        assert views.sources.of("judge:judge") == pytest.approx(0.36, abs=0.07)
        learns(house, judge=judge_rules())
        paid_by(house)
        house.scripts["judge"]._script = lambda _m, _b: Line(text="9")
        verdict_of = (await said(house, await seen(house, "and one more", model="small")))["judge:judge"]
    assert verdict_of.reliability == pytest.approx(0.36, abs=0.07)


async def test_a_person_has_the_last_word_and_others_are_weighed(tmp_path: Path) -> None:
    async with three(tmp_path, "") as house:
        answer, _ = await house.read(model="small")
        name = answer.attempt.decision.decision_id

        async def scores_after(score: float, source: str, reliability: float) -> float:
            learned = house.learning.learned
            await house.stores.log.judge(Feedback(name, 0, score, source, reliability, tenant="acme"))
            if source == "user" or learned < 3:
                await house.until(lambda: house.learning.learned > learned)
            history = house.learning.views.table.history(house.gateway.decider.catalogue.arms())
            return float(history.scores[0, 0])

        assert await scores_after(1.0, "validator:schema", 0.2) == 1.0
        weighed = await scores_after(0.0, "judge:judge", 0.6)
        assert 0.0 < weighed < 0.3
        assert await scores_after(0.5, "user", 1.0) == 0.5
