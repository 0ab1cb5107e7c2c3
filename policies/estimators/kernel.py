"""Kernel ridge regression on landmarks (Nyström), one closed-form solution for each output."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.lazy_module import LazyModule
from policies.types import Float, Float32

linalg = LazyModule("scipy.linalg")
sparse = LazyModule("scipy.sparse")

BLOCK = 1024  # rows whose kernel is held at once: 2.6 MB for 640 landmarks


class KernelRidge:
    """f(x) = mean + (k(x) − k̄)ᵀ w with k(x) = exp(−γ |x − landmark|²); w from (KᵀK + penalty · K_LL) w = Kᵀ y."""

    def __init__(self, *, width: float, penalty: float, landmarks: int) -> None:
        self._width = width
        self._penalty = penalty
        self._count = landmarks
        self._slopes: Float32 = np.zeros((0, 0), np.float32)  # (p + 2, L), see _kernel
        self._weights: Float32 = np.zeros((0, 0), np.float32)  # (L, M)
        self._offset: Float = np.zeros(0)  # (M,) prediction where the kernel is zero

    def fit(self, inputs: Float32, targets: Float, weights: Float | None = None) -> None:
        """inputs (n, p); targets (n, M), NaN where never observed; weights (n,) of the rows, None: one each."""
        weights = np.ones(len(inputs)) if weights is None else weights
        landmarks = _landmarks(inputs, self._count)
        squares = (landmarks**2).sum(axis=1)
        slopes = [2.0 * self._width * landmarks.T, -self._width * squares[None], np.ones((1, len(landmarks)))]
        self._slopes = np.ascontiguousarray(np.concatenate(slopes), np.float32)
        kernel = self._kernel(inputs).astype(np.float64)
        between = self._kernel(landmarks).astype(np.float64)
        self._weights = np.zeros((len(landmarks), targets.shape[1]), np.float32)
        self._offset = np.zeros(targets.shape[1])
        for columns, seen in _patterns(targets):
            self._solve(kernel[seen], between, targets[np.ix_(seen, columns)], weights[seen], columns)

    def predict(self, inputs: Float32) -> Float:
        """(m, M) for inputs (m, p)."""
        expected = np.empty((len(inputs), len(self._offset)))
        near = np.empty((min(len(inputs), BLOCK), self._slopes.shape[1]), np.float32)
        for start in range(0, len(inputs), BLOCK):
            part = inputs[start : start + BLOCK]
            kernel = self._kernel(part, near[: len(part)])
            np.add(kernel @ self._weights, self._offset, out=expected[start : start + BLOCK])
        return expected

    def predict_one(self, row: Float32, out: Float) -> None:
        """out (M,) for one row (p + 2,), whose last two places are overwritten."""
        inputs = row[:-2]
        row[-2], row[-1] = 1.0, -self._width * float(inputs @ inputs)
        near = row @ self._slopes
        np.exp(near, out=near)
        np.add(near @ self._weights, self._offset, out=out)

    def mix(self, mixing: Float, shift: Float) -> None:
        """Predict f(x) @ mixing + shift from now on, with mixing (M, M') and shift (M',)."""
        self._weights = np.ascontiguousarray(self._weights @ mixing, np.float32)
        self._offset = self._offset @ mixing + shift

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return {name: getattr(self, f"_{name}").copy() for name in KERNEL_STATE}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        for name in KERNEL_STATE:
            setattr(self, f"_{name}", np.array(state[name]))

    def _kernel(self, inputs: Float32, out: Float32 | None = None) -> Float32:
        """(m, L) exp(2γ x·landmark − γ|landmark|² − γ|x|²): one product of [x, 1, −γ|x|²] with the slopes."""
        width = inputs.shape[1]
        wide = np.empty((len(inputs), width + 2), np.float32)
        wide[:, :width], wide[:, width] = inputs, 1.0
        np.multiply(np.einsum("ij,ij->i", inputs, inputs), -self._width, out=wide[:, width + 1], casting="same_kind")
        near: Float32 = np.matmul(wide, self._slopes, out=out)
        return np.exp(near, out=near)

    def _solve(self, kernel: Float, between: Float, targets: Float, weights: Float, columns: NDArray[np.intp]) -> None:
        centre, mean = np.average(kernel, axis=0, weights=weights), np.average(targets, axis=0, weights=weights)
        centred = kernel - centre
        weighed = centred * weights[:, None]
        gram = weighed.T @ centred + self._penalty * between
        gram[np.diag_indices_from(gram)] += 1e-6 * max(len(kernel), 1)
        weights = linalg.cho_solve(linalg.cho_factor(gram, overwrite_a=True), weighed.T @ (targets - mean))
        self._weights[:, columns] = weights
        self._offset[columns] = mean - centre @ self._weights[:, columns]


KERNEL_STATE = ("slopes", "weights", "offset")


def _landmarks(inputs: Float32, count: int) -> Float32:
    """(L, p) means of the rows nearest to rows drawn at random, one step of Lloyd's. They lie where inputs do, and a
    third fewer tell more than the rows drawn. All rows where there are no more than `count`."""
    drawn = inputs[np.random.default_rng(0).permutation(len(inputs))[:count]]
    if len(inputs) <= count:
        return drawn
    half = 0.5 * (drawn**2).sum(axis=1)
    nearest = np.concatenate(
        [(half - inputs[at : at + BLOCK] @ drawn.T).argmin(axis=1) for at in range(0, len(inputs), BLOCK)]
    )
    ones = np.ones(len(inputs), np.float32)
    members = sparse.csr_matrix((ones, (nearest, np.arange(len(inputs)))), shape=(len(drawn), len(inputs)))
    sizes = np.bincount(nearest, minlength=len(drawn))[:, None]
    means = np.asarray(members @ inputs, np.float32) / np.maximum(sizes, 1).astype(np.float32)
    return np.where(sizes > 0, means, drawn)


def _patterns(targets: Float) -> list[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """Columns observed on the same rows, with those rows; columns observed nowhere are left out."""
    seen = ~np.isnan(targets)
    found: dict[bytes, list[int]] = {}
    for column in range(targets.shape[1]):
        if seen[:, column].any():
            found.setdefault(seen[:, column].tobytes(), []).append(column)
    return [(np.array(columns, np.intp), seen[:, columns[0]]) for columns in found.values()]
