"""The best score, with a small share of the traffic spread so that every arm gets the same money."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from policies.explorers.greedy import Epsilon, allowed, best, point
from policies.types import Estimates, Float, LoggedContext


@dataclass(frozen=True, slots=True)
class CostWeightedEpsilon(Epsilon):
    """argmax, but `share` of the queries goes to the allowed arms in inverse proportion to their expected cost.

    Spread evenly, one query in a hundred on an arm eighteen times as expensive as the cheapest takes a sixth of a
    budget that just covers the cheapest. This way exploring never costs more than share · n times the cheapest answer.
    """

    share: float = 0.01

    def probabilities(self, context: LoggedContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        if self.share == 0.0:
            return point(scores, estimates.cost), scores
        spread = np.maximum(estimates.cost, 1e-12)
        np.divide(1.0, spread, out=spread)
        if not math.isfinite(sum(scores.tolist())):
            spread *= allowed(scores)
        spread *= self.share / np.add.reduce(spread)
        spread[best(scores, estimates.cost)] += 1.0 - self.share
        return spread, scores
