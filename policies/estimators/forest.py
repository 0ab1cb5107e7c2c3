"""Extremely randomised trees, flattened to arrays so that one row takes microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies.types import Float, Float32

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesRegressor

Nodes = NDArray[np.int64]


class Forest:
    """Multi-output trees; a leaf predicts the mean of what was observed in it, shrunk to each output's mean."""

    def __init__(self, *, trees: int, depth: int, leaf: int, inputs: float, shrinkage: float = 1.0) -> None:
        self._growth = {"n_estimators": trees, "max_depth": depth, "min_samples_leaf": leaf, "max_features": inputs}
        self._shrinkage = shrinkage
        self._roots: Nodes = np.zeros(0, np.int64)  # (T,)
        self._input: Nodes = np.zeros(0, np.int64)  # (nodes,)
        self._threshold: Float32 = np.zeros(0, np.float32)  # (nodes,), +inf at a leaf
        self._child: Nodes = np.zeros(0, np.int64)  # (2 · nodes,), left then right; a leaf is its own child
        self._values: Float32 = np.zeros((0, 0), np.float32)  # (nodes, M) what a leaf predicts

    def fit(self, inputs: Float32, targets: Float) -> None:
        """inputs (n, p); targets (n, M), NaN where never observed.

        Trees grow on rows whose gaps are filled; leaves count only what was observed.
        """
        from sklearn.ensemble import ExtraTreesRegressor  # noqa: PLC0415  (a gateway that does not fit does without it)

        means = column_means(targets)
        model = ExtraTreesRegressor(random_state=0, n_jobs=1, **self._growth)
        self._flatten(model.fit(inputs, _filled(targets, means)))
        sums = np.zeros((self._input.size, targets.shape[1]))
        counts = np.zeros_like(sums)
        seen = ~np.isnan(targets)
        values = np.where(seen, targets, 0.0)
        for leaves in self._leaves(inputs).T:
            np.add.at(sums, leaves, values)
            np.add.at(counts, leaves, seen)
        self._values = ((sums + self._shrinkage * means) / (counts + self._shrinkage)).astype(np.float32)

    def predict(self, inputs: Float32) -> Float:
        """(m, M) means over the trees for inputs (m, p)."""
        leaves = self._leaves(inputs)
        if len(leaves) == 1:
            only: Float = self._values[leaves[0]].mean(axis=0, dtype=np.float64)[None]
            return only
        total = np.zeros((len(inputs), self._values.shape[1]))
        for column in leaves.T:
            total += self._values[column]
        means: Float = total / max(leaves.shape[1], 1)
        return means

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return {name: getattr(self, f"_{name}").copy() for name in FOREST_STATE}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        for name in FOREST_STATE:
            setattr(self, f"_{name}", np.array(state[name]))

    def _leaves(self, inputs: Float32) -> Nodes:
        """(m, T) the leaf each row of inputs (m, p) falls into."""
        values = np.ascontiguousarray(inputs).ravel()
        if len(inputs) == 1:
            return self._descend(self._roots, values, np.int64(0))[None]
        offsets = np.arange(len(inputs)) * inputs.shape[1]
        leaves = np.empty((len(inputs), len(self._roots)), np.int64)
        for column, root in enumerate(self._roots):
            leaves[:, column] = self._descend(np.full(len(inputs), root, np.int64), values, offsets)
        return leaves

    def _descend(self, nodes: Nodes, values: Float32, offsets: NDArray[np.int64] | np.int64) -> Nodes:
        """(k,) leaves below nodes (k,), each reading its row of values from its offset."""
        for _ in range(int(self._growth["max_depth"])):
            right = values.take(self._input.take(nodes) + offsets) > self._threshold.take(nodes)
            nodes = self._child.take(2 * nodes + right)
        return nodes

    def _flatten(self, model: ExtraTreesRegressor) -> None:
        trees = [estimator.tree_ for estimator in model.estimators_]
        sizes = np.array([tree.node_count for tree in trees])
        self._roots = np.concatenate([[0], sizes.cumsum()[:-1]]).astype(np.int64)
        leaf = np.concatenate([tree.children_left for tree in trees]) < 0
        own = np.arange(sizes.sum())
        offset = np.repeat(self._roots, sizes)
        left = np.where(leaf, own, np.concatenate([tree.children_left for tree in trees]) + offset)
        right = np.where(leaf, own, np.concatenate([tree.children_right for tree in trees]) + offset)
        self._child = np.stack([left, right], axis=1).ravel().astype(np.int64)
        self._input = np.where(leaf, 0, np.concatenate([tree.feature for tree in trees])).astype(np.int64)
        thresholds = np.concatenate([tree.threshold for tree in trees])
        self._threshold = np.where(leaf, np.inf, thresholds).astype(np.float32)


FOREST_STATE = ("roots", "input", "threshold", "child", "values")


def column_means(targets: Float) -> Float:
    """(M,) means of what was observed; the mean over all where a column is empty."""
    seen = ~np.isnan(targets)
    counts = seen.sum(axis=0)
    overall = np.nansum(targets) / max(int(seen.sum()), 1)
    return np.where(counts > 0, np.nansum(targets, axis=0) / np.maximum(counts, 1), overall)


def _filled(targets: Float, means: Float) -> Float:
    """(n, M) with each gap filled by its column's mean plus how far the row's observed cells lie from theirs."""
    residuals = targets - means
    seen = ~np.isnan(residuals)
    shift = np.nansum(residuals, axis=1) / (seen.sum(axis=1) + 1.0)
    return np.where(seen, targets, means + shift[:, None])
