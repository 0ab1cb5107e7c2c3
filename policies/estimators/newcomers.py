"""What a few labelled prompts say of a new arm, through the arms that are known well."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.types import Float

ESTABLISHED = 200  # labelled rows from which an arm is fitted on its own
KINSHIP = 4.0  # labelled rows that the belief in an average mixture of the known arms is worth, for each arm
CAUTION = 1.0  # standard deviations of a newcomer's level it is held below what is expected
USUAL_SPREAD = 0.1  # standard deviation of arms' mean scores, where one known arm shows none


def newcomers(scores: Float) -> NDArray[np.bool_]:
    """(M,) whether a column of scores (n, M) has too few labels to be fitted alone; none where all have."""
    labels = (~np.isnan(scores)).sum(axis=0)
    few = labels < min(ESTABLISHED, 0.5 * float(labels.max(initial=0)))
    return np.asarray(few & ~few.all(), dtype=np.bool_)


def fit_newcomer(known: Float, expected: Float, scores: Float) -> tuple[Float, float]:
    """(weights (E,), offset): q̂ of a new arm is weights · q̂ of the known ones + offset.

    known (n, E) scores of the known arms, NaN where not observed; expected (n, E) what was expected of them out of
    fold; scores (n,) of the new arm, NaN where not labelled. Ridge towards an equal mixture, on true scores, whose
    noise the arms share; then the level is shrunk to the known arms' levels and held CAUTION standard deviations down,
    since among many arms the one overrated is the one chosen.
    """
    truth = np.where(np.isnan(known), expected, known)
    arms = truth.shape[1]
    levels, mixture = truth.mean(axis=0), np.full(arms, 1.0 / arms)
    between = float(levels.var(ddof=1)) if arms > 1 else USUAL_SPREAD**2
    rows = np.flatnonzero(~np.isnan(scores))
    if len(rows) < 2:
        level = levels.mean() - CAUTION * np.sqrt(between)
        return mixture, float(level - expected.mean(axis=0) @ mixture)
    inputs = truth[rows] - truth[rows].mean(axis=0)
    left = scores[rows] - scores[rows].mean() - inputs @ mixture
    weights = mixture + np.linalg.solve(inputs.T @ inputs + KINSHIP * np.eye(arms), inputs.T @ left)
    left = scores[rows] - truth[rows] @ weights
    level, within = left.mean() + levels @ weights, max(float(left.var(ddof=1)), 1e-4) / len(rows)
    level = (level * between + levels.mean() * within) / (between + within)
    level -= CAUTION * np.sqrt(between * within / (between + within))
    return weights, float(level - expected.mean(axis=0) @ weights)
