"""Nested codes for weights: a k-means seed at the lowest width whose cells are split in two, width after width.

Any-Precision LLM (arXiv 2402.10517) takes the best seed for the lowest width and then the best split of each cell. On
heavy-tailed rows that spends half the codes of a cell on one far weight, and 8 bits cost twice what free k-means does.
Here seed and splits are chosen together: they minimise Σ_k ω_k · E_k / Ê_k over all widths k, where E_k is the weighted
squared error at width k and Ê_k an estimate of what free k-means would reach. Cells are runs of a sorted row, so the
minimum over all trees is a dynamic program on runs: F_t(a, b) = ω_t·cost(a, b) + min_m F_{t-1}(a, m) + F_{t-1}(m, b).
cost is a Monge array and (min, +) products keep that, so the best m grows with a and b (Knuth) and a table costs
O(B²) for B places to cut. numba makes this fast; numpy gives the same cuts more slowly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

try:
    from backends.anyprec import loops
except ImportError:  # the `quantize` extra is not installed
    loops = None  # type: ignore[assignment]  # the fast path is then not offered

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]  # cuts (cells + 1,): cell c holds sorted positions cuts[c] … cuts[c + 1] - 1
MIN_SENSITIVITY = 1e-6  # of the row's mean, so that a weight no gradient reached still has a place
GRID_CELLS = 512  # places to cut that are considered: twice the cells of 8 bits
LAST_EMPHASIS = (2.0, 3.0)  # ω of the last two widths, whose nesting costs most; 1 for the others
MOST_ROUNDS, GOOD_RATIO, REWEIGHING = 4, 1.1, 3.0  # when a row is done again, and how weights follow errors
LEAST_STEP = 5.0  # a bit divides Ê by this at most (4 in theory): a row shorter than 2^k must not rule all widths


@dataclass(frozen=True, slots=True)
class Sums:
    """Prefix sums of one sorted row: h, h·w and h·w², each (M + 1,)."""

    h: Floats
    hw: Floats
    hww: Floats


@dataclass(frozen=True, slots=True)
class Nested:
    """Codes of one table row's weights and its tables."""

    codes: NDArray[np.uint8]  # (M,), P-bit
    tables: dict[int, Floats]  # k -> (2^k,)


@dataclass(frozen=True, slots=True)
class Engine:
    """One implementation of the searches."""

    free_cuts: Callable[[Sums, int], Ints]
    grid: Callable[[Sums, int], tuple[Ints, Floats]]
    tree: Callable[[Floats, Floats], tuple[Floats, NDArray[np.int32]]]
    split: Callable[[Sums, int, int], tuple[float, int]]


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


def free_cuts_slow(sums: Sums, cells: int) -> Ints:
    """Optimal weighted 1-D k-means: cuts (cells + 1,)."""
    ends = np.arange(len(sums.h))
    best, starts = costs(sums, np.zeros_like(ends), ends), [np.zeros_like(ends)]
    for _ in range(1, cells):
        best, chosen = _add_cell(sums, best)
        starts.append(chosen)
    return _walk_back(starts, len(ends) - 1)


def best_split(sums: Sums, a: int, b: int) -> tuple[float, int]:
    """The gain and place of the best cut of a … b-1; gain -1 where there is nothing to cut."""
    if b - a < 2:
        return -1.0, b
    m, low, high = np.arange(a + 1, b), np.array([a]), np.array([b])
    halves = costs(sums, low, m) + costs(sums, m, high)
    best = int(np.argmin(halves))
    return float(costs(sums, low, high)[0] - halves[best]), int(m[best])


def grid_slow(sums: Sums, most: int) -> tuple[Ints, Floats]:
    """Where cuts are worth considering: the cell with most to gain is cut, until there are `most` cells.

    Returns the cuts (≤ most + 1,) and the error after every number of cells (≤ most,).
    """
    size = len(sums.h) - 1
    cells, found = [(0, size)], [best_split(sums, 0, size)]
    errors = [float(costs(sums, np.array([0]), np.array([size]))[0])]
    while len(cells) < most:
        i = int(np.argmax([gain for gain, _ in found]))
        gain, at = found[i]
        if gain < 0:
            break
        errors.append(errors[-1] - gain)
        (a, b), cells[i] = cells[i], (cells[i][0], at)
        cells.append((at, b))
        found[i] = best_split(sums, a, at)
        found.append(best_split(sums, at, b))
    return np.array([*sorted(a for a, _ in cells), size]), np.array(errors)


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


def engines() -> dict[str, Engine]:
    """The implementations that can run here, fastest first."""
    slow = {"numpy": Engine(free_cuts_slow, grid_slow, tree_slow, best_split)}
    if loops is None:
        return slow
    fast = Engine(
        lambda sums, cells: loops.free_cuts(sums.h, sums.hw, sums.hww, cells),
        lambda sums, most: loops.grid(sums.h, sums.hw, sums.hww, most),
        loops.tree,
        lambda sums, a, b: loops.split(sums.h, sums.hw, sums.hww, a, b),
    )
    return {"numba": fast, **slow}


def _engine(name: str | None) -> Engine:
    found = engines()
    return found[name or next(iter(found))]


def seed_cuts(F: Floats, cells: int) -> Ints:
    """The best `cells` runs end to end under F (B, B): cuts (cells + 1,), as places in the grid."""
    reachable = np.where(np.tri(len(F), k=-1, dtype=bool), np.inf, F)  # a run never ends before it begins
    best, starts = reachable[0].copy(), [np.zeros(len(F), np.int64)]
    for _ in range(1, cells):
        totals = best[:, None] + reachable
        starts.append(np.argmin(totals, axis=0))
        best = totals.min(axis=0)
    return _walk_back(starts, len(F) - 1)


def reachable_errors(errors: Floats, bits: Sequence[int]) -> Floats:
    """Ê_k for every width from max(bits) down to min(bits) (d,), read off the grid's errors."""
    widths = np.arange(max(bits), min(bits) - 1, -1)
    reached: Floats = errors[np.minimum(2**widths, len(errors)) - 1]
    for i in range(len(widths) - 2, -1, -1):
        reached[i] = max(reached[i], reached[i + 1] / LEAST_STEP)
    least = 1e-12 * float(errors[0]) or 1.0  # a row of one value has no error at any width
    return np.maximum(reached, least)


def emphasis(widths: int) -> Floats:
    """ω of so many widths, the finest first."""
    weights = np.ones(widths)
    last = LAST_EMPHASIS[::-1][: widths if widths > 1 else 0]
    weights[: len(last)] = last
    return weights


def _tree_cuts(spans: Floats, weights: Floats, engine: Engine, *, seed: int) -> list[Ints]:
    """Places in the grid at every width, the coarsest first, that minimise the weighted sum of errors."""
    F, A = engine.tree(spans, weights)
    found = [seed_cuts(F, seed)]
    for depth in range(len(weights) - 1, 0, -1):
        cuts = found[-1]
        finer = np.empty(2 * len(cuts) - 1, np.int64)
        finer[::2], finer[1::2] = cuts, A[depth, cuts[:-1], cuts[1:]]
        found.append(finer)
    return found


def nested_cuts(sums: Sums, *, bits: Sequence[int], engine: Engine) -> dict[int, Ints]:
    """Cuts (2^k + 1,) for every width k from min(bits) to max(bits); each width's cuts are among the next one's.

    Where some width stays far above Ê, it gets more weight and the row is done again; the best worst width wins.
    """
    places, errors = engine.grid(sums, GRID_CELLS)
    a, b = np.meshgrid(places, places, indexing="ij")
    spans = np.where(b > a, costs(sums, a, np.maximum(a, b)), 0.0)
    reached = reachable_errors(errors, bits)
    weights, least = emphasis(len(reached)) / reached, np.inf
    best: list[Ints] = []
    for _ in range(MOST_ROUNDS):
        found = _tree_cuts(spans, weights, engine, seed=2 ** min(bits))
        ratios = np.array([spans[cuts[:-1], cuts[1:]].sum() for cuts in reversed(found)]) / reached
        if not best or ratios.max() < least:
            best, least = found, ratios.max()
        if least <= GOOD_RATIO:
            break
        weights = weights * (ratios / ratios.mean()) ** REWEIGHING
    nested = {min(bits) + i: places[cuts] for i, cuts in enumerate(best)}
    if len(nested) > 1:
        nested[max(bits)] = _split_every(sums, nested[max(bits) - 1], engine)
    return nested


def _split_every(sums: Sums, cuts: Ints, engine: Engine) -> Ints:
    """The last width's cuts again, from all places and not only the grid's."""
    finer = np.repeat(cuts, 2)[:-1]
    finer[1::2] = [engine.split(sums, int(a), int(b))[1] for a, b in itertools.pairwise(cuts)]
    return finer


def centroids(sums: Sums, cuts: Ints, parent: Floats) -> Floats:
    """Weighted mean of every cell (cells,); an empty cell takes its parent's."""
    mass, first = np.diff(sums.h[cuts]), np.diff(sums.hw[cuts])
    return np.divide(first, mass, out=parent.copy(), where=np.diff(cuts) > 0)


def sort_row(weights: Floats, sensitivity: Floats) -> tuple[NDArray[np.intp], float, Sums]:
    """The order that sorts a row (M,), its mean, and the prefix sums of what is left without it.

    Zero sensitivities are lifted to a sliver of the mean; all-zero ones count as uniform.
    """
    typical = float(sensitivity.mean())
    h = np.maximum(sensitivity, MIN_SENSITIVITY * typical) if typical > 0 else np.ones_like(sensitivity)
    order, mean = np.argsort(weights, kind="stable"), float(weights.mean())
    h, w = h[order], weights[order] - mean
    return order, mean, Sums(*(np.concatenate([[0.0], np.cumsum(part)]) for part in (h, h * w, h * w * w)))


def nest(weights: Floats, sensitivity: Floats, *, bits: Sequence[int], engine: str | None = None) -> Nested:
    """Codes and tables of one table row's weights (M,), which may be those of several matrix rows end to end.

    P = max(bits); the code at width k is code >> (P - k). Tables are float64 here.
    """
    order, mean, sums = sort_row(weights, sensitivity)
    cuts = nested_cuts(sums, bits=bits, engine=_engine(engine))
    values, tables = np.zeros(2 ** (min(bits) - 1)), {}
    for k, at in cuts.items():
        values = centroids(sums, at, np.repeat(values, 2))
        tables[k] = values + mean
    codes = np.empty(len(weights), np.uint8)
    codes[order] = np.repeat(np.arange(2 ** max(bits)), np.diff(cuts[max(bits)]))
    return Nested(codes, {k: tables[k] for k in bits})


def unconstrained(weights: Floats, sensitivity: Floats, *, cells: int, engine: str | None = None) -> Floats:
    """The row as optimal k-means with `cells` free cells would rebuild it (M,): what nesting is measured against."""
    order, mean, sums = sort_row(weights, sensitivity)
    cuts = _engine(engine).free_cuts(sums, cells)
    rebuilt = np.empty_like(weights)
    rebuilt[order] = np.repeat(centroids(sums, cuts, np.zeros(cells)) + mean, np.diff(cuts))
    return rebuilt
