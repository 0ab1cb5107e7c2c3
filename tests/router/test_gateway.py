"""The path of a request, over real stores and scripted backends."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from backends.scripted import Line
from router.errors import BudgetExceeded, InvalidRequest, NoCandidate, NotFound, StoreUnavailable, UpstreamFailed
from router.gateway.answers import with_cost
from router.types import Budget, Feedback, Hold, NanoUsd, Spend, show_usd
from tests.router.conftest import LARGE, SMALL, model, now_ms, open_house

pytestmark = pytest.mark.anyio

BUDGET = Budget("tenant:acme", NanoUsd(1_000_000_000), 3600)


async def test_an_answer_is_charged_by_the_engine_s_usage(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        house.principal = replace(house.principal, budgets=(BUDGET,))
        answer, body = await house.read()
        usage = json.loads(body)["usage"]
        assert answer.cost == -(-(usage["prompt_tokens"] + usage["completion_tokens"]) * SMALL // 1_000_000)
        assert await house.spent(BUDGET) == (answer.cost, 0)


async def test_a_stream_is_relayed_whole_and_charged_before_done(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        house.principal = replace(house.principal, budgets=(BUDGET,))
        answer = await house.ask(stream=True, stream_options={"include_usage": True})
        chunks = []
        async for chunk in answer:
            chunks.append(chunk)
            if chunk.endswith(b"data: [DONE]\n\n"):
                assert (await house.spent(BUDGET))[1] == 0
        await answer.close()
        events = b"".join(chunks).decode().split("\n\n")
        text = "".join(
            json.loads(event[6:])["choices"][0]["delta"].get("content") or ""
            for event in events
            if event.startswith("data: {") and json.loads(event[6:])["choices"]
        )
        assert text == "hello from small"
        usage = next(json.loads(e[6:])["usage"] for e in events if '"usage":{' in e)
        assert usage["cost"] == pytest.approx((answer.cost or 0) / 1e9)


async def test_no_byte_of_a_stream_is_there_before_the_ledger_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot say so has sent nothing, and pays nothing."""

    async def deaf(hold: Hold) -> None:
        raise StoreUnavailable("the store is away")

    async with open_house(tmp_path) as house:
        house.principal = replace(house.principal, budgets=(BUDGET,))
        monkeypatch.setattr(house.stores.ledger, "mark", deaf)
        with pytest.raises(StoreUnavailable):
            await house.ask(stream=True)
        assert await house.spent(BUDGET) == (0, 0)


async def test_a_plain_answer_is_known_by_its_settlement_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is settled before it is sent; where that cannot be, there is no answer."""

    async def away(hold: Hold, spend: Spend) -> None:
        raise StoreUnavailable("the store is away")

    async with open_house(tmp_path) as house:
        answer = await house.ask()
        monkeypatch.setattr(house.stores.ledger, "settle", away)
        with pytest.raises(StoreUnavailable):
            await answer.settle()
        with pytest.raises(StoreUnavailable):
            await answer.close()


async def test_usage_asked_for_on_the_gateway_s_own_account_does_not_reach_the_client(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        answer, body = await house.read(stream=True)
        assert b'"usage":{' not in body
        assert answer.cost
        assert answer.reply.report.usage is not None


async def test_an_answer_without_usage_is_charged_by_the_text_that_was_relayed(tmp_path: Path) -> None:
    lines = {"small": Line(text="twelve letters" * 8, reports_usage=False)}
    async with open_house(tmp_path, lines=lines) as house:
        answer, _ = await house.read(model="small")
        spend = answer.bill().spend
        assert spend.estimated
        assert spend.completion_tokens >= len("twelve letters" * 8) // 4


@pytest.mark.parametrize("trouble", ["500", "reset", "down", "busy", "html"])
async def test_a_model_that_fails_before_its_first_byte_is_replaced_by_the_next(tmp_path: Path, trouble: str) -> None:
    lines = {"small": Line(text="never", trouble=trouble)}
    async with open_house(tmp_path, lines=lines) as house:
        house.principal = replace(house.principal, budgets=(BUDGET,))
        answer, body = await house.read()
        assert answer.attempt.model.name == "large"
        assert json.loads(body)["choices"][0]["message"]["content"] == "hello from large"
        assert await house.spent(BUDGET) == (answer.cost, 0)


@pytest.mark.parametrize(("trouble", "down"), [("reset", set()), ("down", {"small"})])
async def test_one_connection_that_is_cut_does_not_take_a_backend_out(
    tmp_path: Path, trouble: str, down: set[str]
) -> None:
    async with open_house(tmp_path, lines={"small": Line(text="never", trouble=trouble)}) as house:
        await house.read()
        assert house.gateway.decider.down == down


async def test_when_every_model_fails_the_error_says_so_and_nothing_is_held(tmp_path: Path) -> None:
    lines = {name: Line(text="never", trouble="500") for name in ("small", "large")}
    async with open_house(tmp_path, lines=lines) as house:
        house.principal = replace(house.principal, budgets=(BUDGET,))
        with pytest.raises(UpstreamFailed, match="500"):
            await house.ask()
        assert await house.spent(BUDGET) == (0, 0)


async def test_a_caller_s_own_mistake_is_not_tried_on_another_model(tmp_path: Path) -> None:
    lines = {"small": Line(text="never", trouble="refuse")}
    async with open_house(tmp_path, lines=lines) as house:
        house.principal = replace(house.principal, budgets=(BUDGET,))
        with pytest.raises(InvalidRequest):
            await house.ask()
        assert len(house.scripts["large"].sent) == 0
        assert await house.spent(BUDGET) == (0, 0)


async def test_a_break_in_the_middle_of_a_stream_is_reported_and_what_came_is_charged(tmp_path: Path) -> None:
    lines = {"small": Line(text="one two three four five six", trouble="reset", trouble_after=3)}
    async with open_house(tmp_path, lines=lines) as house:
        house.principal = replace(house.principal, budgets=(BUDGET,))
        answer, body = await house.read(stream=True)
        assert answer.reply.report.failure
        assert len(house.scripts["large"].sent) == 0
        assert b"one" in body
        spent, held = await house.spent(BUDGET)
        assert spent > 0
        assert held == 0


async def test_a_pinned_model_is_used_and_an_unknown_one_refused(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        answer, _ = await house.read(model="large")
        assert (answer.attempt.model.name, answer.attempt.decision.record.policy) == ("large", "pinned")
        with pytest.raises(NotFound, match="'huge'"):
            await house.ask(model="huge")


async def test_a_request_degrades_to_a_cheaper_model_before_it_is_refused(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="best") as house:
        worst_small = 300 * SMALL // 1_000_000
        tight = Budget("tenant:acme", NanoUsd(worst_small), 3600)
        house.principal = replace(house.principal, budgets=(tight,))
        answer, _ = await house.read(max_tokens=50, routing={"policy": "random", "preference": 1.0})
        assert answer.attempt.model.name == "small"
        empty = replace(tight, scope="tenant:empty", limit=NanoUsd(1))
        house.principal = replace(house.principal, budgets=(empty,))
        with pytest.raises(BudgetExceeded) as refused:
            await house.ask()
        assert refused.value.retry_after_s


async def test_a_backend_that_is_down_is_not_eligible_and_the_reason_is_told(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        house.gateway.decider.down = {"small", "large"}
        with pytest.raises(NoCandidate, match="down"):
            await house.ask()


async def test_feedback_teaches_the_policy_and_fills_the_index(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        for i in range(30):
            for name, score in (("small", 0.0), ("large", 1.0)):
                answer, _ = await house.read(f"Prove theorem number {i} of topology.", model=name)
                given = Feedback(answer.attempt.decision.decision_id, now_ms(), score, tenant="acme")
                assert await house.stores.log.judge(given)
        await house.until(lambda: house.learning.learned == 60)
        call = house.call("Prove theorem number 77 of topology.", routing={"preference": 0.9})
        answer = await house.gateway.answer(house.principal, call)
        await answer.close()
        assert answer.attempt.model.name == "large"
        assert len(await house.gateway.decider.nearest(answer.attempt.decision, "acme")) == 5
        assert await house.gateway.decider.nearest(answer.attempt.decision, "mallory") == []


async def test_two_hundred_requests_at_once_leave_an_exact_balance(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="random") as house:
        house.principal = replace(house.principal, budgets=(replace(BUDGET, limit=NanoUsd(10**12)),))
        answers = await asyncio.gather(*(house.read(f"question {i}", stream=i % 2 == 0) for i in range(200)))
        assert await house.spent(house.principal.budgets[0]) == (sum(a.cost or 0 for a, _ in answers), 0)


async def test_a_caller_that_gives_up_while_waiting_leaves_no_hold(tmp_path: Path) -> None:
    lines = {name: Line(text="late", delay_s=30.0) for name in ("small", "large")}
    async with open_house(tmp_path, lines=lines) as house:
        house.principal = replace(house.principal, budgets=(BUDGET,))
        asking = asyncio.ensure_future(house.ask())
        await house.until(lambda: len(house.scripts["small"].sent) == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await house.spent(BUDGET) == (0, 0)


async def test_a_restart_brings_back_what_was_learned(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        for i in range(10):
            answer, _ = await house.read(f"question {i}")
            await house.stores.log.judge(Feedback(answer.attempt.decision.decision_id, now_ms(), 1.0, tenant="acme"))
        await house.until(lambda: house.learning.learned == 10)
        house.learning.save()
        before = house.learning.views.table.history(house.gateway.decider.catalogue.arms())
    async with open_house(tmp_path, policy="neighbours") as house:
        assert house.learning.load()
        after = house.learning.views.table.history(house.gateway.decider.catalogue.arms())
        assert after.scores.tobytes() == before.scores.tobytes()
        assert len(house.learning.views.index) == 10


async def test_the_log_replayed_gives_the_same_views_as_following_it(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        for i in range(10):
            answer, _ = await house.read(f"question {i}")
            await house.stores.log.judge(Feedback(answer.attempt.decision.decision_id, now_ms(), i / 10, tenant="acme"))
        await house.until(lambda: house.learning.learned == 10)
        followed = house.learning.views.table.history(house.gateway.decider.catalogue.arms())
    async with open_house(tmp_path, policy="neighbours") as house:
        await house.until(lambda: house.learning.learned == 10)
        replayed = house.learning.views.table.history(house.gateway.decider.catalogue.arms())
        assert replayed.scores.tobytes() == followed.scores.tobytes()
        assert replayed.embeddings.tobytes() == followed.embeddings.tobytes()


async def test_a_capacity_budget_of_a_model_sends_the_rest_elsewhere(tmp_path: Path) -> None:
    small = model("small", SMALL, budgets=(Budget("model:small", NanoUsd(420 * SMALL // 1_000_000), 3600),))
    async with open_house(tmp_path, small=small, large=model("large", LARGE)) as house:
        names = [(await house.read(max_tokens=200))[0].attempt.model.name for _ in range(12)]
        assert names[0] == "small"
        assert names[-1] == "large"


def test_a_cost_is_written_exactly_and_put_into_the_usage_event() -> None:
    assert [show_usd(NanoUsd(n)) for n in (0, 1, 1_500_000_000, 2_000_000_000)] == ["0", "0.000000001", "1.5", "2"]
    event = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
    assert json.loads(with_cost(event, NanoUsd(42))[6:])["usage"] == {"cost": 4.2e-08, "prompt_tokens": 1}


async def test_a_backend_that_keeps_failing_is_passed_over_and_asked_where_there_is_no_other(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        house.gateway.decider.spared = {"small": "its engines have failed again and again"}
        answer, _ = await house.read()
        assert answer.attempt.model.name == "large"
        assert "failed again" in answer.attempt.decision.refusals["small"]
        house.gateway.decider.spared |= {"large": "its engines are full"}
        answer, _ = await house.read()
        assert answer.attempt.model.name == "small"
