"""Extremely randomised trees, flattened to arrays so that one row takes microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies.estimators.forest_traversal import Nodes, Trees
from policies.types import Float, Float32

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesRegressor

BLOCK = 128  # rows that walk down together: their inputs and the nodes stay in the cache


class Forest:
    """Multi-output trees; a leaf predicts the mean of what was observed in it, shrunk to each output's mean."""

    def __init__(self, *, trees: int, depth: int, leaf: int, inputs: float, shrinkage: float = 1.0) -> None:
        self._growth = {"n_estimators": trees, "max_depth": depth, "min_samples_leaf": leaf, "max_features": inputs}
        self._shrinkage = shrinkage
        self._roots: Nodes = np.zeros(0, np.int64)  # (T,)
        self._input: Nodes = np.zeros(0, np.int64)  # (nodes,)
        self._threshold: Float32 = np.zeros(0, np.float32)  # (nodes,), +inf at a leaf
        self._left: Nodes = np.zeros(0, np.int64)  # (nodes,), right is the next one; a leaf is its own left child
        self._values: Float32 = np.zeros((0, 0), np.float32)  # (nodes, M) what a leaf predicts
        self._packed: Nodes = np.zeros(0, np.int64)  # (nodes,) left above INPUT_BITS of input: one look-up for both

    def fit(self, inputs: Float32, targets: Float, weights: Float | None = None) -> None:
        """inputs (n, p); targets (n, M), NaN where never observed; weights (n,) of the rows, None: one each.

        Trees grow on rows whose gaps are filled; leaves count only what was observed.
        """
        from sklearn.ensemble import ExtraTreesRegressor  # noqa: PLC0415  (a gateway that does not fit does without it)

        means = column_means(targets, weights)
        model = ExtraTreesRegressor(random_state=0, n_jobs=1, **self._growth)
        self._flatten(model.fit(inputs, _filled(targets, means), sample_weight=weights))
        sums = np.zeros((self._input.size, targets.shape[1]))
        counts = np.zeros_like(sums)
        seen = ~np.isnan(targets) * (np.ones(len(targets)) if weights is None else weights)[:, None]
        values = np.where(seen > 0.0, targets, 0.0) * seen
        for leaves in self._leaves(inputs).T:
            np.add.at(sums, leaves, values)
            np.add.at(counts, leaves, seen)
        self._values = ((sums + self._shrinkage * means) / (counts + self._shrinkage)).astype(np.float32)

    @property
    def trees(self) -> Trees:
        """The arrays, for a ForestTraversal."""
        return Trees(self._roots, self._input, self._threshold, self._left, self._values)

    def predict(self, inputs: Float32) -> Float:
        """(m, M) means over the trees for inputs (m, p)."""
        means, share = np.empty((len(inputs), self._values.shape[1])), 1.0 / max(len(self._roots), 1)
        for start in range(0, len(inputs), BLOCK):
            part = slice(start, start + BLOCK)
            total = np.add.reduce(self._values.take(self._descend(inputs[part]).T, axis=0, mode="clip"))
            np.multiply(total, share, out=means[part])
        return means

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return {name: getattr(self, f"_{name}").copy() for name in FOREST_STATE}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        for name in FOREST_STATE:
            setattr(self, f"_{name}", np.array(state[name]))
        self._packed = self._input | self._left << INPUT_BITS

    def _leaves(self, inputs: Float32) -> Nodes:
        """(m, T) the leaf each row of inputs (m, p) falls into."""
        parts = [self._descend(inputs[start : start + BLOCK]) for start in range(0, len(inputs), BLOCK)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self._roots)), np.int64)

    def _descend(self, inputs: Float32) -> Nodes:
        """(m, T) leaves of a block of inputs (m, p), all trees a level at a time."""
        values = np.ascontiguousarray(inputs).ravel()
        offsets = (np.arange(len(inputs)) * inputs.shape[1])[:, None]
        nodes = np.broadcast_to(self._roots, (len(inputs), len(self._roots)))
        for _ in range(int(self._growth["max_depth"])):
            packed = self._packed.take(nodes, mode="clip")
            asked = packed & INPUT_MASK
            asked += offsets
            right = values.take(asked, mode="clip") > self._threshold.take(nodes, mode="clip")
            nodes = packed >> INPUT_BITS
            nodes += right
        return nodes

    def _flatten(self, model: ExtraTreesRegressor) -> None:
        """All trees in one numbering: roots, then the two children of each node in turn."""
        trees = [estimator.tree_ for estimator in model.estimators_]
        sizes = np.array([tree.node_count for tree in trees])
        roots = np.concatenate([[0], sizes.cumsum()[:-1]]).astype(np.int64)
        first, second = (np.concatenate([getattr(tree, f"children_{side}") for tree in trees]) for side in SIDES)
        inner = np.flatnonzero(first >= 0)
        start = np.repeat(roots, sizes)[inner]
        pairs = len(roots) + 2 * np.arange(len(inner))
        numbers = np.zeros(len(first), np.int64)
        numbers[roots] = np.arange(len(roots))
        numbers[first[inner] + start], numbers[second[inner] + start] = pairs, pairs + 1
        self._roots, self._left = numbers[roots], np.arange(len(first))
        self._left[numbers[inner]] = pairs
        self._input, self._threshold = np.zeros(len(first), np.int64), np.full(len(first), np.inf, np.float32)
        self._input[numbers[inner]] = np.concatenate([tree.feature for tree in trees])[inner]
        self._threshold[numbers[inner]] = np.concatenate([tree.threshold for tree in trees])[inner]
        self._packed = self._input | self._left << INPUT_BITS


SIDES = ("left", "right")
INPUT_BITS = 20  # a million inputs
INPUT_MASK = (1 << INPUT_BITS) - 1
FOREST_STATE = ("roots", "input", "threshold", "left", "values")


def column_means(targets: Float, weights: Float | None = None) -> Float:
    """(M,) means of what was observed, by weights (n,) of the rows; the mean over all where a column is empty."""
    seen = ~np.isnan(targets) * (np.ones(len(targets)) if weights is None else weights)[:, None]
    counts, sums = seen.sum(axis=0), np.nansum(targets * seen, axis=0)
    overall = sums.sum() / max(float(counts.sum()), 1e-9)
    return np.asarray(np.where(counts > 0, sums / np.where(counts > 0, counts, 1.0), overall))


def _filled(targets: Float, means: Float) -> Float:
    """(n, M) with each gap filled by its column's mean plus how far the row's observed cells lie from theirs."""
    residuals = targets - means
    seen = ~np.isnan(residuals)
    shift = np.nansum(residuals, axis=1) / (seen.sum(axis=1) + 1.0)
    return np.where(seen, targets, means + shift[:, None])
