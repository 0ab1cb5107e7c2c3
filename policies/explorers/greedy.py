"""Take the best score, or the cheapest, the best or a named arm; keep a small share for exploring where asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.types import Estimates, Float, LoggedContext


def allowed(scores: Float) -> Float:
    """(n,) 1.0 where an arm may be chosen; a score of −inf forbids, unless that would forbid all."""
    finite = np.isfinite(scores)
    return finite.astype(np.float64) if np.count_nonzero(finite) else np.ones(len(scores))


def best(scores: Float, costs: Float) -> int:
    """The arm of the highest score; ties go to the cheaper arm, then to the first."""
    values: list[float] = scores.tolist()  # as built-ins: n is small
    highest = max(values)
    if values.count(highest) == 1:
        return values.index(highest)
    top = np.flatnonzero(scores == highest)
    return int(top[np.argmin(costs[top])])


def point(scores: Float, costs: Float) -> Float:
    """(n,) all weight on the best arm."""
    probabilities = np.zeros(len(scores))
    probabilities[best(scores, costs)] = 1.0
    return probabilities


@dataclass(frozen=True, slots=True)
class Greedy:
    """argmax of the scores."""

    def probabilities(self, context: LoggedContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        return point(scores, estimates.cost), scores


@dataclass(frozen=True, slots=True)
class Epsilon:
    """argmax, but a share of the traffic is spread evenly over the allowed arms."""

    share: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is {self.share}, expected 0 … 1")

    def probabilities(self, context: LoggedContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        support = allowed(scores)
        support *= self.share / np.add.reduce(support)
        support[best(scores, estimates.cost)] += 1.0 - self.share
        return support, scores


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every allowed arm alike."""

    def probabilities(self, context: LoggedContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        support = allowed(scores)
        return support / support.sum(), scores


@dataclass(frozen=True, slots=True)
class Cheapest:
    """The lowest expected cost."""

    def probabilities(self, context: LoggedContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        scores = np.where(allowed(scores) > 0, -estimates.cost, -np.inf)
        return point(scores, estimates.cost), scores


@dataclass(frozen=True, slots=True)
class Best:
    """The highest expected quality, whatever it costs."""

    def probabilities(self, context: LoggedContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        scores = np.where(allowed(scores) > 0, estimates.quality, -np.inf)
        return point(scores, estimates.cost), scores


@dataclass(frozen=True, slots=True)
class Fixed:
    """One named arm whenever it may serve; otherwise the highest score."""

    arm: str

    def probabilities(self, context: LoggedContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        wanted = np.array([arm.name == self.arm for arm in context.arms]) & (allowed(scores) > 0)
        return point(np.where(wanted, 1.0, -np.inf) if wanted.any() else scores, estimates.cost), scores
