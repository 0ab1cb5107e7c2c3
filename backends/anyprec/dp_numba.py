"""Searches for cuts in one sorted row, compiled by numba: exact dynamic programs.

Cuts (cells + 1,) say where cells begin: cell c holds sorted positions cuts[c] … cuts[c + 1] - 1. Weighted squared
error is a Monge array, so the best cut of a run grows with both of its ends, and every search here uses that.
Fails with Unsupported where the extra `quantize` is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from backends.anyprec.errors import Unsupported

try:
    from numba import njit
except ImportError as error:
    raise Unsupported(f"quantizing needs the extra pointsman[quantize] ({error})") from error

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])
TINY = 1e-300  # a mass that is none: what is divided by it is 0 then
LONGEST, ALL_BELOW = 6.0, 64  # times the mean length of a cell, in places; short rows have no such bound
LEAST_GAIN = 1e-12  # of an error: a cut that gains less stays, for rounding alone could move it for ever


class Sums(NamedTuple):
    """Prefix sums of one sorted row: h, h·w and h·w², each (M + 1,)."""

    h: Floats
    hw: Floats
    hww: Floats

    def at(self, places: Ints) -> Sums:
        """Those of the row's runs between the places, as if each were one weight."""
        return Sums(self.h[places], self.hw[places], self.hww[places])


def compiled(loop: F) -> F:
    """numba's njit, cached on disk and free of the interpreter's lock."""
    made: F = njit(nogil=True, cache=True)(loop)
    return made


@compiled
def cost(sums: Sums, a: Any, b: Any) -> Any:
    """Weighted squared error of sorted positions a … b-1 around their own mean; 0 for an empty run."""
    mass = sums.h[b] - sums.h[a]
    if mass <= 0.0:
        return 0.0
    first = sums.hw[b] - sums.hw[a]
    return sums.hww[b] - sums.hww[a] - first * first / mass


@compiled
def _add_cell(sums: Sums, before: Floats, now: Floats, starts: Any, jobs: Any) -> None:
    """One more cell: now[i] = min over a of before[a] + cost(a, i), by divide and conquer on a's monotonicity."""
    jobs[0, :] = (0, len(now) - 1, 0, len(now) - 1)
    depth = 1
    while depth > 0:
        depth -= 1
        low, high, first, last = jobs[depth]
        middle = (low + high) // 2
        best, arg = np.inf, first
        for a in range(first, min(middle, last) + 1):
            value = before[a] + cost(sums, a, middle)
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
def free_errors(sums: Sums, most: int) -> Floats:
    """Error of optimal weighted k-means with 1 … most cells (most,)."""
    size = len(sums.h)
    starts = np.zeros(size, np.int64)
    jobs = np.zeros((128, 4), np.int64)
    before, now, errors = np.empty(size), np.empty(size), np.empty(most)
    for i in range(size):
        before[i] = cost(sums, 0, i)
    errors[0] = before[size - 1]
    for cell in range(1, most):
        _add_cell(sums, before, now, starts, jobs)
        before, now = now, before
        errors[cell] = before[size - 1]
    return errors


@compiled
def split(sums: Sums, a: int, b: int) -> tuple[float, int]:
    """The gain and place of the best cut of a … b-1; gain -1 where there is nothing to cut."""
    best, arg = np.inf, b
    for m in range(a + 1, b):
        value = cost(sums, a, m) + cost(sums, m, b)
        if value < best:
            best, arg = value, m
    return (cost(sums, a, b) - best if b - a > 1 else -1.0), arg


@compiled
def grid(sums: Sums, most: int) -> Ints:
    """Where cuts are worth considering (≤ most + 1,): the cell with most to gain is cut, until there are `most`."""
    begin, end, at = np.zeros(most, np.int64), np.zeros(most, np.int64), np.zeros(most, np.int64)
    gain = np.full(most, -1.0)
    end[0] = len(sums.h) - 1
    gain[0], at[0] = split(sums, 0, end[0])
    cells = 1
    while cells < most:
        i = np.argmax(gain[:cells])
        if gain[i] < 0.0:
            break
        begin[cells], end[cells], end[i] = at[i], end[i], at[i]
        gain[i], at[i] = split(sums, begin[i], end[i])
        gain[cells], at[cells] = split(sums, begin[cells], end[cells])
        cells += 1
    return np.append(np.sort(begin[:cells]), len(sums.h) - 1)


@compiled
def spans(sums: Sums) -> Floats:
    """cost(a, b) of every run; 0 where b ≤ a."""
    found = np.zeros((len(sums.h), len(sums.h)))
    spans_into(sums, found)
    return found


@compiled
def spans_into(sums: Sums, found: Floats) -> None:
    """The same into `found`, which holds 0 where b ≤ a."""
    h, hw, hww = sums.h, sums.hw, sums.hww
    for a in range(len(h)):
        row = found[a]
        for b in range(a + 1, len(h)):  # without a branch, so that the compiler takes several at once
            mass, first = h[b] - h[a], hw[b] - hw[a]
            row[b] = hww[b] - hww[a] - first * first / max(mass, TINY)


@compiled
def _fill(total: Any, A: Any, below: Any, spans: Any, weight: float, longest: int) -> None:
    """Row after row, for that walks through memory in order: twice as fast as span after span."""
    size = len(total)
    for a in range(size - 1, -1, -1):
        A[a, a], total[a, a] = a, 0.0
        for b in range(a + 1, min(size, a + longest + 1)):
            best, arg = np.inf, A[a, b - 1]
            for m in range(A[a, b - 1], A[a + 1, b] + 1):
                value = below[a, m] + below[m, b]
                if value < best:
                    best, arg = value, m
            A[a, b], total[a, b] = arg, best + weight * spans[a, b]


@compiled
def longest_run(size: int, cells: int) -> int:
    """Places of the longest run that a tree considers as one of so many cells."""
    return size if size <= ALL_BELOW else min(size, int(LONGEST * size / cells) + 1)


@compiled
def tree(spans: Floats, weights: Floats, cells: int) -> tuple[Floats, Any]:
    """Best nested split of every run of grid cells that is not much longer than such cells are on average.

    `spans` (B, B) holds cost(a, b); `weights` (d,) the ω/Ê of the finest width first; `cells` are the coarsest's.
    Returns F (B, B) of the coarsest width, inf where a run is too long, and A (d, B, B). A[t, a, b] is the best cut of
    the run a … b at depth t.
    """
    A = np.zeros((len(weights), *spans.shape), np.int32)
    return tree_into(spans, weights, cells, np.empty_like(spans), np.empty_like(spans), A), A


@compiled
def tree_into(spans: Floats, weights: Floats, cells: int, total: Floats, finer: Floats, A: Any) -> Floats:
    """The same with the memory for its tables: two (B, B), and A; returns the one that holds F."""
    total[:] = weights[0] * spans
    for t in range(1, len(weights)):
        finer[:] = np.inf
        _fill(finer, A[t], total, spans, weights[t], longest_run(len(spans), cells << (len(weights) - 1 - t)))
        total, finer = finer, total
    return total


@compiled
def seed(F: Floats, cells: int) -> Ints:
    """The best `cells` runs end to end under F (B, B): cuts (cells + 1,), as places in the grid.

    F is a Monge array, so the last cell's best start grows with its end, and with the number of cells.
    """
    size = len(F)
    starts = np.zeros((cells, size), np.int64)
    turned = F.T.copy()
    before = F[0].copy()
    for cell in range(1, cells):
        now = np.empty(size)
        last = size - 1
        for b in range(size - 1, -1, -1):
            best, arg = np.inf, 0
            for a in range(starts[cell - 1, b], min(last, b) + 1):
                value = before[a] + turned[b, a]
                if value < best:
                    best, arg = value, a
            now[b], starts[cell, b] = best, arg
            last = arg
        before = now
    cuts = np.empty(cells + 1, np.int64)
    cuts[cells] = size - 1
    for cell in range(cells - 1, -1, -1):
        cuts[cell] = starts[cell, cuts[cell + 1]]
    return cuts


@compiled
def _add_halves(sums: Sums, values: Floats, a: int, b: int, low: int, weight: float) -> None:
    """values[j] += weight · (cost(a, m) + cost(m, b)) for m = low + j; without a branch, several at once."""
    h, hw, hww = sums.h, sums.hw, sums.hww
    for j in range(len(values)):
        m = low + j
        left, right = hw[m] - hw[a], hw[b] - hw[m]
        before = hww[m] - hww[a] - left * left / max(h[m] - h[a], TINY)
        after = hww[b] - hww[m] - right * right / max(h[b] - h[m], TINY)
        values[j] += weight * (before + after)


@compiled
def _best_place(sums: Sums, cuts: Ints, weights: Floats, i: int, values: Floats) -> int:
    """Where cut i serves its widths best, by its own place if nowhere better; `values` (M + 1,) is memory."""
    low = cuts[i - 1]
    here = values[: cuts[i + 1] - low + 1]
    here[:] = 0.0
    for depth in range(len(weights)):
        step = 1 << depth
        if i % step:
            break
        _add_halves(sums, here, cuts[i - step], cuts[i + step], low, weights[depth])
    best = int(np.argmin(here))
    gains = here[best] < here[cuts[i] - low] * (1 - LEAST_GAIN)
    return low + best if gains else int(cuts[i])


@compiled
def settle(sums: Sums, cuts: Ints, weights: Floats, rounds: int) -> Ints:
    """The finest width's cuts after each was moved to its best place, one after another, at most `rounds` times.

    `weights` (d,), the finest width first; cut i is also one of the width t bits coarser where 2^t divides i. A cut is
    looked at again only where a cut that one of its cells ends at has moved.
    """
    settled, last = cuts.copy(), len(cuts) - 1
    waiting, values = np.ones(len(cuts), np.bool_), np.empty(len(sums.h))
    for _ in range(rounds):
        moved = False
        for i in range(1, last):
            if not waiting[i]:
                continue
            waiting[i] = False
            place = _best_place(sums, settled, weights, i, values)
            if place != settled[i]:
                settled[i], moved = place, True
                for depth in range(len(weights)):
                    step = 1 << depth
                    waiting[max(0, i - step)] = waiting[min(last, i + step)] = True
        if not moved:
            break
    return settled
