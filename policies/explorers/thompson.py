"""Thompson sampling as a distribution: how likely each arm is the best, by quadrature instead of by draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.explorers.greedy import allowed
from policies.lazy_module import LazyModule
from policies.types import Estimates, Float, LoggedContext

special = LazyModule("scipy.special")

LEAST = 1e-18  # chances below it are taken for it: a product of others that matters has no two such factors
FINE = 0.2
NODES: Float = np.linspace(-4.5, 4.5, 19)  # (K,) standard deviations around each arm


def best_probabilities(mean: Float, sigma: Float) -> Float:
    """(n,) P(arm i has the largest of independent normals N(mean, σ²)), means and σ > 0 (n,).

    ∫ Π_{j≠i} Φ((x − μ_j)/σ_j) dΦ((x − μ_i)/σ_i) as a Stieltjes sum over the union of all arms' nodes, so narrow and
    wide arms are both resolved. Of nodes closer than FINE standard deviations of the narrowest arm one is kept.
    """
    grid = (mean[:, None] + sigma[:, None] * NODES).ravel()
    reached = float((mean + NODES[0] * sigma).max())  # below it the best is surely better: nothing happens there
    grid = _thinned(np.sort(grid[grid >= reached]), FINE * float(sigma.min()))  # (G,), G ≤ n · K
    standard = np.subtract(grid, mean[:, None])
    standard /= sigma[:, None]
    below = special.ndtr(standard, out=standard)  # (n, G)
    np.maximum(below, LEAST, out=below)
    others = np.multiply.reduce(below) / below  # (n, G), Π over j ≠ i
    weights = np.einsum("ij,ij->i", below[:, 1:] - below[:, :-1], others[:, 1:] + others[:, :-1])
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _thinned(grid: Float, least: float) -> Float:
    """The first of the ascending nodes (G,) in every cell of this width, and the last of all."""
    cells = np.floor(grid / least)
    kept = np.empty(len(grid), np.bool_)
    np.not_equal(cells[1:], cells[:-1], out=kept[1:])
    kept[0] = kept[-1] = True
    return grid[kept]


@dataclass(frozen=True, slots=True)
class Thompson:
    """P(arm is best) under its posterior, its standard deviation scaled by `width`; less than `floor` is nothing."""

    width: float = 1.0
    floor: float = 1e-4

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"width is {self.width}, expected > 0")

    def probabilities(self, context: LoggedContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        arms = np.flatnonzero(allowed(scores))
        chances = best_probabilities(np.nan_to_num(scores)[arms], self.width * estimates.sigma[arms])
        chances[chances < self.floor] = 0.0
        probabilities = np.zeros(len(scores))
        probabilities[arms] = chances / chances.sum()
        return probabilities, scores
