"""Each arm's mean quality and the cost of an answer at its list price: the estimate without looking at the query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.estimators.tally import Tally
from policies.priors import QUALITY_SIGMA, quality_prior
from policies.types import Arm, Estimates, Float, History, Outcome, RouteContext

PRIOR_WEIGHT = 4.0  # answers the prior is worth
PRIOR_COMPLETION_TOKENS = 200  # of an answer, before one was seen
JUDGED, SCORE, SQUARE, COSTED, COST, LENGTH, LENGTH_SQUARE, LENGTH_COST, ANSWERS, TOKENS, COUNTED = range(11)
EVERY = 64  # outcomes between two looks at what arms have in common; before that many, every one
LINE_PRIOR = 1e-3  # share of the squared lengths added to the slope's denominator


@dataclass(frozen=True, slots=True)
class _Known:
    """What one arm's sums say, as plain floats: computed when a request needs it, forgotten when the arm learns."""

    quality: float
    sigma: float
    variance: float  # of its scores; 0 where it was not judged twice
    tokens: float  # of a completion
    line: tuple[float, float, float]  # mean cost, mean prompt tokens, slope: for arms without a list price …
    answers: float  # … and how many it rests on

    def observed(self, prompt_tokens: int) -> float:
        """USD that answers to such a prompt cost so far."""
        mean_cost, mean_length, slope = self.line
        return max(mean_cost + slope * (prompt_tokens - mean_length), 0.1 * mean_cost)


@dataclass(frozen=True, slots=True)
class _Pooled:
    """What is known of arms in general."""

    tokens: float  # of a completion
    surplus: float  # by how much judged arms are better than their priors


class Means:
    """Running means for each arm, shrunk to its prior."""

    def __init__(self, *, prior_weight: float = PRIOR_WEIGHT) -> None:
        if prior_weight <= 0:
            raise ValueError(f"prior_weight is {prior_weight}, expected > 0")
        self._tally = Tally(COUNTED + 1)
        self._prior_weight = prior_weight
        self._known: dict[str, tuple[Arm, _Known]] = {}
        self._common = _Pooled(PRIOR_COMPLETION_TOKENS, 0.0)
        self._events = 0

    def estimate(self, context: RouteContext) -> Estimates:
        quality, sigma, costs = zip(*self.floats(context), strict=True)
        return Estimates(np.array(quality), np.array(sigma), np.array(costs))

    def floats(self, context: RouteContext) -> list[tuple[float, float, float]]:
        """(quality, sigma, cost in USD) of each arm: estimate() for whoever goes on computing without numpy."""
        rows = []
        for arm, tokens in zip(context.arms, _read(context), strict=True):
            known = self._of(arm)
            rows.append((known.quality, known.sigma, self._cost(arm, known, context, tokens)))
        return rows

    def costs(self, context: RouteContext) -> Float:
        pairs = zip(context.arms, _read(context), strict=True)
        return np.array([self._cost(arm, self._of(arm), context, tokens) for arm, tokens in pairs])

    def variances(self, arms: Sequence[Arm]) -> list[float]:
        """(n,) of the scores of each arm over all queries; 0 where it was not judged twice."""
        return [self._of(arm).variance for arm in arms]

    def judged(self, arms: Sequence[Arm]) -> float:
        """How many judgements of these arms there were, each by its reliability."""
        rows = [row for arm in arms if (row := self._tally.find(arm.name)) >= 0]
        return float(self._tally.sums[rows, JUDGED].sum())

    def known(self) -> dict[str, float]:
        """Mean score of every arm that was ever judged."""
        return {
            name: float(sums[SCORE] / sums[JUDGED])
            for name, sums in zip(self._tally.names, self._tally.sums, strict=True)
            if sums[JUDGED] > 0
        }

    def _of(self, arm: Arm) -> _Known:
        cache = self._known
        entry = cache.get(arm.name)
        if entry is not None and entry[0] is arm:
            return entry[1]
        sums = self._sums(arm.name)
        quality, sigma = self._quality(arm, sums)
        tokens = (sums[TOKENS] + self._common.tokens) / (sums[ANSWERS] + 1.0)
        known = _Known(quality, sigma, _variance(sums), tokens, _line(sums), sums[COSTED])
        cache[arm.name] = arm, known
        return known

    def _sums(self, name: str) -> list[float]:
        row = self._tally.find(name)
        if row < 0:
            return [0.0] * (COUNTED + 1)
        sums: list[float] = self._tally.sums[row].tolist()
        return sums

    def _quality(self, arm: Arm, sums: list[float]) -> tuple[float, float]:
        """Posterior mean and standard deviation of the mean."""
        prior, prior_sigma = quality_prior(arm, self.known() if arm.parent else None)
        if prior_sigma == QUALITY_SIGMA:  # neither it nor its parent was measured: as the others are, but for its size
            prior = min(1.0, max(0.0, prior + self._common.surplus))
        judged = sums[JUDGED]
        weight = judged + self._prior_weight
        mean = (sums[SCORE] + self._prior_weight * prior) / weight
        if judged <= 0:
            return mean, prior_sigma
        around = max(sums[SQUARE] - 2.0 * mean * sums[SCORE] + judged * mean**2, 0.0)  # Σ (score − mean)²
        before = (self._prior_weight * prior_sigma) ** 2  # what as many answers as the prior is worth would add
        return mean, math.sqrt(max((around + before) / weight, 0.01) / weight)

    def _cost(self, arm: Arm, known: _Known, context: RouteContext, read: float) -> float:
        """USD: the prompt tokens it reads and the mean completion at list prices; what was observed without them;
        between both where the charge varies."""
        if not (arm.prompt_price or arm.completion_price):
            return known.observed(context.prompt_tokens)
        tokens = min(known.tokens, context.max_completion_tokens)
        listed = arm.prompt_price * read + arm.completion_price * tokens
        if not arm.varies:
            return listed
        weight = known.answers / (known.answers + self._prior_weight)
        return listed + weight * (known.observed(context.prompt_tokens) - listed)

    def learn(self, outcome: Outcome) -> None:
        if not outcome.arm:
            return
        sums = self._tally.at(outcome.arm)
        if not math.isnan(outcome.score):
            sums[JUDGED] += outcome.weight
            sums[SCORE] += outcome.weight * outcome.score
            sums[SQUARE] += outcome.weight * outcome.score**2
        if not math.isnan(outcome.cost):
            length, cost, tokens = outcome.context.prompt_tokens, outcome.cost, outcome.completion_tokens
            sums[COSTED : TOKENS + 1] += (1.0, cost, length, length**2, length * cost, 1.0, tokens)
            if outcome.context.counted is not None and outcome.arm in outcome.context.names:
                sums[COUNTED] = outcome.context.counted[outcome.context.names.index(outcome.arm)]
        self._events += 1
        if self._events < EVERY or self._events % EVERY == 0:
            self._pool()
        self._forget(outcome.arm, judged=not math.isnan(outcome.score))

    def _pool(self) -> None:
        """What all arms have in common, as the prior of those nobody tried."""
        sums = self._tally.sums
        priors = {name: quality_prior(arm)[0] for name, (arm, _) in self._known.items()}
        judged = [(known - priors[name]) for name, known in self.known().items() if name in priors]
        self._common = _Pooled(
            tokens=float(sums[:, TOKENS].sum() + PRIOR_COMPLETION_TOKENS) / float(sums[:, ANSWERS].sum() + 1.0),
            surplus=sum(judged) / len(judged) if judged else 0.0,
        )
        self._known = {}

    def _forget(self, name: str, *, judged: bool) -> None:
        """What is known of an arm, and where it was judged also of the arms that take their prior from it."""
        self._known.pop(name, None)
        if judged:
            for child in [arm.name for arm, _ in self._known.values() if arm.parent == name]:
                self._known.pop(child, None)

    def refit(self, history: History) -> None:
        """Start again from history; requests meanwhile see the old sums."""
        tally, reliability = Tally(COUNTED + 1), history.reliability
        for column, arm in enumerate(history.arms):
            scores, costs = history.scores[:, column], history.costs[:, column]
            judged = ~np.isnan(scores)
            seen, weights, paid = scores[judged], reliability[judged], costs[~np.isnan(costs)]
            lengths = history.prompt_tokens[~np.isnan(costs)]
            sums = tally.at(arm.name)
            sums[: SQUARE + 1] = (weights.sum(), weights @ seen, weights @ seen**2)
            sums[COSTED : LENGTH_COST + 1] = _line_sums(lengths, paid)
            sums[COUNTED] = counted = self._sums(arm.name)[COUNTED]
            if arm.completion_price > 0 and not arm.varies:
                tokens = (paid - arm.prompt_price * (counted or 1.0) * lengths) / arm.completion_price
                sums[[ANSWERS, TOKENS]] = (len(paid), np.maximum(tokens, 0.0).sum())
        self._tally = tally
        self._pool()

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        common = np.array([self._common.tokens, self._common.surplus])
        return {**self._tally.state(), "common": common, "events": np.array(self._events)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._tally.restore({key: value for key, value in state.items() if key not in {"common", "events"}})
        self._common = _Pooled(*np.array(state["common"], np.float64).tolist())
        self._events = int(state["events"])
        self._known = {}


def _read(context: RouteContext) -> list[float]:
    """(n,) prompt tokens that each arm is expected to read."""
    if context.counted is None:
        return [float(context.prompt_tokens)] * len(context.arms)
    tokens: list[float] = (context.counted * context.prompt_tokens).tolist()
    return tokens


def _variance(sums: list[float]) -> float:
    judged = max(sums[JUDGED], 1.0)
    return max(sums[SQUARE] / judged - (sums[SCORE] / judged) ** 2, 0.0)


def _line_sums(lengths: NDArray[np.int64], costs: Float) -> Float:
    """(5,) n, Σc, Σl, Σl², Σlc: what a line of cost over prompt tokens needs."""
    return np.array([len(costs), costs.sum(), lengths.sum(), (lengths**2).sum(), (lengths * costs).sum()], np.float64)


def _line(sums: list[float]) -> tuple[float, float, float]:
    """Least squares of cost in USD over prompt tokens: mean cost, mean tokens and slope, never below zero."""
    n = max(sums[COSTED], 1.0)
    mean_cost, mean_length, squares = sums[COST] / n, sums[LENGTH] / n, sums[LENGTH_SQUARE] / n
    spread = squares - mean_length**2 + LINE_PRIOR * squares
    slope = (sums[LENGTH_COST] / n - mean_length * mean_cost) / max(spread, 1e-9)
    return mean_cost, mean_length, max(slope, 0.0)
