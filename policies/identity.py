"""Models as short vectors over the skills their answers differ in; a new arm's is found from a few dozen prompts.

A query's skills are what the well-known models are predicted to score on it, reduced to a few principal directions; a
model's vector says how much it has of each. After the ability model of LLM Bandit (arXiv 2502.02743), in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policies.priors import WIDTH_SIGMA, width_offset
from policies.types import Arm, Float

NUGGET = 1e-3  # variance every coordinate keeps, however alike the known models are


@dataclass(frozen=True, slots=True)
class Vector:
    """N(mean, covariance) of one model over [1, skills]."""

    mean: Float  # (r + 1,)
    covariance: Float  # (r + 1, r + 1)

    def updated(self, skills: Float, scores: Float, *, noise: float, weights: Float | None = None) -> Vector:
        """After these scores (n,) on these skills (n, r + 1) with variance `noise` around the model's line."""
        weights = np.ones(len(scores)) if weights is None else weights
        precision = np.linalg.inv(self.covariance)
        gained = precision + (skills * weights[:, None]).T @ skills / noise
        covariance = np.linalg.inv(gained)
        moment = precision @ self.mean + skills.T @ (weights * scores) / noise
        return Vector(covariance @ moment, (covariance + covariance.T) / 2)


@dataclass(frozen=True, slots=True)
class Skills:
    """The axes well-known models differ along: principal directions of their predicted scores."""

    centre: Float  # (M,), mean predicted score of each well-known model
    axes: Float  # (r, M), scaled so that each coordinate has unit variance over past queries

    @classmethod
    def of(cls, predicted: Float, rank: int) -> Skills:
        """From predicted scores of well-known models (N, M) on past queries; at most M directions."""
        centre = predicted.mean(axis=0)
        _, values, directions = np.linalg.svd(predicted - centre, full_matrices=False)
        kept = int(np.sum(values[:rank] > 1e-6 * max(float(values[0]), 1e-12)))
        spread = values[:kept] / np.sqrt(len(predicted))
        largest = directions[np.arange(kept), np.abs(directions[:kept]).argmax(axis=1)]
        return cls(centre, directions[:kept] * (np.sign(largest) / spread)[:, None])

    def __call__(self, predicted: Float) -> Float:
        """(n, r + 1) of predicted scores (n, M): one, then the coordinates."""
        return np.hstack([np.ones((len(predicted), 1)), (predicted - self.centre) @ self.axes.T])


def population(vectors: Sequence[Vector]) -> Vector:
    """What to expect of a model before any answer: mean and spread of the known models' vectors."""
    means = np.array([vector.mean for vector in vectors])
    width = means.shape[1]
    spread = np.cov(means, rowvar=False).reshape(width, width) if len(means) > 1 else np.zeros((width, width))
    doubt = np.mean([vector.covariance for vector in vectors], axis=0)
    return Vector(means.mean(axis=0), spread + doubt + NUGGET * np.eye(width))


def width_prior(arm: Arm, parent: Vector, offsets: Mapping[float, float]) -> Vector:
    """A width nobody measured: its parent's vector, lower by the offset measured for that many bits, or the prior's."""
    usual = width_offset(arm.bits) if arm.width_loss is None else arm.width_loss
    offset = offsets.get(arm.bits or 16, usual)
    level = np.eye(len(parent.mean))[0]
    return Vector(parent.mean - offset * level, parent.covariance + np.diag(np.maximum(WIDTH_SIGMA**2 * level, NUGGET)))


def width_offsets(arms: Sequence[Arm], levels: Mapping[str, float]) -> dict[float, float]:
    """Bits -> mean quality lost against the parent, over the arms whose own and whose parent's level are known."""
    lost: dict[float, list[float]] = {}
    for arm in arms:
        if arm.bits is not None and arm.parent is not None and arm.parent in levels and arm.name in levels:
            lost.setdefault(arm.bits, []).append(levels[arm.parent] - levels[arm.name])
    return {bits: float(np.mean(values)) for bits, values in lost.items()}
