"""Thompson sampling as a distribution: how likely each arm is the best, by quadrature instead of by draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from policies.explorers.greedy import allowed
from policies.types import Estimates, Float, RouteContext

NODES: Float = np.linspace(-4.5, 4.5, 19)  # (K,) standard deviations around each arm


def best_probabilities(mean: Float, sigma: Float) -> Float:
    """(n,) P(arm i has the largest of independent normals N(mean, σ²)), means and σ > 0 (n,).

    ∫ Π_{j≠i} Φ((x − μ_j)/σ_j) dΦ((x − μ_i)/σ_i) as a Stieltjes sum over the union of all arms' nodes, so narrow and
    wide arms are both resolved.
    """
    grid = np.sort((mean[:, None] + sigma[:, None] * NODES).ravel())  # (n · K,)
    below = ndtr((grid - mean[:, None]) / sigma[:, None])  # (n, n · K)
    logs = np.log(np.maximum(below, 1e-300))
    others = np.exp(logs.sum(axis=0) - logs)  # (n, n · K), Π over j ≠ i
    weights = np.sum(np.diff(below, axis=1) * (others[:, 1:] + others[:, :-1]), axis=1)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Thompson:
    """P(arm is best) under its posterior, its standard deviation scaled by `width`; less than `floor` is nothing."""

    width: float = 1.0
    floor: float = 1e-4

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"width is {self.width}, expected > 0")

    def probabilities(self, context: RouteContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        arms = np.flatnonzero(allowed(scores))
        chances = best_probabilities(np.nan_to_num(scores)[arms], self.width * estimates.sigma[arms])
        chances[chances < self.floor] = 0.0
        probabilities = np.zeros(len(scores))
        probabilities[arms] = chances / chances.sum()
        return probabilities, scores
