"""The inner loops of nesting, compiled by numba; imported only where the `quantize` extra is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])


def compiled(loop: F) -> F:
    """numba's njit, cached on disk and free of the interpreter's lock."""
    made: F = njit(nogil=True, cache=True)(loop)
    return made


@compiled
def cost(h: Floats, hw: Floats, hww: Floats, a: Any, b: Any) -> Any:
    """Weighted squared error of sorted positions a … b-1 around their own mean; 0 for an empty run."""
    mass = h[b] - h[a]
    if mass <= 0.0:
        return 0.0
    first = hw[b] - hw[a]
    return hww[b] - hww[a] - first * first / mass


@compiled
def _add_cell(h: Floats, hw: Floats, hww: Floats, before: Floats, now: Floats, starts: Any, jobs: Any) -> None:
    """One more cell: now[i] = min over a of before[a] + cost(a, i), by divide and conquer on a's monotonicity."""
    jobs[0, :] = (0, len(now) - 1, 0, len(now) - 1)
    depth = 1
    while depth > 0:
        depth -= 1
        low, high, first, last = jobs[depth]
        middle = (low + high) // 2
        best, arg = np.inf, first
        for a in range(first, min(middle, last) + 1):
            value = before[a] + cost(h, hw, hww, a, middle)
            if value < best:
                best, arg = value, a
        now[middle], starts[middle] = best, arg
        if low < middle:
            jobs[depth, :] = (low, middle - 1, first, arg)
            depth += 1
        if middle < high:
            jobs[depth, :] = (middle + 1, high, arg, last)
            depth += 1


@compiled
def free_cuts(h: Floats, hw: Floats, hww: Floats, cells: int) -> Ints:
    """Optimal weighted k-means: cuts (cells + 1,)."""
    size = len(h)
    starts = np.zeros((cells, size), np.int64)
    jobs = np.zeros((128, 4), np.int64)
    before, now = np.empty(size), np.empty(size)
    for i in range(size):
        before[i] = cost(h, hw, hww, 0, i)
    for cell in range(1, cells):
        _add_cell(h, hw, hww, before, now, starts[cell], jobs)
        before, now = now, before
    cuts = np.empty(cells + 1, np.int64)
    cuts[cells] = size - 1
    for cell in range(cells - 1, -1, -1):
        cuts[cell] = starts[cell, cuts[cell + 1]]
    return cuts


@compiled
def free_errors(h: Floats, hw: Floats, hww: Floats, most: int) -> Floats:
    """Error of optimal weighted k-means with 1 … most cells (most,)."""
    size = len(h)
    starts = np.zeros(size, np.int64)
    jobs = np.zeros((128, 4), np.int64)
    before, now, errors = np.empty(size), np.empty(size), np.empty(most)
    for i in range(size):
        before[i] = cost(h, hw, hww, 0, i)
    errors[0] = before[size - 1]
    for cell in range(1, most):
        _add_cell(h, hw, hww, before, now, starts, jobs)
        before, now = now, before
        errors[cell] = before[size - 1]
    return errors


@compiled
def split(h: Floats, hw: Floats, hww: Floats, a: int, b: int) -> tuple[float, int]:
    """The gain and place of the best cut of a … b-1; gain -1 where there is nothing to cut."""
    best, arg = np.inf, b
    for m in range(a + 1, b):
        value = cost(h, hw, hww, a, m) + cost(h, hw, hww, m, b)
        if value < best:
            best, arg = value, m
    return (cost(h, hw, hww, a, b) - best if b - a > 1 else -1.0), arg


@compiled
def grid(h: Floats, hw: Floats, hww: Floats, most: int) -> Ints:
    """Where cuts are worth considering; see searches.grid_slow."""
    begin, end, at = np.zeros(most, np.int64), np.zeros(most, np.int64), np.zeros(most, np.int64)
    gain = np.full(most, -1.0)
    end[0] = len(h) - 1
    gain[0], at[0] = split(h, hw, hww, 0, end[0])
    cells = 1
    while cells < most:
        i = np.argmax(gain[:cells])
        if gain[i] < 0.0:
            break
        begin[cells], end[cells], end[i] = at[i], end[i], at[i]
        gain[i], at[i] = split(h, hw, hww, begin[i], end[i])
        gain[cells], at[cells] = split(h, hw, hww, begin[cells], end[cells])
        cells += 1
    return np.append(np.sort(begin[:cells]), len(h) - 1)


@compiled
def all_spans(h: Floats, hw: Floats, hww: Floats) -> Floats:
    """cost(a, b) of every run; 0 where b ≤ a."""
    spans = np.zeros((len(h), len(h)))
    for a in range(len(h)):
        for b in range(a + 1, len(h)):
            spans[a, b] = cost(h, hw, hww, a, b)
    return spans


@compiled
def _fill(total: Any, A: Any, below: Any, spans: Any, weight: float) -> None:
    """Row after row, for that walks through memory in order: twice as fast as span after span."""
    size = len(total)
    for a in range(size - 1, -1, -1):
        A[a, a] = a
        for b in range(a + 1, size):
            best, arg = np.inf, A[a, b - 1]
            for m in range(A[a, b - 1], A[a + 1, b] + 1):
                value = below[a, m] + below[m, b]
                if value < best:
                    best, arg = value, m
            A[a, b], total[a, b] = arg, best + weight * spans[a, b]


@compiled
def tree(spans: Floats, weights: Floats) -> tuple[Floats, Any]:
    """Best nested split of every run of grid cells; see searches.tree_slow."""
    total = weights[0] * spans
    A = np.zeros((len(weights), *spans.shape), np.int32)
    for t in range(1, len(weights)):
        finer = np.zeros_like(total)
        _fill(finer, A[t], total, spans, weights[t])
        total = finer
    return total, A


@compiled
def seed(F: Floats, cells: int) -> Ints:
    """The best `cells` runs end to end under F (B, B); see searches.seed_slow."""
    size = len(F)
    starts = np.zeros((cells, size), np.int64)
    before = F[0].copy()
    for cell in range(1, cells):
        now = np.full(size, np.inf)
        for a in range(size):
            for b in range(a, size):
                value = before[a] + F[a, b]
                if value < now[b]:
                    now[b], starts[cell, b] = value, a
        before = now
    cuts = np.empty(cells + 1, np.int64)
    cuts[cells] = size - 1
    for cell in range(cells - 1, -1, -1):
        cuts[cell] = starts[cell, cuts[cell + 1]]
    return cuts


@compiled
def _place(h: Floats, hw: Floats, hww: Floats, cuts: Ints, weights: Floats, i: int, m: int) -> float:
    """Weighted error of the cells beside cut i, at every width it serves, were it at m."""
    total = 0.0
    for depth in range(len(weights)):
        step = 1 << depth
        if i % step:
            break
        total += weights[depth] * (cost(h, hw, hww, cuts[i - step], m) + cost(h, hw, hww, m, cuts[i + step]))
    return total


@compiled
def settle(h: Floats, hw: Floats, hww: Floats, cuts: Ints, weights: Floats, rounds: int, enough: float) -> Ints:
    """The finest width's cuts, each moved to its best place; see searches.settle_slow."""
    settled = cuts.copy()
    for _ in range(rounds):
        moved = False
        for i in range(1, len(settled) - 1):
            best, arg = np.inf, settled[i]
            for m in range(settled[i - 1], settled[i + 1] + 1):
                value = _place(h, hw, hww, settled, weights, i, m)
                if value < best:
                    best, arg = value, m
            if best < _place(h, hw, hww, settled, weights, i, settled[i]) * enough:
                settled[i], moved = arg, True
        if not moved:
            break
    return settled
