"""Off-policy evaluation: what a policy that was not live would have earned on the traffic of one that was.

Estimators of Dudík, Langford & Li (arXiv 1103.4601). All need a propensity for every logged choice and refuse where
too little of the log looks like what the other policy would have done.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.lazy_module import LazyModule
from policies.types import Float

special = LazyModule("scipy.special")

MIN_EFFECTIVE = 50.0  # answers
MIN_SHARE = 0.01  # of the log


class TooFewAnswers(ValueError):
    """The log says too little about the other policy; the message says how little and what would help."""


@dataclass(frozen=True, slots=True)
class Logged:
    """N judged answers of the live policy, and what another policy would have done on the same queries."""

    rewards: Float  # (N,) any unit; what was observed of the chosen arm
    propensities: Float  # (N,) of the choice under the live policy, in (0, 1]
    target: Float  # (N,) probability that the other policy gives the same choice, in [0, 1]
    reliability: Float | None = None  # (N,) of the rewards, in (0, 1]; None: one each

    def __post_init__(self) -> None:
        if not (len(self.rewards) == len(self.propensities) == len(self.target)):
            raise ValueError("rewards, propensities and target probabilities differ in length")
        if np.any(self.propensities <= 0) or np.any(self.propensities > 1):
            raise ValueError("a propensity is outside (0, 1]")

    @property
    def weights(self) -> Float:
        """(N,) π(a|x) / p(a|x), by the reliability of each reward over their mean."""
        ratios = self.target / self.propensities
        return ratios if self.reliability is None else ratios * self.shares

    @property
    def shares(self) -> Float:
        """(N,) what each answer counts, of mean one."""
        if self.reliability is None:
            return np.ones(len(self.rewards))
        return np.asarray(self.reliability / self.reliability.mean())


@dataclass(frozen=True, slots=True)
class Value:
    """An estimate of the mean reward of a query, with its 95 % interval."""

    mean: float
    low: float
    high: float
    effective: float  # answers the estimate rests on, Kish's (Σw)² / Σw²


def effective_answers(weights: Float) -> float:
    """Kish's effective sample size of importance weights (N,)."""
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def check_support(logged: Logged) -> float:
    """The effective sample size. Raises: TooFewAnswers below 50 answers or 1 % of the log."""
    effective = effective_answers(logged.weights)
    needed = max(MIN_EFFECTIVE, MIN_SHARE * len(logged.rewards))
    if effective < needed:
        raise TooFewAnswers(
            f"the log of {len(logged.rewards)} answers is worth {effective:.0f} of the other policy's, {needed:.0f} are"
            " needed: log more traffic, or explore a larger share of it"
        )
    return effective


def ips(logged: Logged) -> Value:
    """Inverse propensity scoring: mean of w·r; unbiased, wide where weights are. Raises: TooFewAnswers."""
    effective = check_support(logged)
    return _mean_value(logged.weights * logged.rewards, effective)


def snips(logged: Logged) -> Value:
    """Self-normalised: Σ w·r / Σ w; a little biased, never outside the rewards' range. Raises: TooFewAnswers.

    The interval is the delta method's, from residuals w(r − v).
    """
    effective = check_support(logged)
    weights = logged.weights
    mean = float(weights @ logged.rewards / weights.sum())
    residuals = weights * (logged.rewards - mean) / weights.mean()
    return _value(mean, float(np.std(residuals, ddof=1)) / np.sqrt(len(residuals)), effective)


def doubly_robust(logged: Logged, *, expected: Float, expected_chosen: Float) -> Value:
    """Mean of Σ_a π(a|x) q̂(x, a) + w·(r − q̂(x, a_logged)); right where q̂ or the propensities are.

    expected (N,) is the model's value of the other policy, expected_chosen (N,) the model's value of the logged choice.
    The model must not have been fitted on the rewards of the same rows. Raises: TooFewAnswers.
    """
    effective = check_support(logged)
    return _mean_value(logged.shares * expected + logged.weights * (logged.rewards - expected_chosen), effective)


def cross_fitted(
    choices: NDArray[np.intp],
    contexts: Float,
    logged: Logged,
    *,
    arms: int,
    folds: int = 5,
    ridge: float = 10.0,
) -> Float:
    """(N, M) rewards expected of every arm by ridge regression on contexts (N, p), each row by a fit without it.

    choices (N,) are columns of arms; rows are dealt to folds in turn.
    """
    rewards, shares = logged.rewards, logged.shares
    expected = np.zeros((len(rewards), arms))
    fold = np.arange(len(rewards)) % folds
    design = np.hstack([np.ones((len(rewards), 1)), contexts])
    for part in range(folds):
        held = fold == part
        overall = float(np.average(rewards[~held], weights=shares[~held]))
        for arm in range(arms):
            rows = ~held & (choices == arm)
            weighed = design[rows] * shares[rows][:, None]
            gram = weighed.T @ design[rows] + ridge * np.eye(design.shape[1])
            expected[held, arm] = overall + design[held] @ np.linalg.solve(gram, weighed.T @ (rewards[rows] - overall))
    return expected


def _mean_value(terms: Float, effective: float) -> Value:
    return _value(float(terms.mean()), float(np.std(terms, ddof=1)) / np.sqrt(len(terms)), effective)


def _value(mean: float, error: float, effective: float) -> Value:
    half = float(special.ndtri(0.975)) * error
    return Value(mean, mean - half, mean + half, effective)
