"""Searches for cuts in one sorted row, in numpy: exact, and slower than the same ones compiled in loops.py.

Cuts (cells + 1,) say where cells begin: cell c holds sorted positions cuts[c] … cuts[c + 1] - 1. Weighted squared
error is a Monge array, so the best cut of a run grows with both of its ends, and every search here uses that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

try:
    from backends.anyprec import dp_numba as loops
except ImportError:  # the `quantize` extra is not installed
    loops = None  # type: ignore[assignment]  # the fast path is then not offered

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LEAST_GAIN = 1e-12  # of an error: a cut that gains less stays, for rounding alone could move it for ever


@dataclass(frozen=True, slots=True)
class Sums:
    """Prefix sums of one sorted row: h, h·w and h·w², each (M + 1,)."""

    h: Floats
    hw: Floats
    hww: Floats

    def at(self, places: Ints) -> Sums:
        """Those of the row's runs between the places, as if each were one weight."""
        return Sums(self.h[places], self.hw[places], self.hww[places])


@dataclass(frozen=True, slots=True)
class Engine:
    """One implementation of the searches."""

    free_cuts: Callable[[Sums, int], Ints]
    free_errors: Callable[[Sums, int], Floats]
    grid: Callable[[Sums, int], Ints]
    spans: Callable[[Sums], Floats]
    tree: Callable[[Floats, Floats], tuple[Floats, NDArray[np.int32]]]
    seed: Callable[[Floats, int], Ints]
    split: Callable[[Sums, int, int], tuple[float, int]]
    settle: Callable[[Sums, Ints, Floats, int], Ints]


def costs(sums: Sums, a: Ints, b: Ints) -> Floats:
    """Weighted squared error of sorted positions a … b-1 around their own mean, elementwise; 0 for an empty run."""
    mass, first = sums.h[b] - sums.h[a], sums.hw[b] - sums.hw[a]
    full = mass > 0
    between = np.divide(first * first, mass, out=np.zeros_like(mass), where=full)
    return np.where(full, sums.hww[b] - sums.hww[a] - between, 0.0)


def _ranges(first: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """first[i] … first[i] + counts[i] - 1 for every i, end to end, and where each run begins."""
    begins = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(first - begins, counts), begins


def _first_least(values: Floats, begins: Ints, counts: Ints) -> tuple[Floats, Ints]:
    """The least value of every run and where it first stands."""
    least = np.minimum.reduceat(values, begins)
    hits = np.flatnonzero(values == np.repeat(least, counts))
    return least, hits[np.searchsorted(hits, begins)]


def _add_cell(sums: Sums, before: Floats) -> tuple[Floats, Ints]:
    """One more cell: now[i] = min over a of before[a] + cost(a, i); a whole level of the division at a time."""
    now, starts = np.empty_like(before), np.zeros(len(before), np.int64)
    jobs = np.array([[0, len(before) - 1, 0, len(before) - 1]])  # low, high, first, last
    while len(jobs):
        low, high, first, last = jobs.T
        middle = (low + high) // 2
        counts = np.minimum(middle, last) - first + 1
        a, begins = _ranges(first, counts)
        least, at = _first_least(before[a] + costs(sums, a, np.repeat(middle, counts)), begins, counts)
        now[middle], starts[middle] = least, a[at]
        left = np.stack([low, middle - 1, first, a[at]], axis=1)[low < middle]
        right = np.stack([middle + 1, high, a[at], last], axis=1)[middle < high]
        jobs = np.concatenate([left, right])
    return now, starts


def _walk_back(starts: Sequence[Ints], end: int) -> Ints:
    cuts = [end]
    for chosen in reversed(starts):
        cuts.append(int(chosen[cuts[-1]]))
    return np.array(cuts[::-1])


def _free(sums: Sums, cells: int) -> tuple[list[Ints], Floats]:
    """Where the last cell of the best division begins, for every number of cells and every end; and its error."""
    ends = np.arange(len(sums.h))
    best, starts = costs(sums, np.zeros_like(ends), ends), [np.zeros_like(ends)]
    errors = [best[-1]]
    for _ in range(1, cells):
        best, chosen = _add_cell(sums, best)
        starts.append(chosen)
        errors.append(best[-1])
    return starts, np.array(errors)


def free_cuts_slow(sums: Sums, cells: int) -> Ints:
    """Optimal weighted 1-D k-means: cuts (cells + 1,)."""
    return _walk_back(_free(sums, cells)[0], len(sums.h) - 1)


def free_errors_slow(sums: Sums, most: int) -> Floats:
    """Error of optimal weighted k-means with 1 … most cells (most,)."""
    return _free(sums, most)[1]


def best_split(sums: Sums, a: int, b: int) -> tuple[float, int]:
    """The gain and place of the best cut of a … b-1; gain -1 where there is nothing to cut."""
    if b - a < 2:
        return -1.0, b
    m, low, high = np.arange(a + 1, b), np.array([a]), np.array([b])
    halves = costs(sums, low, m) + costs(sums, m, high)
    best = int(np.argmin(halves))
    return float(costs(sums, low, high)[0] - halves[best]), int(m[best])


def grid_slow(sums: Sums, most: int) -> Ints:
    """Where cuts are worth considering (≤ most + 1,): the cell with most to gain is cut, until there are `most`."""
    size = len(sums.h) - 1
    cells, found = [(0, size)], [best_split(sums, 0, size)]
    while len(cells) < most:
        i = int(np.argmax([gain for gain, _ in found]))
        gain, at = found[i]
        if gain < 0:
            break
        (a, b), cells[i] = cells[i], (cells[i][0], at)
        cells.append((at, b))
        found[i] = best_split(sums, a, at)
        found.append(best_split(sums, at, b))
    return np.array([*sorted(a for a, _ in cells), size])


def spans_slow(sums: Sums) -> Floats:
    """cost(a, b) of every run (M + 1, M + 1); 0 where b ≤ a."""
    a, b = np.meshgrid(np.arange(len(sums.h)), np.arange(len(sums.h)), indexing="ij")
    return np.where(b > a, costs(sums, a, np.maximum(a, b)), 0.0)


def _fill(below: Floats, spans: Floats, weight: float) -> tuple[Floats, NDArray[np.int32]]:
    size = len(below)
    F, A = np.zeros_like(below), np.zeros(below.shape, np.int32)
    np.fill_diagonal(A, np.arange(size))
    for span in range(1, size):
        a = np.arange(size - span)
        b = a + span
        first = A[a, b - 1].astype(np.int64)
        counts = A[a + 1, b] - first + 1
        m, begins = _ranges(first, counts)
        least, at = _first_least(below[np.repeat(a, counts), m] + below[m, np.repeat(b, counts)], begins, counts)
        A[a, b], F[a, b] = m[at], least + weight * spans[a, b]
    return F, A


def tree_slow(spans: Floats, weights: Floats) -> tuple[Floats, NDArray[np.int32]]:
    """Best nested split of every run of grid cells.

    `spans` (B, B) holds cost(a, b); `weights` (d,) the ω/Ê of the finest width first. Returns F (B, B) of the coarsest
    width and A (d, B, B), where A[t, a, b] is the best cut of the run a … b at depth t.
    """
    F, chosen = weights[0] * spans, [np.zeros(spans.shape, np.int32)]
    for weight in weights[1:]:
        F, A = _fill(F, spans, float(weight))
        chosen.append(A)
    return F, np.stack(chosen)


def seed_slow(F: Floats, cells: int) -> Ints:
    """The best `cells` runs end to end under F (B, B): cuts (cells + 1,), as places in the grid."""
    reachable = np.where(np.tri(len(F), k=-1, dtype=bool), np.inf, F)  # a run never ends before it begins
    best, starts = reachable[0].copy(), [np.zeros(len(F), np.int64)]
    for _ in range(1, cells):
        totals = best[:, None] + reachable
        starts.append(np.argmin(totals, axis=0))
        best = totals.min(axis=0)
    return _walk_back(starts, len(F) - 1)


def _settle_one(sums: Sums, cuts: Ints, weights: Floats, i: int) -> bool:
    """Move cut i to its best place between its neighbours; whether it moved."""
    places = np.arange(cuts[i - 1], cuts[i + 1] + 1)
    total = np.zeros(len(places))
    for depth, weight in enumerate(weights):
        step = 1 << depth
        if i % step:
            break
        low, high = np.full_like(places, cuts[i - step]), np.full_like(places, cuts[i + step])
        total += weight * (costs(sums, low, places) + costs(sums, places, high))
    best = int(np.argmin(total))
    gains = bool(total[best] < total[cuts[i] - cuts[i - 1]] * (1 - LEAST_GAIN))
    if gains:
        cuts[i] = places[best]
    return gains


def settle_slow(sums: Sums, cuts: Ints, weights: Floats, rounds: int) -> Ints:
    """The finest width's cuts after each was moved to its best place, one after another, at most `rounds` times.

    `weights` (d,), the finest width first; cut i is also one of the width t bits coarser where 2^t divides i.
    """
    settled = cuts.copy()
    for _ in range(rounds):
        if not sum(_settle_one(sums, settled, weights, i) for i in range(1, len(cuts) - 1)):
            break
    return settled


def engines() -> dict[str, Engine]:
    """The implementations that can run here, fastest first."""
    slow = Engine(
        free_cuts_slow, free_errors_slow, grid_slow, spans_slow, tree_slow, seed_slow, best_split, settle_slow
    )
    if loops is None:
        return {"numpy": slow}
    fast = Engine(
        lambda sums, cells: loops.free_cuts(sums.h, sums.hw, sums.hww, cells),
        lambda sums, most: loops.free_errors(sums.h, sums.hw, sums.hww, most),
        lambda sums, most: loops.grid(sums.h, sums.hw, sums.hww, most),
        lambda sums: loops.all_spans(sums.h, sums.hw, sums.hww),
        loops.tree,
        loops.seed,
        lambda sums, a, b: loops.split(sums.h, sums.hw, sums.hww, a, b),
        lambda sums, cuts, weights, rounds: loops.settle(
            sums.h, sums.hw, sums.hww, cuts, weights, rounds, 1 - LEAST_GAIN
        ),
    )
    return {"numba": fast, "numpy": slow}


def engine(name: str | None = None) -> Engine:
    """The named implementation, or the fastest."""
    found = engines()
    return found[name or next(iter(found))]
