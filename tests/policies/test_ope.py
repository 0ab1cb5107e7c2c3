"""Judging a policy by another one's log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from policies.ope import (
    Logged,
    TooFewAnswers,
    Value,
    cross_fitted,
    doubly_robust,
    effective_answers,
    ips,
    snips,
)

ARMS, ROWS, SEEDS = 3, 800, 200
WEIGHTS = np.random.default_rng(9).normal(size=(4, ARMS)) * 0.15


@dataclass(frozen=True)
class Log:
    """Traffic of a softmax policy, and another softmax policy's probabilities and true value on it."""

    contexts: np.ndarray
    choices: np.ndarray
    logged: Logged
    target: np.ndarray  # (N, M)


def truth(contexts: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + contexts @ WEIGHTS, 0.02, 0.98)


def softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def target_of(contexts: np.ndarray) -> np.ndarray:
    return softmax(contexts @ WEIGHTS * 12)


def simulate(seed: int) -> Log:
    rng = np.random.default_rng(seed)
    contexts = rng.normal(size=(ROWS, 4))
    live = 0.1 + 0.7 * softmax(contexts @ np.roll(WEIGHTS, 1, axis=1) * 6)
    live /= live.sum(axis=1, keepdims=True)
    choices = (rng.random((ROWS, 1)) > live.cumsum(axis=1)).sum(axis=1).clip(max=ARMS - 1)
    rows = np.arange(ROWS)
    rewards = (rng.random(ROWS) < truth(contexts)[rows, choices]).astype(float)
    target = target_of(contexts)
    return Log(contexts, choices, Logged(rewards, live[rows, choices], target[rows, choices]), target)


@pytest.fixture(scope="module")
def true_value() -> float:
    contexts = np.random.default_rng(77).normal(size=(2_000_000, 4))
    return float((target_of(contexts) * truth(contexts)).sum(axis=1).mean())


@pytest.fixture(scope="module")
def logs() -> list[Log]:
    return [simulate(seed) for seed in range(SEEDS)]


def by_doubly_robust(log: Log) -> Value:
    expected = cross_fitted(log.choices, log.contexts, log.logged, arms=ARMS)
    chosen = expected[np.arange(ROWS), log.choices]
    return doubly_robust(log.logged, expected=(log.target * expected).sum(axis=1), expected_chosen=chosen)


ESTIMATORS = {"ips": lambda log: ips(log.logged), "snips": lambda log: snips(log.logged), "dr": by_doubly_robust}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_interval_covers_the_truth_in_90_to_99_of_100_logs(name: str, logs: list[Log], true_value: float) -> None:
    values = [ESTIMATORS[name](log) for log in logs]
    covered = np.mean([value.low <= true_value <= value.high for value in values])
    assert 0.90 <= covered <= 0.99


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_estimates_centre_on_the_truth(name: str, logs: list[Log], true_value: float) -> None:
    means = np.array([ESTIMATORS[name](log).mean for log in logs])
    assert abs(means.mean() - true_value) < 4 * means.std() / np.sqrt(SEEDS)


def test_a_model_of_the_reward_narrows_the_interval(logs: list[Log]) -> None:
    widths = {
        name: np.mean([value.high - value.low for value in map(ESTIMATORS[name], logs[:50])]) for name in ("ips", "dr")
    }
    assert widths["dr"] < widths["ips"]


def test_a_policy_that_the_log_never_tried_is_refused_with_the_reason() -> None:
    rng = np.random.default_rng(0)
    logged = Logged(rng.random(1000), np.full(1000, 0.5), (rng.random(1000) < 0.01).astype(float))
    with pytest.raises(TooFewAnswers, match=r"1000 answers is worth \d+ .* 50 are needed"):
        ips(logged)


def test_judging_the_live_policy_by_its_own_log_is_its_mean() -> None:
    rewards = np.random.default_rng(1).random(400)
    propensities = np.random.default_rng(2).uniform(0.1, 1.0, 400)
    logged = Logged(rewards, propensities, propensities)
    assert ips(logged).mean == pytest.approx(rewards.mean())
    assert snips(logged).mean == pytest.approx(rewards.mean())
    assert effective_answers(logged.weights) == pytest.approx(400)


def test_a_propensity_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="propensity is outside"):
        Logged(np.ones(2), np.array([0.0, 1.0]), np.ones(2))
