"""The best score, with a small share of the traffic spread so that every arm gets the same money."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.explorers.greedy import allowed, point
from policies.types import Estimates, Float, RouteContext


@dataclass(frozen=True, slots=True)
class Frugal:
    """argmax, but `share` of the queries goes to the allowed arms in inverse proportion to their expected cost.

    Spread evenly, one query in a hundred on an arm eighteen times as dear as the cheapest takes a sixth of a budget
    that just covers the cheapest; this way exploring never costs more than share · n times the cheapest answer.
    """

    share: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is {self.share}, expected 0 … 1")

    def probabilities(self, context: RouteContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        best = point(scores, estimates.cost)
        if self.share == 0.0:
            return best, scores
        spread = allowed(scores) / np.maximum(estimates.cost, 1e-12)
        spread *= self.share / np.add.reduce(spread)
        best *= 1.0 - self.share
        best += spread
        return best, scores
