"""A policy is judged in the contexts that were logged: prices, budget and all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.registry import build
from router.errors import BudgetExceeded
from router.learning.judgement import judged_answers, proposed
from router.types import Budget, DecisionRecord, Feedback, NanoUsd, SettlementRecord
from tests.router.conftest import House, model, now_ms, open_house

pytestmark = pytest.mark.anyio
CHEAP, EXPENSIVE = 1_000_000_000, 10_000_000_000  # 1 and 10 USD per million tokens


async def teach(house: House, count: int, rng: np.random.Generator) -> None:
    """Both models answer; the expensive one is better."""
    for i in range(count):
        name = ("small", "large")[i % 2]
        answer, _ = await house.read(f"question {rng.integers(10**6)}", model=name)
        score = float(rng.random() < (0.6, 0.66)[i % 2])
        await house.stores.log.judge(Feedback(answer.attempt.decision.decision_id, now_ms(), score, tenant="acme"))
    await house.until(lambda: house.learning.learned == count)


@pytest.mark.parametrize("knob", [0.1, 0.5, 0.78])
async def test_a_policy_is_judged_in_the_contexts_it_decided_in(knob: float, tmp_path: Path) -> None:
    """Prices of 1 and 10 USD per million and 300 outcomes learned: what is judged is what was picked live."""
    rng = np.random.default_rng(3)
    models = {"small": model("small", CHEAP), "large": model("large", EXPENSIVE)}
    async with open_house(tmp_path, policy="neighbours", **models) as house:
        house.learning._refit_every = house.learning._next_refit = 10**9  # when a refit ends, live, is chance
        await teach(house, 300, rng)
        budget = Budget("tenant:acme", NanoUsd(10**10), 86_400)
        house.principal = replace(house.principal, preference=knob, budgets=(budget,))
        for i in range(10):
            answer, _ = await house.read(f"and question {i}")
            await house.stores.log.judge(Feedback(answer.attempt.decision.decision_id, now_ms(), 1.0, tenant="acme"))
            await house.until(lambda: house.learning.learned == 301 + i)  # noqa: B023
        entries = [entry async for _, entry in house.stores.log.tail("", follow=False)]
    asked = {answer.record.decision_id: answer.record for answer in judged_answers(entries)}
    assert len(asked) == 10
    found = proposed(build("neighbours", ()), entries, frozenset(asked), refit_from=10**9)
    for decision_id, record in asked.items():
        assert record.context.budget.name == "tenant:acme/86400"
        assert found[decision_id].tobytes() == record.probabilities.tobytes()


@pytest.mark.parametrize("refuse", [False, True])
async def test_a_query_not_worth_its_price_is_answered_or_refused_as_the_operator_says(
    refuse: bool, tmp_path: Path
) -> None:
    """A budget that could pay a hundredth of what is expected: refused with the time of the reset, or answered."""
    models = {"small": model("small", CHEAP), "large": model("large", EXPENSIVE)}
    async with open_house(tmp_path, policy="neighbours", **models) as house:
        when_short = "refuse" if refuse else "answer"
        house.learning.views.policies["neighbours"] = build("neighbours", (), {"when_short": when_short})
        house.gateway.decider.options = replace(house.gateway.decider.options, refuse_worthless=refuse)
        budget = Budget("tenant:acme", NanoUsd(40_000_000), 86_400)  # an hour's worth of a day
        house.principal = replace(house.principal, preference=1.0, budgets=(budget,))
        refusals: list[BudgetExceeded] = []
        for i in range(30):
            try:
                answer, _ = await house.read(f"question {i}")
            except BudgetExceeded as error:
                refusals.append(error)
                continue
            decision_id = answer.attempt.decision.decision_id
            await house.stores.log.judge(Feedback(decision_id, now_ms(), 0.5, tenant="acme"))
            await house.until(lambda: house.learning.learned == 1 + i - len(refusals))  # noqa: B023
        logged = [entry async for _, entry in house.stores.log.tail("", follow=False)]
        refused = [e for e in logged if isinstance(e, SettlementRecord) and e.outcome == "refused"]
        decided = {e.decision_id for e in logged if isinstance(e, DecisionRecord)}
    assert bool(refusals) == refuse
    assert len(refused) == len(refusals)  # a budget has to last for these too
    assert {each.decision_id for each in refused} <= decided
    assert all("is short" in error.message and error.retry_after_s is not None for error in refusals)


async def test_capacities_are_priced_until_their_reset_where_the_tenant_has_no_budget(tmp_path: Path) -> None:
    capacity = Budget("model:large", NanoUsd(5_000_000), 3_600)
    models = {"small": model("small", CHEAP), "large": model("large", EXPENSIVE, budgets=(capacity,))}
    async with open_house(tmp_path, policy="neighbours", **models) as house:
        answer, _ = await house.read("a question")
        budget = answer.attempt.decision.record.context.budget
    assert budget.remaining == float("inf")
    assert 3_500 < budget.reset_s < 3_700
