"""The formula where machines are rented: ĉ is what an answer takes of them, budgets count what is charged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from policies.estimators.means import PRIOR_COMPLETION_TOKENS
from policies.registry import NAMES, build
from policies.types import Arm, BudgetState, MeasuredCost
from tests.policies.worlds import make_arms, make_context, make_history

ARMS = make_arms(3)


def measured_cost(completion_usd: Sequence[float], prompt_usd: float = 1e-8, tokens: float = 150.0) -> MeasuredCost:
    """NaN: this arm costs its list price."""
    usd = np.array(completion_usd)
    return MeasuredCost(np.where(np.isnan(usd), np.nan, prompt_usd), usd, np.full(len(usd), tokens))


def test_the_cost_is_the_expected_tokens_at_what_they_are_measured_to_cost() -> None:
    context = make_context(ARMS, measured_cost=measured_cost([5e-6, 1e-6, 2e-6]))
    cost = build("neighbours", ARMS).propose(context).estimates.cost
    wanted = 100 * 1e-8 + PRIOR_COMPLETION_TOKENS * np.array([5e-6, 1e-6, 2e-6])
    np.testing.assert_allclose(cost, wanted)


def test_an_arm_whose_machine_has_no_price_costs_its_list_price_to_the_last_bit() -> None:
    listed = build("neighbours", ARMS).propose(make_context(ARMS)).estimates.cost
    mixed = build("neighbours", ARMS).propose(make_context(ARMS, measured_cost=measured_cost([5e-6, np.nan, 2e-6])))
    assert mixed.estimates.cost[1] == listed[1]
    np.testing.assert_array_equal(mixed.evidence.expected.cost, listed)


def test_the_cheapest_is_the_cheapest_to_run_not_to_list() -> None:
    policy = build("cheapest", ARMS)
    assert policy.propose(make_context(ARMS)).probabilities.argmax() == 0
    assert (
        policy.propose(make_context(ARMS, measured_cost=measured_cost([5e-6, 1e-6, 2e-6]))).probabilities.argmax() == 1
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fixed"])
def test_every_policy_weighs_the_learned_cost(name: str) -> None:
    policy, history = build(name, ARMS), make_history(ARMS)
    policy.refit(history)
    usd = measured_cost([5e-6, 1e-6, 2e-6])
    found = policy.propose(make_context(ARMS, history, measured_cost=usd))
    charged = policy.propose(make_context(ARMS, history)).estimates.cost
    listed = np.array([(arm.prompt_price, arm.completion_price) for arm in ARMS])
    tokens = (charged - 100 * listed[:, 0]) / listed[:, 1]
    np.testing.assert_allclose(found.estimates.cost, 100 * usd.prompt_usd + tokens * usd.completion_usd)
    np.testing.assert_array_equal(found.evidence.expected.cost, charged)


def test_a_model_that_charges_nothing_costs_its_usual_answer() -> None:
    free = (Arm("free", 0.0, 0.0), *ARMS[1:])
    context = make_context(free, measured_cost=measured_cost([4e-6, 1e-6, 2e-6], tokens=150.0))
    cost = build("neighbours", free).propose(context).estimates.cost
    assert cost[0] == pytest.approx(100 * 1e-8 + 150 * 4e-6)


def test_no_answer_is_expected_to_be_longer_than_it_may_be() -> None:
    context = make_context(ARMS, measured_cost=measured_cost([5e-6, 1e-6, 2e-6]), max_completion_tokens=10)
    cost = build("neighbours", ARMS).propose(context).estimates.cost
    np.testing.assert_allclose(cost, 100 * 1e-8 + 10 * np.array([5e-6, 1e-6, 2e-6]))


def test_a_budget_is_priced_by_what_is_charged_and_a_preference_by_what_it_takes() -> None:
    """score = q̂ − λ ĉ − μ · charged, whatever the two currencies."""
    history = make_history(ARMS)
    policy = build("paced", ARMS)
    policy.refit(history)
    poor = BudgetState(remaining=1e-4, limit=1e-3, reset_s=3600.0, name="tenant")
    at_list = policy.propose(make_context(ARMS, history, budget=poor))
    found = policy.propose(make_context(ARMS, history, budget=poor, measured_cost=measured_cost([5e-6, 1e-6, 2e-6])))
    mu = at_list.prices - 10.0
    assert (mu > 0).all()
    wanted = found.estimates.quality - 10.0 * found.estimates.cost - mu * found.evidence.expected.cost
    np.testing.assert_allclose(found.estimates.quality - found.prices * found.estimates.cost, wanted)


def test_what_a_budget_cannot_pay_is_judged_by_the_charge() -> None:
    """Expensive to run and cheap to charge: allowed; cheap to run and expensive to charge: not."""
    cheap, expensive = Arm("cheap", 1e-9, 1e-8), Arm("expensive", 1e-4, 1e-3)
    context = make_context(
        (cheap, expensive), budget=BudgetState(1e-3, 1.0, 60.0, "t"), measured_cost=measured_cost([1e-3, 1e-12])
    )
    assert build("best", (cheap, expensive)).propose(context).probabilities.tolist() == [1.0, 0.0]
