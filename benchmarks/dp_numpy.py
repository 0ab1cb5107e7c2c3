"""The searches for cuts and the codes of backends/anyprec once more in numpy, and free k-means: what those are held to.

Cuts (cells + 1,) say where cells begin: cell c holds sorted positions cuts[c] … cuts[c + 1] - 1. Weighted squared
error is a Monge array, so the best cut of a run grows with both of its ends, and every search here uses that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.anyprec.dp_numba import LEAST_GAIN, Floats, Ints, Sums, longest_run
from backends.anyprec.nested_kmeans import Row, balance, costs, nested_cuts, sort_row


@dataclass(frozen=True, slots=True)
class Nested:
    """Codes of one table row's weights and its tables."""

    codes: NDArray[np.uint8]  # (M,), P-bit
    tables: dict[int, Floats]  # k -> (2^k,)


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


def free_cuts(sums: Sums, cells: int) -> Ints:
    """Optimal weighted 1-D k-means: cuts (cells + 1,)."""
    return _walk_back(_free(sums, cells)[0], len(sums.h) - 1)


def free_errors(sums: Sums, most: int) -> Floats:
    """Error of optimal weighted k-means with 1 … most cells (most,)."""
    return _free(sums, most)[1]


def split(sums: Sums, a: int, b: int) -> tuple[float, int]:
    """The gain and place of the best cut of a … b-1; gain -1 where there is nothing to cut."""
    if b - a < 2:
        return -1.0, b
    m, low, high = np.arange(a + 1, b), np.array([a]), np.array([b])
    halves = costs(sums, low, m) + costs(sums, m, high)
    best = int(np.argmin(halves))
    return float(costs(sums, low, high)[0] - halves[best]), int(m[best])


def grid(sums: Sums, most: int) -> Ints:
    """Where cuts are worth considering (≤ most + 1,): the cell with most to gain is cut, until there are `most`."""
    size = len(sums.h) - 1
    cells, found = [(0, size)], [split(sums, 0, size)]
    while len(cells) < most:
        i = int(np.argmax([gain for gain, _ in found]))
        gain, at = found[i]
        if gain < 0:
            break
        (a, b), cells[i] = cells[i], (cells[i][0], at)
        cells.append((at, b))
        found[i] = split(sums, a, at)
        found.append(split(sums, at, b))
    return np.array([*sorted(a for a, _ in cells), size])


def spans(sums: Sums) -> Floats:
    """cost(a, b) of every run (M + 1, M + 1); 0 where b ≤ a."""
    a, b = np.meshgrid(np.arange(len(sums.h)), np.arange(len(sums.h)), indexing="ij")
    return np.where(b > a, costs(sums, a, np.maximum(a, b)), 0.0)


def _fill(below: Floats, spans: Floats, weight: float, longest: int) -> tuple[Floats, NDArray[np.int32]]:
    size = len(below)
    F, A = np.full_like(below, np.inf), np.zeros(below.shape, np.int32)
    np.fill_diagonal(A, np.arange(size))
    np.fill_diagonal(F, 0.0)
    for span in range(1, min(size, longest + 1)):
        a = np.arange(size - span)
        b = a + span
        first = A[a, b - 1].astype(np.int64)
        counts = A[a + 1, b] - first + 1
        m, begins = _ranges(first, counts)
        least, at = _first_least(below[np.repeat(a, counts), m] + below[m, np.repeat(b, counts)], begins, counts)
        A[a, b], F[a, b] = m[at], least + weight * spans[a, b]
    return F, A


def tree(spans: Floats, weights: Floats, cells: int) -> tuple[Floats, NDArray[np.int32]]:
    """Best nested split of every run of grid cells that is not much longer than such cells are on average.

    `spans` (B, B) holds cost(a, b); `weights` (d,) the ω/Ê of the finest width first; `cells` are the coarsest's.
    Returns F (B, B) of the coarsest width, inf where a run is too long, and A (d, B, B). A[t, a, b] is the best cut of
    the run a … b at depth t.
    """
    F, chosen = weights[0] * spans, [np.zeros(spans.shape, np.int32)]
    for depth, weight in enumerate(weights[1:], 1):
        longest = longest_run(len(spans), cells << (len(weights) - 1 - depth))
        F, A = _fill(F, spans, float(weight), longest)
        chosen.append(A)
    return F, np.stack(chosen)


def seed(F: Floats, cells: int) -> Ints:
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


def settle(sums: Sums, cuts: Ints, weights: Floats, rounds: int) -> Ints:
    """The finest width's cuts after each was moved to its best place, one after another, at most `rounds` times.

    `weights` (d,), the finest width first; cut i is also one of the width t bits coarser where 2^t divides i.
    """
    settled = cuts.copy()
    for _ in range(rounds):
        if not sum(_settle_one(sums, settled, weights, i) for i in range(1, len(cuts) - 1)):
            break
    return settled


def unconstrained(weights: Floats, sensitivity: Floats, *, cells: int) -> Floats:
    """The row as optimal k-means with `cells` free cells would rebuild it (M,): what nesting is measured against."""
    order, mean, sums = sort_row(weights, sensitivity)
    cuts = free_cuts(sums, cells)
    rebuilt = np.empty_like(weights)
    rebuilt[order] = np.repeat(centroids(sums, cuts, np.zeros(cells)) + mean, np.diff(cuts))
    return rebuilt


def centroids(sums: Sums, cuts: Ints, parent: Floats) -> Floats:
    """Weighted mean of every cell (cells,); an empty cell takes its parent's."""
    mass, first = np.diff(sums.h[cuts]), np.diff(sums.hw[cuts])
    return np.divide(first, mass, out=parent.copy(), where=np.diff(cuts) > 0)


def nest(weights: Floats, sensitivity: Floats, *, bits: Sequence[int], width_weights: Floats | None = None) -> Nested:
    """Codes and tables of one table row's weights (M,), which may be those of several matrix rows end to end.

    P = max(bits); the code at width k is code >> (P - k). Tables are float64 here. `width_weights` is `balance` of
    the matrix that this row belongs to, by default of the row alone.
    """
    order, mean, sums = sort_row(weights, sensitivity)
    if width_weights is None:
        width_weights = balance([sums], bits=bits)
    finest = nested_cuts(Row.of(sums), width_weights, bits=bits)
    values, tables = np.zeros(2 ** (min(bits) - 1)), {}
    for k in range(min(bits), max(bits) + 1):
        values = centroids(sums, finest[:: 2 ** (max(bits) - k)], np.repeat(values, 2))
        tables[k] = values + mean
    codes = np.empty(len(weights), np.uint8)
    codes[order] = np.repeat(np.arange(2 ** max(bits)), np.diff(finest))
    return Nested(codes, {k: tables[k] for k in bits})
