"""The rules of judging."""

from __future__ import annotations

import numpy as np
import pytest

from policies.baselines import assignment, batch_split, greedy, optimum
from policies.intervals import interval_of
from policies.replay import (
    LOST,
    BudgetGate,
    Frontier,
    admitted,
    aiq,
    apgr,
    cpt,
    judge,
    split,
    split_budget,
    split_weights,
    sweep,
    total_budget,
    upper_hull,
    zero_router,
)

RNG = np.random.default_rng(3)
SCORES = RNG.uniform(0, 1, (120, 3))
COSTS = RNG.uniform(0.5, 1.5, (120, 3)) * np.array([1.0, 3.0, 10.0])


def test_stream_and_history_share_no_row_and_miss_none() -> None:
    stream, history = split(100, stream=30, seed=4)
    assert len(stream) == 30
    assert sorted([*stream, *history]) == list(range(100))


def test_a_seed_always_gives_the_same_split() -> None:
    np.testing.assert_array_equal(split(100, stream=30, seed=4)[0], split(100, stream=30, seed=4)[0])


def test_a_stream_that_leaves_no_history_is_refused() -> None:
    with pytest.raises(ValueError, match="does not leave history"):
        split(100, stream=100, seed=0)


@pytest.mark.parametrize("rule", ["weighted", "cost", "perf", "uniform", "extreme1", "extreme2", "random"])
def test_a_split_spends_the_whole_total(rule: str) -> None:
    weights = split_weights(rule, SCORES.mean(axis=0), COSTS.mean(axis=0))
    assert split_budget(7.0, weights).sum() == pytest.approx(7.0)


def test_an_extreme_split_needs_more_arms_than_it_favours() -> None:
    with pytest.raises(ValueError, match="extreme3 needs more than 3 arms"):
        split_weights("extreme3", SCORES.mean(axis=0), COSTS.mean(axis=0))


def test_the_extreme_split_favours_the_least_efficient_arm() -> None:
    weights = split_weights("extreme1", np.array([0.5, 0.5, 0.5]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(weights, [6.25, 6.25, 50.0])


def test_a_query_that_does_not_fit_is_lost_and_uncharged() -> None:
    gate = BudgetGate(2, budgets=np.array([1.0, 5.0]))
    served = admitted(np.array([0, 0, 1, LOST]), np.array([[0.7, 9], [0.7, 9], [9, 4], [1, 1]], float), gate)
    assert served.tolist() == [True, False, True, False]
    assert gate.spent.tolist() == [0.7, 4.0]


def test_one_total_holds_over_all_arms() -> None:
    gate = BudgetGate(2, total=1.0)
    assert [gate.admit(0, 0.6), gate.admit(1, 0.6), gate.admit(1, 0.4)] == [True, False, True]


def test_performance_counts_only_what_was_served() -> None:
    result = judge(
        np.array([0, 1]), np.array([True, False]), scores=np.array([[0.5, 1], [1, 1]]), costs=np.ones((2, 2))
    )
    assert (result.performance, result.cost, result.throughput) == (0.5, 1.0, 1)


def test_no_router_beats_the_optimum_on_the_truth() -> None:
    budgets = split_budget(total_budget(COSTS), split_weights("weighted", SCORES.mean(axis=0), COSTS.mean(axis=0)))
    shares = assignment(SCORES, COSTS, budgets=budgets)
    bound = (shares * SCORES).sum()
    for worth in (SCORES, -COSTS):
        choices = greedy(worth, COSTS, costs=COSTS, gate=BudgetGate(3, budgets=budgets))
        served = admitted(choices, COSTS, BudgetGate(3, budgets=budgets))
        assert judge(choices, served, scores=SCORES, costs=COSTS).performance <= bound


def test_the_optimum_keeps_every_budget() -> None:
    budgets = np.array([20.0, 30.0, 40.0])
    shares = assignment(SCORES, COSTS, budgets=budgets)
    assert np.all((shares * COSTS).sum(axis=0) <= budgets * (1 + 1e-7))


def test_the_optimum_keeps_one_total() -> None:
    shares = assignment(SCORES, COSTS, budgets=None, total=50.0)
    assert (shares * COSTS).sum() <= 50.0 * (1 + 1e-7)


def test_without_a_limit_the_optimum_takes_the_best_arm() -> None:
    np.testing.assert_array_equal(optimum(SCORES, COSTS, budgets=None), SCORES.argmax(axis=1))


def test_batch_split_chooses_for_every_query_when_money_is_plenty() -> None:
    choices = batch_split(SCORES, COSTS, budgets=np.full(3, 1e6), batch=50)
    np.testing.assert_array_equal(choices, SCORES.argmax(axis=1))


def test_the_hull_is_concave_and_above_the_sweep() -> None:
    frontier = sweep(SCORES + 0.3 * RNG.normal(size=SCORES.shape), COSTS, scores=SCORES, costs=COSTS)
    hull = upper_hull(frontier)
    slopes = np.diff(hull.qualities) / np.diff(hull.costs)
    assert np.all(np.diff(slopes) < 0)
    inside = frontier.costs >= hull.costs[0]
    reached = np.interp(frontier.costs[inside], hull.costs, hull.qualities)
    assert np.all(reached >= frontier.qualities[inside] - 1e-12)


def test_knowing_the_truth_has_a_higher_aiq_than_mixing_single_arms() -> None:
    assert aiq(sweep(SCORES, COSTS, scores=SCORES, costs=COSTS), COSTS) > aiq(zero_router(SCORES, COSTS), COSTS)


def test_a_flat_frontier_has_its_height_as_aiq() -> None:
    frontier = Frontier(np.array([0.5, 20.0]), np.array([0.4, 0.4]))
    assert aiq(frontier, COSTS) == pytest.approx(0.4)


def test_a_blind_router_recovers_half_the_gap() -> None:
    rng = np.random.default_rng(0)
    weak, strong = np.zeros(20_000), np.ones(20_000)
    assert apgr(rng.uniform(size=20_000), weak=weak, strong=strong) == pytest.approx(0.5, abs=1e-3)


def test_a_router_that_knows_the_gain_recovers_it_first() -> None:
    strong = np.array([1.0] * 10 + [0.0] * 90)
    weak = np.zeros(100)
    assert apgr(strong, weak=weak, strong=strong) == pytest.approx(0.95)
    assert cpt(strong, weak=weak, strong=strong, share=0.5) == pytest.approx(0.05)


def test_the_interval_over_seeds_covers_the_mean_and_needs_more_than_one_seed_to_be_wide() -> None:
    interval = interval_of(np.array([1.0, 2.0, 3.0]))
    assert interval.low < interval.mean == 2.0 < interval.high
    assert interval_of(np.array([1.0])).low == 1.0
