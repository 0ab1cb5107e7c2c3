"""What every named policy promises."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
from msgspec.structs import replace

from policies.registry import BLIND, NAMES, build, options_of
from policies.types import Arm, Policy
from tests.policies.worlds import make_arms, make_context, make_history, make_outcome

ARMS = make_arms()
HISTORY = make_history(ARMS)
NEW = Arm("new", 1e-7, 2e-7, parent="model-3", bits=4, parameters=8e9)
OPTIONS: dict[str, dict[str, object]] = {"fixed": {"arm": "model-2"}}
IGNORE_CAPACITY = {"port"}  # the paper's rule: a query whose arm is spent is lost
IGNORE_PREFERENCE = BLIND


def make(name: str) -> Policy:
    return build(name, ARMS, OPTIONS.get(name))


@cache
def fitted(name: str) -> Policy:
    policy = make(name)
    policy.refit(HISTORY)
    return policy


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def policy(name: str) -> Policy:
    return deepcopy(fitted(name))


def taught(policy: Policy, rounds: int = 30) -> Policy:
    for seed in range(rounds):
        context = make_context(ARMS, HISTORY, seed)
        policy.learn(make_outcome(context, ARMS[seed % len(ARMS)].name, score=(seed % 5) / 4))
    return policy


def test_the_distribution_sums_to_one_and_is_never_negative(policy: Policy) -> None:
    for seed in range(20):
        probabilities = policy.propose(make_context(ARMS, HISTORY, seed)).probabilities
        assert probabilities.shape == (len(ARMS),)
        assert probabilities.min() >= 0
        assert probabilities.sum() == pytest.approx(1.0, abs=1e-12)


def test_a_fresh_policy_without_history_or_neighbours_can_decide(name: str) -> None:
    proposal = make(name).propose(make_context(ARMS))
    assert proposal.probabilities.sum() == pytest.approx(1.0)
    assert np.isfinite(proposal.estimates.quality).all()
    assert np.isfinite(proposal.estimates.cost).all()


def test_an_arm_never_seen_before_is_met_with_a_prior(policy: Policy) -> None:
    proposal = policy.propose(make_context((*ARMS, NEW), HISTORY))
    assert proposal.probabilities.sum() == pytest.approx(1.0)
    assert 0 <= proposal.estimates.quality[-1] <= 1
    assert proposal.estimates.sigma[-1] > 0


def test_an_arm_never_seen_before_can_be_learnt_about(policy: Policy) -> None:
    context = make_context((*ARMS, NEW), HISTORY)
    for _ in range(3):
        policy.learn(make_outcome(context, "new"))
    assert np.isfinite(policy.propose(context).scores[-1])


def test_an_arm_that_left_is_not_proposed_for(policy: Policy) -> None:
    assert policy.propose(make_context(ARMS[1:3], HISTORY)).probabilities.shape == (2,)


def test_the_order_of_arms_does_not_matter(policy: Policy) -> None:
    forward = policy.propose(make_context(ARMS, HISTORY))
    backward = policy.propose(make_context(ARMS[::-1], HISTORY))
    np.testing.assert_allclose(forward.probabilities, backward.probabilities[::-1], atol=1e-9)


def test_proposing_changes_nothing(policy: Policy) -> None:
    before = snapshot(policy)
    first = policy.propose(make_context(ARMS, HISTORY)).probabilities
    second = policy.propose(make_context(ARMS, HISTORY)).probabilities
    np.testing.assert_array_equal(first, second)
    assert_same(before, snapshot(policy))


def test_a_snapshot_restores_the_exact_state(name: str, policy: Policy) -> None:
    stored = snapshot(taught(policy))
    other = make(name)
    other.restore(stored)  # type: ignore[attr-defined]
    assert_same(stored, snapshot(other))
    for seed in range(5):
        context = make_context(ARMS, HISTORY, seed)
        np.testing.assert_array_equal(policy.propose(context).scores, other.propose(context).scores)


def test_a_restored_replica_learns_on_as_the_first_does(name: str, policy: Policy) -> None:
    other = make(name)
    other.restore(snapshot(policy))  # type: ignore[attr-defined]
    assert_same(snapshot(taught(policy)), snapshot(taught(other)))


def test_an_outcome_without_a_score_or_a_cost_is_taken_in(policy: Policy) -> None:
    context = make_context(ARMS, HISTORY)
    policy.learn(make_outcome(context, "model-0", score=math.nan, cost=math.nan))
    assert np.isfinite(policy.propose(context).scores).all()


@pytest.mark.parametrize("name", [each for each in NAMES if each not in IGNORE_CAPACITY], indirect=True)
def test_a_spent_arm_gets_nothing(policy: Policy) -> None:
    for spent in range(len(ARMS)):
        capacity = np.full(len(ARMS), np.inf)
        capacity[spent] = 0.0
        assert policy.propose(make_context(ARMS, HISTORY, capacity=capacity)).probabilities[spent] == 0.0


@pytest.mark.parametrize("name", [each for each in NAMES if each not in IGNORE_PREFERENCE], indirect=True)
def test_a_higher_price_of_quality_never_buys_a_more_expensive_arm(policy: Policy) -> None:
    context = make_context(ARMS, HISTORY)
    spend = []
    for price in np.concatenate([[0.0], np.logspace(-1, 8, 40)]):
        proposal = policy.propose(replace(context, preference=float(price)))
        spend.append(proposal.probabilities @ proposal.estimates.cost)
    assert np.all(np.diff(spend) <= 1e-12)


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"no policy 'oracle'; there are .*random, fixed"):
        build("oracle", ARMS)


def test_an_unknown_option_is_refused_with_the_options_there_are(name: str) -> None:
    with pytest.raises(ValueError, match="has no option 'depth'"):
        build(name, ARMS, {"depth": 3})


def test_an_option_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"neighbours\.k is 'many', expected int"):
        build("neighbours", ARMS, {"k": "many"})


def test_options_are_listed_with_their_defaults(name: str) -> None:
    assert isinstance(options_of(name), dict)


def snapshot(policy: Policy) -> dict[str, np.ndarray]:
    return dict(policy.state())  # type: ignore[attr-defined]


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.dtype == second[key].dtype
        np.testing.assert_array_equal(value, second[key])
