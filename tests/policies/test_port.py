"""Duals of budgets, as PORT publishes them and solved exactly."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from policies.baselines import assignment
from policies.pacers.budgets import Budgets
from policies.pacers.exact import exact_dual
from policies.pacers.port import port_dual
from policies.pacers.sample import QuerySample
from policies.registry import build
from policies.replay import BudgetGate
from policies.simulation import FixedNeighbours, PolicyRun, QueryStream, simulate
from policies.types import History, Neighbours
from tests.policies.worlds import make_arms, make_context, make_history, make_outcome

ARMS = make_arms(3)
RNG = np.random.default_rng(0)
QUALITY = RNG.random((400, 3))
COST = RNG.uniform(0.5, 1.5, (400, 3)) * np.array([1e-5, 3e-5, 1e-4])


def dual_value(gamma: np.ndarray, cover: np.ndarray, limits: np.ndarray) -> float:
    scores = QUALITY - (cover.T @ gamma) * COST
    return float(gamma @ limits + np.maximum(scores.max(axis=1), 0).sum())


def test_the_exact_dual_is_worth_what_the_assignment_lp_is() -> None:
    limits = np.array([1e-3, 2e-3, 3e-3])
    gamma = exact_dual(QUALITY, COST, cover=np.eye(3), limits=limits)
    primal = (assignment(QUALITY, COST, budgets=limits) * QUALITY).sum()
    assert dual_value(gamma, np.eye(3), limits) == pytest.approx(primal, rel=1e-6)


def test_one_shared_budget_has_one_price() -> None:
    limits = np.array([4e-3])
    gamma = exact_dual(QUALITY, COST, cover=np.ones((1, 3)), limits=limits)
    primal = (assignment(QUALITY, COST, budgets=None, total=4e-3) * QUALITY).sum()
    assert gamma.shape == (1,)
    assert dual_value(gamma, np.ones((1, 3)), limits) == pytest.approx(primal, rel=1e-6)


def test_money_that_is_plenty_has_no_price() -> None:
    gamma = exact_dual(QUALITY, COST, cover=np.eye(3), limits=np.full(3, 1e3))
    np.testing.assert_allclose(gamma, 0.0, atol=1e-9)


def test_arms_that_were_not_eligible_are_left_out_of_the_dual() -> None:
    quality = QUALITY.copy()
    quality[:, 2] = np.nan
    gamma = exact_dual(quality, COST, cover=np.eye(3), limits=np.array([1e-3, 2e-3, 1e-9]))
    assert gamma[2] == 0.0


def test_the_published_dual_stays_in_its_box() -> None:
    gamma = port_dual(QUALITY, COST, cover=np.eye(3), limits=np.array([1e-3, 2e-3, 3e-3]), share=1.0, alpha=1e-4)
    assert gamma.min() >= 0.0
    assert gamma.max() <= 1.0


def test_a_sample_keeps_the_latest_queries_and_takes_up_new_arms() -> None:
    sample = QuerySample(2)
    sample.add(["a"], np.array([0.1]), np.array([1.0]))
    sample.add(["a", "b"], np.array([0.2, 0.3]), np.array([1.0, 2.0]))
    sample.add(["b"], np.array([0.4]), np.array([2.0]))
    assert sample.names == ("a", "b")
    assert len(sample) == 2
    np.testing.assert_array_equal(sample.quality, [[np.nan, 0.4], [0.2, 0.3]])


def test_what_was_spent_is_gone_and_never_negative() -> None:
    left = Budgets(10, 5.0, {"a": 1.0}).less({"a": 3.0, "b": 1.0})
    assert (left.shared, left.arms["a"]) == (1.0, 0.0)


@pytest.mark.parametrize(("horizon", "budget"), [(0, 1.0), (10, -1.0)])
def test_a_horizon_or_budget_that_makes_no_sense_is_refused(horizon: int, budget: float) -> None:
    with pytest.raises(ValueError, match="expected ≥"):
        build("port", ARMS, {"horizon": horizon, "budget": budget})


def make_stream(history: History, rows: int = 400) -> QueryStream:
    other = make_history(history.arms, rows=rows, seed=5)
    return QueryStream(
        other.arms, other.embeddings, other.scores, other.costs, other.prompt_tokens, other.prompt_characters
    )


def run_with(name: str, limits: np.ndarray, **options: object) -> PolicyRun:
    """A policy under a budget for each arm."""
    history = make_history(ARMS, rows=600)
    stream = make_stream(history)
    budgets = dict(zip((arm.name for arm in ARMS), limits.tolist(), strict=True))
    policy = build(name, ARMS, {"horizon": len(stream), "budgets": budgets, **options})
    policy.refit(history)
    gate, rng = BudgetGate(3, budgets=limits), np.random.default_rng(0)
    return simulate(policy, stream, FixedNeighbours(stream, history), gate=gate, rng=rng, drops=name != "port")


LIMITS = np.array([2e-3, 4e-3, 8e-3])


def test_port_explores_first_and_then_prices_budgets() -> None:
    choices = run_with("port", LIMITS, explore=0.1).choices
    assert len(np.unique(choices[:40])) == 3
    assert len(np.unique(choices[40:])) >= 2


def test_the_exact_dual_earns_more_than_the_published_one() -> None:
    assert run_with("port-exact", LIMITS).result.performance > run_with("port", LIMITS).result.performance


def test_the_exact_dual_spreads_its_money_over_the_whole_stream() -> None:
    run = run_with("port-exact", LIMITS)
    assert 0.85 * LIMITS.sum() < run.spent[-1] <= LIMITS.sum()
    assert 0.35 < run.spent[len(run.spent) // 2] / run.spent[-1] < 0.65


def test_port_takes_the_mean_of_its_five_neighbours_however_they_disagree() -> None:
    arms = make_arms(2)
    policy = build("port", arms)
    history = make_history(arms)
    policy.refit(replace(history, scores=np.full_like(history.scores, 0.9)))
    scores = np.tile([[1.0, 0.2], [0.0, 0.2]], (30, 1))
    near = Neighbours(np.full(60, 0.9, np.float32), scores, np.full((60, 2), 1e-5))
    found = policy.propose(replace(make_context(arms, None), neighbours=near)).estimates
    np.testing.assert_allclose(found.quality, [0.6, 0.2])


def test_a_new_horizon_begins_without_the_old_prices() -> None:
    """Budgets are full again: what was solved for the old ones is over, and the random phase comes again."""
    arms, history = make_arms(3), make_history(make_arms(3), 80)
    policy = build("port", arms, {"horizon": 40, "explore": 0.25, "budget": 1e-4})
    policy.refit(history)
    priced = []
    for seed in range(55):
        context = make_context(arms, history, seed)
        proposal = policy.propose(context)
        priced.append(proposal.evidence.capacity_prices is not None and bool(proposal.evidence.capacity_prices.any()))
        outcome = make_outcome(context, arms[0].name)
        policy.learn(replace(outcome, expected=proposal.evidence.expected))
    assert not any(priced[:10])
    assert all(priced[10:40])
    assert not any(priced[41:50])
    assert all(priced[51:])
