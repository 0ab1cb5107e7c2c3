"""What a few labelled prompts say of a new arm, through the arms that are known well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.estimators.levels import new_level
from policies.types import Float

ESTABLISHED = 200  # labelled rows from which an arm is fitted on its own
LEVEL_SPREAD = 0.03  # standard deviation of a newcomer's level beyond what the known arms' differences span
SLOPE_SPREAD = 0.15  # the same of how much more than they it gains where all of them are good
ALONE = (0.1, 0.5)  # both, where a single known arm shows no differences
CAUTION = 8.0  # quality a newcomer is held down for each unit of its level's variance: 0.02 for ± 0.05
COMPLETE = 50  # rows that every known arm answered, from which shared noise is learned


def newcomers(scores: Float) -> NDArray[np.bool_]:
    """(M,) whether a column of scores (n, M) has too few labels to be fitted alone; none where all have."""
    labels = (~np.isnan(scores)).sum(axis=0)
    few = labels < min(ESTABLISHED, 0.5 * float(labels.max(initial=0)))
    return np.asarray(few & ~few.all(), dtype=np.bool_)


def fit_newcomer(known: Float, expected: Float, scores: Float, dearness: Float | None = None) -> tuple[Float, float]:
    """(weights (E,), offset): q̂ of a new arm is weights · q̂ of the known ones + offset.

    known (n, E) scores of the known arms, NaN where not observed; expected (n, E) what was expected of them out of
    fold; scores (n,) of the new arm, NaN where not labelled; dearness (E + 1,) logarithms of mean costs, the new arm's
    last. How good it is altogether is judged by item response, see levels.py; where it is good, by shape(). Then it is
    held down by CAUTION times the variance of its level and at most a standard deviation, since among many arms the
    one overrated is the one chosen.
    """
    luck = known - expected
    bias = np.nan_to_num(luck).sum(axis=0) / np.maximum((~np.isnan(luck)).sum(axis=0), 1)
    level, variance = new_level(known, expected + bias, scores, dearness)
    weights = shape(luck - bias, expected + bias, scores, level=level, variance=variance)
    offset = level - float((expected @ weights).mean())
    return weights, offset - min(CAUTION * variance, float(np.sqrt(variance)))


def shape(luck: Float, expected: Float, scores: Float, *, level: float, variance: float) -> Float:
    """(E,) weights of the known arms that say where a new arm is better than elsewhere.

    luck (n, E), score less what was expected, NaN where not observed; expected (n, E); scores (n,) of the new arm, NaN
    where not labelled; its level with the variance. Before any label the new arm is one more draw from where the known
    ones came from: their mean, give or take their differences. Labels move it by Bayesian linear regression, in which
    the luck of the known arms on the same prompts explains part of its own. They count by how they differ from each
    other; what they say together is in the level, one more observation. It takes more than ten lines because each
    builds on those before.
    """
    arms, noise, mean = luck.shape[1], shared_noise(luck), expected.mean(axis=1)
    apart = (np.eye(arms) - 1.0 / arms) * np.sqrt(
        (1.0 + 1.0 / arms) / max(arms - 1, 1)
    )  # a draw is expected @ apart @ z
    rows = np.flatnonzero(~np.isnan(scores))
    complete = np.asarray(~np.isnan(luck[rows]).any(axis=1))
    beside = np.where(complete[:, None], luck[rows], 0.0)
    inputs = np.column_stack([expected[rows] @ apart, np.ones(len(rows)), mean[rows] - mean.mean(), beside])
    target = scores[rows] - mean[rows] - noise.shared * beside.mean(axis=1)
    usual = float(_coin(expected.mean(axis=0)).mean() / _coin(np.array(level)))
    precise = usual / np.where(complete, noise.left, noise.whole)
    if len(rows):
        inputs, target = (each - precise @ each / precise.sum() for each in (inputs, target))
    overall = np.concatenate([expected.mean(axis=0) @ apart, [1.0, 0.0], np.zeros(arms)])
    spreads = np.concatenate([np.ones(arms), _spreads(arms), np.full(arms, noise.pulls)])
    precision = (inputs.T * precise) @ inputs + np.diag(spreads**-2.0) + np.outer(overall, overall) / variance
    moment = inputs.T @ (precise * target) + overall * (level - mean.mean()) / variance
    belief = np.linalg.solve(precision, moment)
    return np.asarray((1.0 + belief[arms + 1]) / arms + apart @ belief[:arms])


def _coin(mean: Float) -> Float:
    """Variances of coins with these means, which a score in [0, 1] cannot exceed; an arm that is good varies less."""
    return np.asarray(np.maximum(mean * (1.0 - mean), 0.02))


def _spreads(arms: int) -> Float:
    """(2,) prior standard deviations of level and slope."""
    return np.array(ALONE if arms == 1 else (LEVEL_SPREAD, SLOPE_SPREAD))


@dataclass(frozen=True, slots=True)
class SharedNoise:
    """How the luck of arms on one query hangs together."""

    shared: float  # of the others' mean luck is also an arm's own
    pulls: float  # standard deviation of what a single other arm's luck adds to that
    left: float  # variance of an arm's luck where the others' is known
    whole: float  # variance where it is not


def shared_noise(luck: Float) -> SharedNoise:
    """From luck (n, E), score less what was expected, NaN where not observed: each known arm against the others.

    Without enough rows that all arms answered nothing is taken as shared.
    """
    arms, observed = luck.shape[1], luck[~np.isnan(luck)]
    whole = max(float((observed**2).mean()) if len(observed) else 0.25, 1e-4)
    rows = luck[~np.isnan(luck).any(axis=1)]
    if arms < 2 or len(rows) < COMPLETE:
        return SharedNoise(0.0, 1e-3, whole, whole)
    gram = rows.T @ rows / len(rows)
    covariance = (gram.sum() - np.trace(gram)) / (arms * (arms - 1))
    shared = float(np.clip(covariance / _variance_of_mean(gram), 0.0, 1.0))
    parts = [_beside(gram, arm, shared) for arm in range(arms)]
    pulls, left = np.mean(parts, axis=0)
    return SharedNoise(shared, max(float(np.sqrt(pulls)), 1e-3), max(float(left), 1e-4), whole)


def _variance_of_mean(gram: Float) -> float:
    """Variance of the mean luck of all arms but one, averaged over that one."""
    arms = len(gram)
    without = [np.delete(np.delete(gram, arm, 0), arm, 1).sum() for arm in range(arms)]
    return max(float(np.mean(without)) / (arms - 1) ** 2, 1e-9)


def _beside(gram: Float, arm: int, shared: float) -> tuple[float, float]:
    """(mean square of how its regression on the others differs from an even one, variance an even one leaves)."""
    others = np.arange(len(gram)) != arm
    inner, across = gram[np.ix_(others, others)], gram[others, arm]
    even = np.full(len(across), shared / len(across))
    best = np.linalg.solve(inner + 1e-6 * np.eye(len(across)), across)
    return float(((best - even) ** 2).mean()), float(gram[arm, arm] - 2.0 * even @ across + even @ inner @ even)
