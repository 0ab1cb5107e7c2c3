"""Quality and cost from what the nearest past queries earned, shrunk to each arm's own mean."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.estimators.means import Means
from policies.types import Estimates, Float, History, Outcome, RouteContext


class NeighbourMeans:
    """Mean over the k nearest rows of what was observed, plus `shrinkage` rows of the arm's mean.

    Far neighbours count less: a row whose similarity is below `trusted` is weighted by similarity / trusted, so a query
    unlike anything seen falls back to the arms' means with a wide standard deviation.
    """

    def __init__(self, means: Means, *, k: int = 40, shrinkage: float = 10.0, trusted: float = 0.3) -> None:
        if k < 1:
            raise ValueError(f"k is {k}, expected ≥ 1")
        if shrinkage < 0:
            raise ValueError(f"shrinkage is {shrinkage}, expected ≥ 0")
        self._means = means
        self._k = k
        self._shrinkage = shrinkage
        self._trusted = trusted

    def estimate(self, context: RouteContext) -> Estimates:
        base = self._means.estimate(context)
        near = context.neighbours
        if len(near.similarity) == 0:
            return base
        trust = np.clip(near.similarity[: self._k] / self._trusted, 0.0, 1.0).astype(np.float64)
        quality, weight, spread = self._shrunk(near.scores[: self._k], trust, base.quality)
        sigma = np.sqrt((spread + self._shrinkage * base.sigma**2) / (weight + max(self._shrinkage, 1.0)))
        sigma = np.where(weight > 0, np.maximum(sigma, 1e-3), base.sigma)
        cost, _, _ = self._shrunk(near.costs[: self._k], trust, base.cost)
        return Estimates(np.clip(quality, 0.0, 1.0), sigma, cost)

    def _shrunk(self, values: Float, trust: Float, prior: Float) -> tuple[Float, Float, Float]:
        """(mean (n,), weight of what was observed (n,), variance around the mean (n,)) of values (k, n)."""
        seen = np.where(np.isnan(values), 0.0, trust[:, None])  # (k, n)
        filled = np.where(np.isnan(values), 0.0, values)
        weight = seen.sum(axis=0)
        total = weight + self._shrinkage
        mean = np.where(total > 0, (seen * filled).sum(axis=0) + self._shrinkage * prior, prior) / np.where(
            total > 0, total, 1.0
        )
        spread = (seen * (filled - mean) ** 2).sum(axis=0) / np.maximum(weight, 1.0)
        return mean, weight, spread

    def learn(self, outcome: Outcome) -> None:
        self._means.learn(outcome)

    def refit(self, history: History) -> None:
        self._means.refit(history)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return self._means.state()

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._means.restore(state)


def leave_one_out(history: History, rows: NDArray[np.intp], *, k: int, shrinkage: float = 0.0) -> Estimates:
    """Estimates (S, M) of history rows (S,) from their k nearest other rows, shrunk to the arms' means."""
    similarity = history.embeddings[rows] @ history.embeddings.T  # (S, N)
    similarity[np.arange(len(rows)), rows] = -np.inf
    near = np.argpartition(-similarity, min(k, similarity.shape[1] - 1) - 1, axis=1)[:, :k]
    quality, sigma = _shrunk_mean(history.scores, near, shrinkage)
    cost, _ = _shrunk_mean(history.costs, near, shrinkage)
    return Estimates(quality, sigma, cost)


def _shrunk_mean(values: Float, near: NDArray[np.intp], shrinkage: float) -> tuple[Float, Float]:
    """(mean (S, M), its standard deviation (S, M)) of values (N, M) over rows near (S, k); NaN where never observed."""
    seen = ~np.isnan(values)
    counts = seen.sum(axis=0)
    filled = np.where(seen, values, 0.0)
    overall = np.where(counts > 0, filled.sum(axis=0) / np.maximum(counts, 1), np.nan)
    weight = seen[near].sum(axis=1)
    total = np.where(weight + shrinkage > 0, weight + shrinkage, np.nan)
    mean = (filled[near].sum(axis=1) + shrinkage * overall) / total
    mean = np.where(np.isnan(mean), overall, mean)
    squares = (filled[near] ** 2).sum(axis=1) / np.maximum(weight, 1)
    return mean, np.sqrt(np.maximum(squares - mean**2, 0.01) / np.maximum(weight, 1))
