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
JUDGED, SCORE, SQUARE, COSTED, COST, LENGTH, LENGTH_SQUARE, LENGTH_COST, ANSWERS, TOKENS = range(10)
LINE_PRIOR = 1e-3  # share of the squared lengths added to the slope's denominator


class Means:
    """Running means for each arm, shrunk to its prior."""

    def __init__(self, *, prior_weight: float = PRIOR_WEIGHT) -> None:
        if prior_weight <= 0:
            raise ValueError(f"prior_weight is {prior_weight}, expected > 0")
        self._tally = Tally(10)
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
        """(n,) USD: prompt tokens and the mean completion at list prices; what was observed without them."""
        prices = np.array([(arm.prompt_price, arm.completion_price) for arm in context.arms]).reshape(-1, 2)
        answers = sums[:, ANSWERS]
        tokens = (sums[:, TOKENS] + PRIOR_COMPLETION_TOKENS) / (answers + 1.0)
        tokens = np.minimum(tokens, context.max_completion_tokens)
        listed = prices[:, 0] * context.prompt_tokens + prices[:, 1] * tokens
        observed = _line(sums, float(context.prompt_tokens))
        return np.asarray(np.where(prices.any(axis=1), listed, observed), dtype=np.float64)

    def learn(self, outcome: Outcome) -> None:
        if not outcome.arm:
            return
        sums = self._tally.at(outcome.arm)
        if not np.isnan(outcome.score):
            sums[[JUDGED, SCORE, SQUARE]] += outcome.weight * np.array([1.0, outcome.score, outcome.score**2])
        if not np.isnan(outcome.cost):
            sums[COSTED : LENGTH_COST + 1] += _line_sums(np.array([outcome.prompt_tokens]), np.array([outcome.cost]))
            sums[[ANSWERS, TOKENS]] += (1.0, outcome.completion_tokens)

    def refit(self, history: History) -> None:
        """Start again from history; requests meanwhile see the old sums."""
        tally = Tally(10)
        for column, arm in enumerate(history.arms):
            scores, costs = history.scores[:, column], history.costs[:, column]
            seen, paid = scores[~np.isnan(scores)], costs[~np.isnan(costs)]
            lengths = history.prompt_tokens[~np.isnan(costs)]
            sums = tally.at(arm.name)
            sums[: SQUARE + 1] = (len(seen), seen.sum(), (seen**2).sum())
            sums[COSTED : LENGTH_COST + 1] = _line_sums(lengths, paid)
            if arm.completion_price > 0:
                tokens = (paid - arm.prompt_price * lengths) / arm.completion_price
                sums[[ANSWERS, TOKENS]] = (len(paid), np.maximum(tokens, 0.0).sum())
        self._tally = tally

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return self._tally.state()

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._tally.restore(state)


def _line_sums(lengths: NDArray[np.int64], costs: Float) -> Float:
    """(5,) n, Σc, Σl, Σl², Σlc: what a line of cost over prompt tokens needs."""
    return np.array([len(costs), costs.sum(), lengths.sum(), (lengths**2).sum(), (lengths * costs).sum()], np.float64)


def _line(sums: Float, length: float) -> Float:
    """(n,) USD: least squares of cost over prompt tokens, never below zero; zero where nothing was paid yet."""
    n = np.maximum(sums[:, COSTED], 1.0)
    mean_cost, mean_length = sums[:, COST] / n, sums[:, LENGTH] / n
    spread = sums[:, LENGTH_SQUARE] / n - mean_length**2 + LINE_PRIOR * sums[:, LENGTH_SQUARE] / n
    slope = (sums[:, LENGTH_COST] / n - mean_length * mean_cost) / np.maximum(spread, 1e-9)
    return np.maximum(mean_cost + np.maximum(slope, 0.0) * (length - mean_length), 0.1 * mean_cost)
