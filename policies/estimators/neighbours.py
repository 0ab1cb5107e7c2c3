"""Quality and cost from what the nearest past queries earned, shrunk to each arm's own mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from policies.estimators.means import Means
from policies.estimators.online import seen_sums
from policies.types import Arm, Estimates, Float, Float32, History, Neighbours, Outcome, RouteContext

LEAST_SIGMA = 1e-3  # of a mean of any number of answers


class NeighbourMeans:
    """Mean over the k nearest rows of what was observed, plus `shrinkage` rows of the arm's mean.

    The guard: where the k nearest are on average less similar than `trusted` the query is out of distribution.
    Where scores vary more among them than over all queries they disagree. All neighbours that were found are then
    used, each row below `trusted` weighted by similarity / trusted and all of them by how far they agree. So
    little is left but the arms' means. And quality is held down by up to one standard deviation. That favours the
    arm that is surely good over one that may be (queries rewritten or unlike the history mislead: arXiv 2505.12694).
    Without `contested` it does not matter how they agree."""

    def __init__(
        self, means: Means, *, k: int = 40, shrinkage: float = 10.0, trusted: float = 0.3, contested: bool = True
    ) -> None:
        if k < 1:
            raise ValueError(f"k is {k}, expected ≥ 1")
        if shrinkage < 0:
            raise ValueError(f"shrinkage is {shrinkage}, expected ≥ 0")
        self._means = means
        self._k = k
        self._shrinkage = shrinkage
        self._trusted = trusted
        self._contested = contested

    def estimate(self, context: RouteContext) -> Estimates:
        near = context.neighbours
        if len(near.similarity) == 0:
            return self._means.estimate(context)
        ood_score = self._ood_score(near.similarity)
        table, found = _summed(near), len(near.similarity)
        used = min(self._k, found) if ood_score == 0.0 else found
        sums = self._sums(table, near.similarity[:used])
        disagreement = _disagreement(sums, self._means.variances(context.arms)) if self._contested else 0.0
        if disagreement > 0.0:
            wide = sums if used == found else self._sums(table, near.similarity)
            sums = [[(1.0 - disagreement) * each for each in row] for row in wide[:3]] + sums[3:]
            ood_score = max(ood_score, disagreement)
        shrinkage = self._shrinkage
        doubt = shrinkage if shrinkage > 1.0 else 1.0
        quality, sigma, cost = [], [], []
        rows = zip(*sums, self._means.floats(context), strict=True)
        for weight, total, squares, paid, spent, (prior, prior_sigma, prior_cost) in rows:  # calls cost too much here
            held = weight + shrinkage
            mean = (total + shrinkage * prior) / held if held > 0.0 else prior
            deviation = prior_sigma
            if weight > 0.0:
                spread = squares - 2.0 * mean * total + mean * mean * weight
                spread = (spread / weight if weight > 1.0 else spread) if spread > 0.0 else 0.0
                deviation = math.sqrt((spread + shrinkage * prior_sigma * prior_sigma) / (weight + doubt))
                deviation = deviation if deviation > LEAST_SIGMA else LEAST_SIGMA
            expected = mean - ood_score * deviation
            quality.append(0.0 if expected < 0.0 else 1.0 if expected > 1.0 else expected)
            sigma.append(deviation)
            charged = paid + shrinkage
            cost.append((spent + shrinkage * prior_cost) / charged if charged > 0.0 else prior_cost)
        return Estimates(np.array(quality), np.array(sigma), np.array(cost))

    def costs(self, context: RouteContext) -> Float:
        prior, near = self._means.costs(context), context.neighbours
        if len(near.similarity) == 0:
            return prior
        k = self._k if self._ood_score(near.similarity) == 0.0 else len(near.similarity)
        costs = near.costs[:k]
        paid, spent = seen_sums(self._trust(near.similarity[:k]), costs)
        charged = paid + self._shrinkage
        return np.where(charged > 0.0, (spent + self._shrinkage * prior) / np.where(charged > 0.0, charged, 1.0), prior)

    def _ood_score(self, similarity: Float32) -> float:
        """In [0, 1]: 0 where the k nearest are on average as similar as is trusted, 1 where nothing is alike."""
        near = similarity[: self._k].tolist()
        ood_score = 1.0 - sum(near) / len(near) / self._trusted
        return min(1.0, ood_score) if ood_score > 0.0 else 0.0

    def _trust(self, similarity: Float32) -> Float:
        """(k,) weights of neighbours, nearest first."""
        if similarity[-1] >= self._trusted:  # the usual case, at a quarter of the price
            return _ones(len(similarity))
        return np.minimum(np.maximum(similarity, 0.0) / self._trusted, 1.0).astype(np.float64)

    def _sums(self, table: Float, similarity: Float32) -> list[list[float]]:
        """Five rows (n,) over the nearest: Σw, Σw·score, Σw·score² where judged, Σw and Σw·cost where paid."""
        rows, arms, k = table.shape[0], table.shape[1], len(similarity)
        flat = table.reshape(rows * arms, -1)[:, :k] @ self._trust(similarity)
        sums: list[list[float]] = flat.reshape(rows, arms).tolist()
        return sums

    def judged(self, arms: Sequence[Arm]) -> float:
        """How many judgements of these arms there were, each by its reliability."""
        return self._means.judged(arms)

    def learn(self, outcome: Outcome) -> None:
        self._means.learn(outcome)

    def refit(self, history: History) -> None:
        self._means.refit(history)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return self._means.state()

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._means.restore(state)


def _summed(near: Neighbours) -> Float:
    """(5, n, k): whether it was judged, score, score², each by its reliability, whether it was paid and USD of each
    neighbour; 0 where never.

    Neighbours along the rows: numpy is quick along the last axis only.
    """
    scores, costs = near.scores.T, near.costs.T
    table = np.empty((5, *scores.shape))
    np.equal(scores, scores, out=table[0], casting="unsafe")  # NaN is not itself
    np.fmax(scores, 0.0, out=table[1])
    np.multiply(table[1], table[1], out=table[2])
    if near.weights is not None:
        table[:3] *= near.weights
    np.equal(costs, costs, out=table[3], casting="unsafe")
    np.fmax(costs, 0.0, out=table[4])
    return table


@lru_cache(maxsize=256)
def _ones(k: int) -> Float:
    ones = np.ones(k)
    ones.setflags(write=False)
    return ones


def _disagreement(sums: list[list[float]], variances: list[float]) -> float:
    """In [0, 1]: by how much the scores of all arms vary more among these neighbours than over all queries."""
    near = usual = 0.0
    for weight, total, squares, variance in zip(*sums[:3], variances, strict=True):
        if weight > 0.0:
            near += squares / weight - (total / weight) ** 2
            usual += variance
    if near <= usual or usual <= 0.0:
        return 0.0
    return min(1.0, near / usual - 1.0)


def leave_one_out(history: History, rows: NDArray[np.intp], *, k: int, shrinkage: float = 0.0) -> Estimates:
    """Estimates (S, M) of history rows (S,) from their k nearest other rows, shrunk to the arms' means."""
    similarity = history.embeddings[rows] @ history.embeddings.T  # (S, N)
    similarity[np.arange(len(rows)), rows] = -np.inf
    near = np.argpartition(-similarity, min(k, similarity.shape[1] - 1) - 1, axis=1)[:, :k]
    quality, sigma = _shrunk_mean(history.scores, near, shrinkage, history.reliability)
    cost, _ = _shrunk_mean(history.costs, near, shrinkage, np.ones(len(history.costs)))
    return Estimates(quality, sigma, cost)


def _shrunk_mean(values: Float, near: NDArray[np.intp], shrinkage: float, weights: Float) -> tuple[Float, Float]:
    """(mean (S, M), its standard deviation (S, M)) of values (N, M) with weights (N,) over rows near (S, k); NaN where
    never observed."""
    seen = ~np.isnan(values) * weights[:, None]
    counts = seen.sum(axis=0)
    filled = np.where(seen > 0.0, values, 0.0)
    squared, filled = filled**2 * seen, filled * seen
    overall = np.where(counts > 0, filled.sum(axis=0) / np.where(counts > 0, counts, 1.0), np.nan)
    weight = seen[near].sum(axis=1)
    total = np.where(weight + shrinkage > 0, weight + shrinkage, np.nan)
    mean = (filled[near].sum(axis=1) + shrinkage * overall) / total
    mean = np.where(np.isnan(mean), overall, mean)
    squares = squared[near].sum(axis=1) / np.maximum(weight, 1)
    return mean, np.sqrt(np.maximum(squares - mean**2, 0.01) / np.maximum(weight, 1))
