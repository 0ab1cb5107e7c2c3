"""A judgement counts by its reliability, at once and after every refit."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from policies.estimators.cold_start import fit_cold_start, known_arms
from policies.estimators.forest import Forest
from policies.estimators.kernel import KernelRidge
from policies.estimators.linear import Linear
from policies.estimators.means import Means
from policies.estimators.neighbours import NeighbourMeans, leave_one_out
from policies.estimators.stack import Stack
from policies.estimators.stacked_or_neighbours import surface
from policies.ope import Logged, Value, cross_fitted, doubly_robust, ips, snips
from policies.registry import NAMES, build
from policies.types import History, Neighbours, StoredPolicy
from tests.policies.worlds import make_arms, make_context, make_history, make_outcome

ARMS = make_arms(2)
PASSES, WEIGHT = 40, 0.2
OPTIONS: dict[str, dict[str, object]] = {"fixed": {"arm": "model-1"}}


def passes(weight: float) -> History:
    """Forty answers of the first arm, all of them right, judged by something that is right now and then."""
    history = make_history(ARMS, PASSES)
    scores = np.full(history.scores.shape, np.nan)
    scores[:, 0] = 1.0
    return replace(history, scores=scores, weights=np.full(PASSES, weight))


def quality(policy: StoredPolicy) -> float:
    return float(policy.propose(make_context(ARMS, None)).estimates.quality[0])


@pytest.mark.parametrize("name", NAMES)
def test_weak_judgements_say_the_same_before_and_after_a_refit(name: str) -> None:
    at_once, refitted = (build(name, ARMS, OPTIONS.get(name)) for _ in range(2))
    history = passes(WEIGHT)
    for row in range(PASSES):
        context = make_context(ARMS, None, seed=row, embedding=history.embeddings[row])
        outcome = make_outcome(context, ARMS[0].name, score=1.0)
        at_once.learn(replace(outcome, weight=WEIGHT))
    refitted.refit(history)
    assert quality(refitted) == pytest.approx(quality(at_once), abs=0.03)
    certain = build(name, ARMS, OPTIONS.get(name))
    certain.refit(passes(1.0))
    assert quality(refitted) < quality(certain) - 0.05


@pytest.mark.parametrize("name", NAMES)
def test_weak_neighbours_count_by_their_reliability(name: str) -> None:
    """Where neighbours are looked at; elsewhere they say nothing either way."""
    policy, history = build(name, ARMS, OPTIONS.get(name)), make_history(ARMS, 300)
    policy.refit(history)
    near = make_context(ARMS, history).neighbours
    wrong = Neighbours(near.similarity, np.zeros_like(near.scores), near.costs)
    weak = replace(wrong, weights=np.full(len(near.similarity), 0.02, np.float32))
    sure, unsure = (
        policy.propose(make_context(ARMS, history, neighbours=each)).estimates.quality for each in (wrong, weak)
    )
    assert (unsure >= sure).all()


def twice(history: History) -> History:
    """Every row two times, each by half."""
    doubled = {
        name: np.concatenate([value] * 2)
        for name in ("embeddings", "scores", "costs", "prompt_tokens", "prompt_characters")
        if (value := getattr(history, name)) is not None
    }
    return replace(history, **doubled, weights=np.full(2 * len(history.scores), 0.5))


def test_two_halves_are_a_whole() -> None:
    history = make_history(ARMS, 200)
    for make in (lambda: NeighbourMeans(Means()), lambda: Linear(Means(), discount=1.0)):
        whole, halves = make(), make()
        whole.refit(history)
        halves.refit(twice(history))
        context = make_context(ARMS, None)
        np.testing.assert_allclose(halves.estimate(context).quality, whole.estimate(context).quality, atol=1e-6)


def test_weighted_members_of_the_stack_follow_what_is_reliable() -> None:
    """One half of the rows is right and sure, the other wrong and hardly believed."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(600, 4)).astype(np.float32)
    truth = np.where(inputs[:, :2] > 0, 0.8, 0.2)
    targets = np.where(np.arange(600)[:, None] % 2 == 0, truth, 1.0 - truth)
    weights = np.where(np.arange(600) % 2 == 0, 1.0, 0.01)
    members: tuple[Forest | KernelRidge, ...] = (
        KernelRidge(width=0.5, penalty=1.0, landmarks=100),
        Forest(trees=20, depth=5, leaf=5, inputs=1.0),
    )
    for member in members:
        member.fit(inputs, targets, weights)
        weighed = np.abs(member.predict(inputs) - truth).mean()
        member.fit(inputs, targets)
        assert weighed < 0.6 * np.abs(member.predict(inputs) - truth).mean()


def test_a_stack_and_a_new_arm_s_labels_count_by_their_reliability() -> None:
    history = make_history(make_arms(4), 500)
    wrong = replace(history, scores=np.where(np.arange(500)[:, None] % 2, 0.0, history.scores))
    weights = np.where(np.arange(500) % 2, 0.01, 1.0)
    whole, weighted, naive = Stack(), Stack(), Stack()
    for stack, given in ((whole, history), (weighted, replace(wrong, weights=weights)), (naive, wrong)):
        stack.fit(given, surface(None, given.prompt_characters, given.prompt_tokens))
    np.testing.assert_allclose(weighted.means, whole.means, atol=0.04)
    assert (naive.means < whole.means - 0.15).all()
    known = known_arms(history.scores[:, :3], history.scores[:, :3])
    labels = np.where(np.arange(500) < 40, 0.0, np.nan)
    sure, unsure = (fit_cold_start(known, labels, None, np.full(500, each)) for each in (1.0, 0.02))
    expected = [float((known.expected @ found.weights).mean()) + found.offset for found in (sure, unsure)]
    assert expected[0] < expected[1] - 0.05


def test_what_is_left_out_and_rehearsed_counts_by_reliability() -> None:
    history = make_history(ARMS, 100)
    scores = history.scores.copy()
    scores[50:] = 0.0
    weighted = replace(history, scores=scores, weights=np.where(np.arange(100) < 50, 1.0, 0.001))
    rows = np.arange(20)
    found = leave_one_out(weighted, rows, k=30, shrinkage=5.0).quality
    assert found.mean() == pytest.approx(history.scores[:50].mean(), abs=0.05)
    assert leave_one_out(replace(weighted, weights=None), rows, k=30, shrinkage=5.0).quality.mean() < 0.6 * found.mean()


def test_other_policies_are_judged_by_what_is_reliable() -> None:
    """Half of the answers are judged by somebody who always says 1 and is hardly believed."""
    rng = np.random.default_rng(0)
    n = 4000
    rewards = np.where(np.arange(n) % 2, 1.0, rng.random(n) < 0.3).astype(float)
    propensities, target = np.full(n, 0.5), np.full(n, 0.5)
    logged = Logged(rewards, propensities, target, np.where(np.arange(n) % 2, 0.01, 1.0))
    expected = cross_fitted(np.zeros(n, np.intp), rng.normal(size=(n, 2)), logged, arms=1)
    robust = doubly_robust(logged, expected=expected[:, 0], expected_chosen=expected[:, 0])
    for value in (ips(logged), snips(logged), robust):
        assert isinstance(value, Value)
        assert value.mean == pytest.approx(0.31, abs=0.03)
