"""An arm made of another, a width or a program, is what that one is until its own labels say more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from policies.priors import quality_prior
from policies.types import Arm, Float, History

SPREAD = 0.05  # standard deviation of how much better or worse it is altogether than its prior says
SHARE_SPREAD = 0.5  # the same of the share that its own fit has of where it is
LEAST_SHARE = 0.05  # of its own fit, where it has one
LEAST_VARIANCE = 0.02  # of a label


def parents(arms: Sequence[Arm], known: NDArray[np.bool_]) -> dict[int, int]:
    """Columns of arms with that of their parent, where that is among the arms and `known` (M,) well; parents first."""
    columns = {arm.name: column for column, arm in enumerate(arms) if known[column]}
    left = {column: columns[arm.parent] for column, arm in enumerate(arms) if arm.parent in columns}
    found: dict[int, int] = {}
    while ready := {column: parent for column, parent in left.items() if parent not in left}:
        found |= ready
        left = {column: parent for column, parent in left.items() if column not in ready}
    return found  # what is left are arms that name each other, each on its own


def families(made: Mapping[int, int], arms: Iterable[int]) -> dict[int, list[int]]:
    """Columns of those of `arms` that are made of none, each with itself and all that is `made` of it."""
    root = {arm: arm for arm in arms if arm not in made}
    for arm, parent in made.items():
        root[arm] = root[parent]
    return {first: [arm for arm, of in root.items() if of == first] for first in root if first not in made}


def as_one(history: History, family: Sequence[int], made: Mapping[int, int]) -> tuple[Float, Float]:
    """((n,) scores of the first of these columns as the whole family tells them, (n,) their reliability).

    The labels of an arm that is `made` of another are of that one but for a difference that nobody knows, of the
    standard deviation SPREAD. So n of them count for n / (1 + n · SPREAD² / the variance of a label).
    """
    scores = history.scores[:, family]
    seen = ~np.isnan(scores)
    variance = max(float(scores[seen].var()) if seen.any() else 0.0, LEAST_VARIANCE)
    above = {family[0]: 0.0}
    for arm in family[1:]:
        above[arm] = above[made[arm]] + usual_difference(history.arms[arm], history.arms[made[arm]])
    each = 1.0 / (1.0 + seen.sum(axis=0) * SPREAD**2 / variance)
    each[0] = 1.0
    weight = seen @ each
    total = np.where(seen, scores - np.array([above[arm] for arm in family]), 0.0) @ each
    means = np.where(weight > 0.0, total / np.where(weight > 0.0, weight, 1.0), np.nan)
    return means, history.reliability * np.where(weight > 0.0, np.minimum(weight, 1.0), 1.0)


def usual_difference(arm: Arm, parent: Arm) -> float:
    """Quality of an arm less its parent's, before any answer of either. What was measured of one of them alone compares
    with nothing: then a program is as good as its parent, and a width loses what widths do."""
    quality, _ = quality_prior(parent)
    if parent.quality is None:
        arm = replace(arm, quality=None)
    return quality_prior(arm, {parent.name: quality})[0] - quality


def beside(history: History, arm: int, parent: int, expected: Float, own: Float | None) -> tuple[float, float]:
    """beside_parent() of two columns of history, the parent's scores being expected (n,)."""
    usual = usual_difference(history.arms[arm], history.arms[parent])
    return beside_parent(history.scores[:, arm], expected, own, usual=usual, reliability=history.reliability)


def beside_parent(
    scores: Float, parent: Float, own: Float | None, *, usual: float, reliability: Float
) -> tuple[float, float]:
    """(share of its own fit, quality added): q̂ = share · own + (1 − share) · parent + added.

    scores (n,) of the arm, NaN where not labelled. The parent's and own (n,) are expected out of fold; own None:
    nothing is fitted for it; usual: what is added before any label; reliability (n,) of the labels. By Bayesian linear
    regression of score − parent on one and own − parent.
    """
    rows = np.flatnonzero(~np.isnan(scores))
    target = scores[rows] - parent[rows] - usual
    apart = np.zeros(len(rows)) if own is None else own[rows] - parent[rows]
    inputs = np.stack([np.ones(len(rows)), apart], axis=1)
    variance = max(float((target**2).mean()) if len(rows) else 0.0, LEAST_VARIANCE)
    weighed = inputs.T * reliability[rows] / variance
    added, share = np.linalg.solve(weighed @ inputs + np.diag([SPREAD**-2.0, SHARE_SPREAD**-2.0]), weighed @ target)
    return (0.0 if own is None else float(np.clip(share, LEAST_SHARE, 1.0))), float(added) + usual
