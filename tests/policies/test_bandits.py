"""Linear posteriors, the explorers over them, and costs that follow what is charged."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special  # noqa: F401 -- imported lazily elsewhere, which takes longer than an example may
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.estimators.linear import CENTRE, LEVEL_WEIGHT, Linear, Posterior
from policies.estimators.means import Means
from policies.estimators.repriced import Repriced
from policies.explorers.thompson import Thompson, best_probabilities
from policies.explorers.ucb import Ucb
from policies.registry import build
from policies.types import Arm, Estimates
from tests.policies.worlds import make_arms, make_context, make_history, make_outcome, make_unit

ARMS = make_arms(3)


@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=6),
    st.lists(st.floats(0.001, 0.5), min_size=6, max_size=6),
)
def test_the_chances_of_being_best_sum_to_one(means: list[float], sigmas: list[float]) -> None:
    chances = best_probabilities(np.array(means), np.array(sigmas[: len(means)]))
    assert chances.sum() == pytest.approx(1.0)
    assert chances.min() >= 0.0


def test_the_quadrature_agrees_with_a_million_draws() -> None:
    means, sigmas = np.array([0.5, 0.52, 0.4, 0.45]), np.array([0.01, 0.002, 0.2, 0.05])
    draws = np.random.default_rng(0).normal(means, sigmas, size=(1_000_000, 4)).argmax(axis=1)
    np.testing.assert_allclose(best_probabilities(means, sigmas), np.bincount(draws) / 1e6, atol=0.01)


def test_two_arms_alike_are_equally_likely_best() -> None:
    np.testing.assert_allclose(best_probabilities(np.array([0.5, 0.5]), np.array([0.1, 0.1])), 0.5)


def test_an_arm_that_may_not_be_chosen_has_no_chance() -> None:
    context = make_context(ARMS)
    estimates = Estimates(np.full(3, 0.5), np.full(3, 0.2), np.full(3, 1e-5))
    chances, _ = Thompson().probabilities(context, estimates, np.array([0.5, -np.inf, 0.5]))
    assert chances[1] == 0.0
    assert chances[0] == pytest.approx(0.5)


def test_optimism_prefers_the_arm_less_known() -> None:
    estimates = Estimates(np.array([0.5, 0.48]), np.array([0.01, 0.2]), np.array([1e-5, 1e-5]))
    chances, scores = Ucb(1.0).probabilities(make_context(ARMS[:2]), estimates, estimates.quality)
    assert chances.tolist() == [0.0, 1.0]
    assert scores[1] == pytest.approx(0.68)


def solved(phi: np.ndarray, scores: np.ndarray, ridge: float) -> np.ndarray:
    """θ by normal equations."""
    prior = np.diag([LEVEL_WEIGHT, *[ridge] * (phi.shape[1] - 1)])
    found: np.ndarray = np.linalg.solve(phi.T @ phi + prior, phi.T @ (scores - CENTRE))
    return found


def test_learning_one_by_one_is_solving_at_once() -> None:
    rng = np.random.default_rng(0)
    posterior = Posterior(8, 5.0, np.eye(8, 24, dtype=np.float32))
    vectors, scores = make_unit(rng, 300, 24), rng.random(300)
    phi = np.array([posterior.features(vector) for vector in vectors])
    for row in range(300):
        posterior.add("m", phi[row], score=scores[row], weight=1.0)
    np.testing.assert_allclose(posterior.theta[0], solved(phi, scores, 5.0), atol=1e-9)


def test_a_history_taken_at_once_is_the_same_as_answer_by_answer() -> None:
    history = make_history(ARMS)
    at_once, stepwise = Linear(Means(), rank=8), Linear(Means(), rank=8)
    at_once.refit(history)
    stepwise.refit(replace(history, scores=np.full(history.scores.shape, np.nan)))
    for row in range(len(history.scores)):
        for column, arm in enumerate(ARMS):
            context = replace(make_context(ARMS), embedding=history.embeddings[row])
            stepwise.learn(make_outcome(context, arm.name, score=history.scores[row, column]))
    for seed in range(5):
        context = make_context(ARMS, None, seed)
        np.testing.assert_allclose(at_once.estimate(context).quality, stepwise.estimate(context).quality, atol=1e-6)


def test_answers_narrow_what_is_known_of_an_arm() -> None:
    estimator, context = Linear(Means(), rank=8), make_context(ARMS)
    before = estimator.estimate(context).sigma
    for _ in range(30):
        estimator.learn(make_outcome(context, "model-0", score=0.9))
    after = estimator.estimate(context)
    assert after.sigma[0] < 0.5 * before[0]
    assert after.sigma[1] == pytest.approx(before[1])
    assert after.quality[0] > 0.75


def test_forgetting_widens_an_arm_that_is_not_asked_and_never_beyond_its_prior() -> None:
    estimator, context = Linear(Means(), rank=8, discount=0.99), make_context(ARMS)
    prior = estimator.estimate(context).sigma[0]
    for _ in range(64):
        estimator.learn(make_outcome(context, "model-0"))
    known = estimator.estimate(context).sigma[0]
    for _ in range(640):
        estimator.learn(make_outcome(context, "model-1"))
    assert known < estimator.estimate(context).sigma[0] <= prior


@pytest.mark.parametrize("name", ["linucb", "thompson"])
def test_a_model_that_degrades_loses_its_traffic(name: str) -> None:
    history = make_history(ARMS)
    policy = build(name, ARMS, {"discount": 0.998})
    policy.refit(history)
    rng = np.random.default_rng(0)
    shares = []
    for step in range(900):
        context = make_context(ARMS, None, step, preference=0.0)
        chosen = int(rng.choice(3, p=policy.propose(context).probabilities))
        shares.append(chosen == 2)
        good = (0.4, 0.6, 0.1)[chosen]
        policy.learn(make_outcome(context, ARMS[chosen].name, score=float(rng.random() < good)))
    assert np.mean(shares[:50]) > 0.6
    assert np.mean(shares[-200:]) < 0.2


def test_a_variant_of_a_known_model_starts_near_its_parent() -> None:
    history = make_history(ARMS)
    estimator = Linear(Means(), rank=8)
    estimator.refit(history)
    variant = Arm("model-2@4bit", 1e-7, 1e-7, parent="model-2", bits=4)
    quality = estimator.estimate(make_context((*ARMS, variant))).quality
    assert quality[3] == pytest.approx(history.scores[:, 2].mean() - 0.04, abs=0.05)


def charge(estimator: Repriced, times: float, answers: int, seed: int = 0) -> float:
    """Let model-0 charge `times` what is expected, noisily; the correction in the end."""
    rng = np.random.default_rng(seed)
    context = make_context(ARMS)
    base = estimator.estimate(context).cost[0]
    for _ in range(answers):
        expected = estimator.estimate(context)
        outcome = make_outcome(context, "model-0", cost=base * times * rng.lognormal(-0.02, 0.2))
        estimator.learn(replace(outcome, score=float("nan"), expected=expected))
    return float(estimator.estimate(context).cost[0] / base)


class Still(Means):
    """Means that never change."""

    def learn(self, outcome: object) -> None:
        """Nothing."""


def test_a_price_five_times_as_high_is_followed_within_a_hundred_answers() -> None:
    assert charge(Repriced(Still()), 5.0, 100) == pytest.approx(5.0, rel=0.35)


def test_noise_around_the_expected_charge_changes_nothing() -> None:
    assert [charge(Repriced(Still()), 1.0, 500, seed) for seed in range(5)] == [1.0] * 5
