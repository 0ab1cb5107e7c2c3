"""The prices of `paced`: what a budget does to them, and what they do to spending."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks.traces import queries_left
from policies.composed import prices_of
from policies.explorers.cost_weighted_epsilon import CostWeightedEpsilon
from policies.pacers.dual import smoothed_dual, spending_curve
from policies.pacers.remaining import ENDS_EARLY, Remaining, chance_to_come
from policies.types import BudgetState, Estimates, Evidence, Float, Outcome, RouteContext
from tests.policies.worlds import make_arms, make_context

ARMS = make_arms(3)
NAMES = tuple(arm.name for arm in ARMS)


def make_rehearsal(rows: int = 400) -> Estimates:
    """More expensive arms are better; every query has its own length."""
    rng = np.random.default_rng(0)
    quality = np.clip(np.array([0.4, 0.55, 0.7]) + 0.15 * rng.normal(size=(rows, 3)), 0.0, 1.0)
    cost = np.array([1e-5, 4e-5, 2e-4]) * rng.lognormal(sigma=0.5, size=(rows, 1))
    return Estimates(quality, np.full_like(quality, 0.2), cost)


REHEARSAL = make_rehearsal()
EVEN = np.full(len(REHEARSAL.cost), 1.0 / len(REHEARSAL.cost))


def make_pacer() -> Remaining:
    return Remaining(lambda: (NAMES, REHEARSAL))


def price_of(pacer: Remaining, *, remaining: float, reset_s: float = 1000.0, capacity: Float | None = None) -> Float:
    budget = BudgetState(remaining=remaining, limit=1.0, reset_s=reset_s, name="acme")
    context = make_context(ARMS, preference=0.0, budget=budget, capacity=capacity)
    return total(pacer, context)


def total(pacer: Remaining, context: RouteContext) -> Float:
    """(n,) λ + μ + γ."""
    found = pacer.prices(context, REHEARSAL)
    return prices_of(context, Evidence(REHEARSAL, found.budget, found.capacity))


def arrival(second: float, arm: str = "", cost: float = float("nan")) -> Outcome:
    context = make_context(ARMS, now=second, budget=BudgetState(name="acme"))
    return Outcome(context, arm, float("nan"), cost, 1.0, 10, second)


def test_the_price_of_a_budget_rises_as_it_empties() -> None:
    prices = [price_of(make_pacer(), remaining=left)[0] for left in (0.2, 0.1, 0.05, 0.02)]
    assert prices == sorted(prices)
    assert prices[0] < prices[-1]


def test_a_full_budget_has_no_price() -> None:
    assert price_of(make_pacer(), remaining=1e6).max() == 0.0


def test_without_a_budget_only_the_preference_is_charged() -> None:
    context = make_context(ARMS, preference=7.0)
    np.testing.assert_array_equal(total(make_pacer(), context), np.full(3, 7.0))


def test_twice_the_traffic_halves_what_one_query_may_spend() -> None:
    busy, quiet = make_pacer(), make_pacer()
    for each in range(1, 4001):
        busy.learn(arrival(each / 2.0))
        quiet.learn(arrival(float(each)))
    same = price_of(busy, remaining=0.1)[0]
    assert same > price_of(quiet, remaining=0.1)[0]
    assert same == pytest.approx(price_of(quiet, remaining=0.05)[0], rel=0.05)


def test_an_answer_counts_once_though_it_is_settled_and_judged() -> None:
    pacer = make_pacer()
    pacer.learn(arrival(1.0, "model-0", cost=1e-5))
    counted = pacer.state()["everybody.numbers"][0]
    pacer.learn(arrival(2.0, "model-0"))
    assert pacer.state()["everybody.numbers"][0] == counted


def test_a_smaller_capacity_makes_an_arm_more_expensive_and_no_other_free_one() -> None:
    wide = price_of(make_pacer(), remaining=np.inf, capacity=np.array([np.inf, np.inf, 0.05]))
    narrow = price_of(make_pacer(), remaining=np.inf, capacity=np.array([np.inf, np.inf, 0.005]))
    assert narrow[2] > wide[2] > 0.0
    assert narrow[:2].max() == 0.0


def test_prices_of_capacities_keep_the_rehearsal_inside_its_budgets() -> None:
    budgets = np.array([2e-6, 8e-6, 2e-5])
    gamma = smoothed_dual(REHEARSAL.quality, REHEARSAL.cost, budgets, weights=EVEN)
    scores = REHEARSAL.quality - gamma * REHEARSAL.cost
    chosen = np.where(scores.max(axis=1) > 0, scores.argmax(axis=1), -1)
    spent = [REHEARSAL.cost[chosen == arm, arm].sum() / len(EVEN) for arm in range(3)]
    np.testing.assert_array_less(spent, budgets * 1.1)
    assert sum(spent) > 0.9 * budgets.sum()


@pytest.mark.parametrize(("reset_s", "arrivals"), [(1000.0, 20), (100_000.0, 50), (100.0, 5)])
def test_prices_are_solved_again_after_a_fiftieth_of_the_queries_left(reset_s: float, arrivals: int) -> None:
    pacer, capacity = make_pacer(), np.array([np.inf, np.inf, 5e-5 * reset_s])
    price_of(pacer, remaining=np.inf, reset_s=reset_s, capacity=capacity)
    half = price_of(pacer, remaining=np.inf, reset_s=reset_s, capacity=capacity / 2)[2]
    for each in range(1, arrivals):
        pacer.learn(arrival(float(each)))
    assert price_of(pacer, remaining=np.inf, reset_s=reset_s, capacity=capacity / 2)[2] == half
    pacer.learn(arrival(float(arrivals)))
    assert price_of(pacer, remaining=np.inf, reset_s=reset_s, capacity=capacity / 2)[2] != half


def test_a_rehearsal_twice_over_has_the_same_prices() -> None:
    budgets = np.array([2e-6, 8e-6, 2e-5])
    once = smoothed_dual(REHEARSAL.quality, REHEARSAL.cost, budgets, weights=EVEN)
    doubled = [np.concatenate([each, each]) for each in (REHEARSAL.quality, REHEARSAL.cost, EVEN / 2)]
    twice = smoothed_dual(doubled[0], doubled[1], budgets, weights=doubled[2])
    np.testing.assert_allclose(once, twice, rtol=1e-6)


def test_spending_falls_with_the_price() -> None:
    spent = spending_curve(REHEARSAL.quality, REHEARSAL.cost, np.geomspace(1, 1e6, 20), weights=EVEN)[0]
    assert (np.diff(spent) <= 1e-12).all()


def test_the_curve_of_all_prices_at_once_is_the_choice_at_each_of_them() -> None:
    rng = np.random.default_rng(3)
    quality, cost = rng.random((200, 4)).round(1), rng.lognormal(-9.0, 1.0, (200, 4)).round(5)  # with equal arms
    quality[::7, 2] = -np.inf
    prices, weights = np.concatenate([[0.0], np.geomspace(1e1, 1e6, 30)]), rng.dirichlet(np.ones(200))
    found = spending_curve(quality, cost, prices, weights=weights)
    for at, price in enumerate(prices):
        scores, rows = quality - price * cost, np.arange(200)
        chosen = scores.argmax(axis=1)
        kept = weights * (scores[rows, chosen] >= 0.0)
        expected = [each @ values[rows, chosen] for values in (cost, quality) for each in (weights, kept)]
        assert found[:, at] == pytest.approx(expected, rel=1e-12)


def test_queries_are_still_expected_once_the_planned_ones_have_come() -> None:
    left = [queries_left(1000, arrived) for arrived in range(0, 1000, 100)]
    assert left == sorted(left, reverse=True)
    assert queries_left(1000, 1500) > queries_left(1000, 999)


def test_a_capacity_is_priced_a_little_below_what_certain_queries_would_pay() -> None:
    budgets = np.array([2e-6, 8e-6, 2e-5])
    certain = smoothed_dual(REHEARSAL.quality, REHEARSAL.cost, budgets, weights=EVEN)
    ours = price_of(make_pacer(), remaining=np.inf, reset_s=1000.0, capacity=1000.0 * budgets)
    assert (ours < certain).all()
    assert (ours > (1.0 - ENDS_EARLY) * certain).all()


def test_money_for_queries_that_may_not_come_still_lasts_to_the_last_planned_one() -> None:
    left, gone = 0.03, []
    for at in range(0, 1000, 50):
        price = price_of(make_pacer(), remaining=left, reset_s=queries_left(1000, at))[0]
        left -= 50 * float(spending_curve(REHEARSAL.quality, REHEARSAL.cost, np.array([price]), weights=EVEN)[0, 0])
        gone.append(1.0 - left / 0.03)
    assert 0.45 < gone[9] < 0.6  # halfway
    assert 0.95 < gone[-1] <= 1.0


def test_an_expected_query_comes_with_a_chance_that_is_even_over_time() -> None:
    chance = chance_to_come(1000)[:, 0]
    assert 1.0 >= chance.max() > chance.min() >= 1.0 - ENDS_EARLY
    assert chance.mean() == pytest.approx(1.0 - ENDS_EARLY / 2, abs=1e-3)
    assert chance[::7].mean() == pytest.approx(chance.mean(), abs=2e-3)


def test_an_arm_that_nobody_rehearsed_breaks_no_price() -> None:
    arms = (*ARMS, *make_arms(5)[4:])
    budget = BudgetState(remaining=0.05, limit=1.0, reset_s=1000.0, name="acme")
    context = make_context(arms, preference=0.0, budget=budget, capacity=np.full(4, 0.01))
    prices = total(make_pacer(), context)
    assert np.isfinite(prices).all()
    assert (prices >= 0).all()


def test_a_restored_pacer_asks_the_same_prices() -> None:
    first, second = make_pacer(), make_pacer()
    rng = np.random.default_rng(0)
    for each in range(120):
        price_of(first, remaining=0.1, capacity=np.full(3, 0.02))
        quality, cost = rng.random(3), rng.random(3) * 1e-4
        seen = replace(arrival(each * 0.7), expected=Estimates(quality, np.ones(3), cost))
        first.learn(seen)
    second.restore(first.state())
    for capacity in (None, np.full(3, 0.02)):
        ours = price_of(first, remaining=0.1, capacity=capacity)
        np.testing.assert_array_equal(ours, price_of(second, remaining=0.1, capacity=capacity))


def test_exploring_gives_every_arm_the_same_money_and_stays_cheap() -> None:
    estimates = Estimates(np.array([0.4, 0.6, 0.8]), np.full(3, 0.1), np.array([1e-5, 1e-4, 1.8e-4]))
    probabilities, _ = CostWeightedEpsilon(0.03).probabilities(make_context(ARMS), estimates, np.array([0.4, 0.6, 0.3]))
    explored = (probabilities - np.array([0.0, 0.97, 0.0])) * estimates.cost
    np.testing.assert_allclose(explored, explored[0])
    assert explored.sum() <= 0.03 * 3 * estimates.cost.min()
    assert probabilities.sum() == pytest.approx(1.0)


def test_exploring_never_takes_an_arm_that_is_spent() -> None:
    estimates = Estimates(np.full(3, 0.5), np.full(3, 0.1), np.full(3, 1e-5))
    probabilities, _ = CostWeightedEpsilon(0.1).probabilities(
        make_context(ARMS), estimates, np.array([0.4, -np.inf, 0.3])
    )
    assert probabilities[1] == 0.0
