"""Each arm's mean quality and the cost of an answer at its list price: the estimate without looking at the query."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.estimators.tally import Tally
from policies.priors import quality_priors
from policies.types import Arm, Estimates, Float, History, Outcome, RouteContext

PRIOR_WEIGHT = 4.0  # answers the prior is worth
PRIOR_COMPLETION_TOKENS = 200.0
JUDGED, SCORE, SQUARE, COSTED, COST, ANSWERS, TOKENS = range(7)


class Means:
    """Running means for each arm, shrunk to its prior."""

    def __init__(self, *, prior_weight: float = PRIOR_WEIGHT) -> None:
        if prior_weight <= 0:
            raise ValueError(f"prior_weight is {prior_weight}, expected > 0")
        self._tally = Tally(7)
        self._prior_weight = prior_weight

    def estimate(self, context: RouteContext) -> Estimates:
        sums = self._tally.take(context.arms)
        quality, sigma = self._quality(context.arms, sums)
        return Estimates(quality, sigma, self._cost(context, sums))

    def known(self) -> dict[str, float]:
        """Mean score of every arm that was ever judged."""
        return {
            name: float(sums[SCORE] / sums[JUDGED])
            for name, sums in zip(self._tally.names, self._tally.sums, strict=True)
            if sums[JUDGED] > 0
        }

    def _quality(self, arms: tuple[Arm, ...], sums: Float) -> tuple[Float, Float]:
        """Posterior mean and standard deviation of the mean."""
        prior, prior_sigma = quality_priors(arms, self.known() if any(arm.parent for arm in arms) else None)
        judged = sums[:, JUDGED]
        weight = judged + self._prior_weight
        mean = (sums[:, SCORE] + self._prior_weight * prior) / weight
        spread = np.maximum(sums[:, SQUARE] / np.maximum(judged, 1.0) - mean**2, 0.01)
        return mean, np.where(judged > 0, np.sqrt(spread / weight), prior_sigma)

    def _cost(self, context: RouteContext, sums: Float) -> Float:
        """(n,) USD: prompt tokens and the mean completion at list prices; the mean cost where an arm has no price."""
        prices = np.array([(arm.prompt_price, arm.completion_price) for arm in context.arms]).reshape(-1, 2)
        answers = sums[:, ANSWERS]
        tokens = (sums[:, TOKENS] + PRIOR_COMPLETION_TOKENS) / (answers + 1.0)
        tokens = np.minimum(tokens, context.max_completion_tokens)
        listed = prices[:, 0] * context.prompt_tokens + prices[:, 1] * tokens
        observed = sums[:, COST] / np.maximum(sums[:, COSTED], 1.0)
        return np.asarray(np.where(prices.any(axis=1), listed, observed), dtype=np.float64)

    def learn(self, outcome: Outcome) -> None:
        sums = self._tally.at(outcome.arm)
        if not np.isnan(outcome.score):
            sums[[JUDGED, SCORE, SQUARE]] += outcome.weight * np.array([1.0, outcome.score, outcome.score**2])
        if not np.isnan(outcome.cost):
            sums[[COSTED, COST]] += (1.0, outcome.cost)
            sums[[ANSWERS, TOKENS]] += (1.0, outcome.completion_tokens)

    def refit(self, history: History) -> None:
        """Start again from history."""
        self._tally = Tally(7)
        for column, arm in enumerate(history.arms):
            scores, costs = history.scores[:, column], history.costs[:, column]
            seen = scores[~np.isnan(scores)]
            paid = costs[~np.isnan(costs)]
            sums = self._tally.at(arm.name)
            sums[: COST + 1] = (len(seen), seen.sum(), (seen**2).sum(), len(paid), paid.sum())
            if arm.completion_price > 0:
                tokens = (paid - arm.prompt_price * history.prompt_tokens[~np.isnan(costs)]) / arm.completion_price
                sums[[ANSWERS, TOKENS]] = (len(paid), np.maximum(tokens, 0.0).sum())

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return self._tally.state()

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._tally.restore(state)
