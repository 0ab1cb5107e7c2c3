"""Nested codes for weights: a k-means seed at the lowest width whose cells are split in two, width after width.

Any-Precision LLM (arXiv 2402.10517) takes the best seed for the lowest width and then the best split of each cell. On
heavy-tailed rows that spends half the codes of a cell on one far weight, and 8 bits cost twice what free k-means does.
Here seed and splits are chosen together: they minimise Σ_k ω_k · E_k over all widths k, where E_k is the weighted
squared error at width k. Cells are runs of a sorted row, so the minimum over all trees is a dynamic program on runs:
F_t(a, b) = ω_t·cost(a, b) + min_m F_{t-1}(a, m) + F_{t-1}(m, b). cost is a Monge array and (min, +) products keep that.
So the best m grows with a and b (Knuth) and a table costs O(B²) for B places to cut. Runs much longer than a width's
cells are on average are not considered. Then every cut moves, among all
places, to where the widths it serves want it.

The ω are those of a whole matrix, so that no width's error, summed over its rows, lies far above what free k-means
reaches. They are the multipliers of min over trees of max over k of ΣE_k / ΣÊ_k, found on a few rows by raising the
weight of the widths that do badly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.anyprec import dp_numba, row_batches
from backends.anyprec.dp_numba import Floats, Ints, Sums

MIN_SENSITIVITY = 1e-6  # of the row's mean, so that a weight no gradient reached still has a place
GRID_CELLS = 320  # places to cut that the tree considers; cuts settle among all places afterwards
SETTLING_ROUNDS = 8
FREE_PLACES = 4096  # where free cells are measured: of longer rows, so many places
FIRST_WEIGHTS = (2.7, 1.1, 0.7, 0.75, 0.45, 0.2)  # ω·Ê of the finest widths, finest first, before any row is seen
BALANCING_ROUNDS, BALANCING_STEP, GOOD_RATIO = 6, 8.0, 1.08  # when ω are good enough, and how they follow the ratios
LEAST_STEP = 10.0  # a bit divides Ê by this at most (4 in theory, more where cells hold few weights): where there are
# as many codes as weights Ê is nothing, and that width must not rule all others


@dataclass(frozen=True, slots=True)
class Row:
    """One sorted row and the places where the tree may cut it."""

    sums: Sums
    places: Ints  # (B,)
    spans: Floats  # (B, B) cost of every run between two places

    @classmethod
    def of(cls, sums: Sums) -> Row:
        """Chooses the places."""
        places = dp_numba.grid(sums, GRID_CELLS)
        return cls(sums, places, dp_numba.spans(sums.at(places)))


def costs(sums: Sums, a: Ints, b: Ints) -> Floats:
    """Weighted squared error of sorted positions a … b-1 around their own mean, elementwise; 0 for an empty run."""
    mass, first = sums.h[b] - sums.h[a], sums.hw[b] - sums.hw[a]
    full = mass > 0
    between = np.divide(first * first, mass, out=np.zeros_like(mass), where=full)
    return np.where(full, sums.hww[b] - sums.hww[a] - between, 0.0)


def errors_at(sums: Sums, cuts: Ints, depth: int) -> Floats:
    """Weighted squared error of the finest cuts and of those one, two, … bits coarser (depth,)."""
    strides = [cuts[:: 1 << t] for t in range(depth)]
    return np.array([costs(sums, at[:-1], at[1:]).sum() for at in strides])


def _tree_cuts(spans: Floats, weights: Floats, *, seed: int) -> list[Ints]:
    """Places in the grid at every width, the coarsest first, that minimise the weighted sum of errors."""
    F, A = dp_numba.tree(spans, weights, seed)
    found = [dp_numba.seed(F, seed)]
    for depth in range(len(weights) - 1, 0, -1):
        cuts = found[-1]
        finer = np.empty(2 * len(cuts) - 1, np.int64)
        finer[::2], finer[1::2] = cuts, A[depth, cuts[:-1], cuts[1:]]
        found.append(finer)
    return found


def _split_every(sums: Sums, cuts: Ints) -> Ints:
    """Each cell cut in two, at the best of all places and not only of the grid's."""
    finer = np.repeat(cuts, 2)[:-1]
    finer[1::2] = [dp_numba.split(sums, int(a), int(b))[1] for a, b in itertools.pairwise(cuts)]
    return finer


def nested_cuts(row: Row, width_weights: Floats, *, bits: Sequence[int]) -> Ints:
    """The finest width's cuts (2^P + 1,); every 2^t-th of them is a cut of the width t bits coarser.

    `width_weights` (d,) holds ω for every width from max(bits) down to min(bits).
    """
    found = _tree_cuts(row.spans, width_weights, seed=2 ** min(bits))
    cuts = row.places[found[-1]] if len(found) == 1 else _split_every(row.sums, row.places[found[-2]])
    return dp_numba.settle(row.sums, cuts, width_weights, SETTLING_ROUNDS)


def free_errors(sums: Sums, widths: Sequence[int]) -> Floats:
    """Error of optimal k-means with 2^k free cells for every width (d,); of long rows on FREE_PLACES places."""
    if len(sums.h) > FREE_PLACES + 1:
        sums = sums.at(dp_numba.grid(sums, FREE_PLACES))
    errors: Floats = dp_numba.free_errors(sums, 2 ** max(widths))[2 ** np.array(widths) - 1]
    return errors


def _reachable(errors: Floats) -> Floats:
    """Ê (d,) from free errors, the finest first: never nothing, nor less than a fixed part of the next width's."""
    reached = errors.copy()
    for i in range(len(errors) - 2, -1, -1):
        reached[i] = max(reached[i], reached[i + 1] / LEAST_STEP)
    return np.maximum(reached, 1e-12 * reached[-1] or 1.0)  # rows of one value have no error at any width


def _first_weights(bits: Sequence[int], widths: Sequence[int]) -> Floats:
    """0 for the widths between that are not stored."""
    wanted = itertools.chain(FIRST_WEIGHTS, itertools.repeat(FIRST_WEIGHTS[-1]))
    return np.array([weight if k in bits else 0.0 for k, weight in zip(widths, wanted, strict=False)])


def balance(rows: Sequence[Sums], *, bits: Sequence[int], each: Callable[..., Iterable[Any]] = map) -> Floats:
    """ω for every width from max(bits) down to min(bits) (d,), with which the worst width of these rows does best.

    Multiplicative weights: after each round a width's weight falls by how far it stays below the worst. `each` maps a
    function over the rows, perhaps on several threads.
    """
    widths = range(max(bits), min(bits) - 1, -1)
    prepared = list(each(Row.of, rows))
    free = each(lambda sums: free_errors(sums, widths), rows)
    reached = _reachable(sum(free, np.zeros(len(widths))))
    weights = _first_weights(bits, widths)
    stored, best, least = weights > 0, weights, np.inf
    for turn in range(BALANCING_ROUNDS):
        ratios = _errors(prepared, weights / reached, bits, each) / reached
        worst = ratios[stored].max()
        if worst < least:
            best, least = weights, worst
        if worst <= GOOD_RATIO:
            break
        weights = weights * np.exp(BALANCING_STEP / (1 + turn / 4) * (ratios - worst))
    return best / reached


def _errors(
    rows: Iterable[Row], width_weights: Floats, bits: Sequence[int], each: Callable[..., Iterable[Any]]
) -> Floats:
    """Summed over the rows, at every width from max(bits) down to min(bits) (d,)."""

    def of(row: Row) -> Floats:
        return errors_at(row.sums, nested_cuts(row, width_weights, bits=bits), len(width_weights))

    total: Floats = sum(each(of, rows), np.zeros(len(width_weights)))
    return total


def sort_row(weights: Floats, sensitivity: Floats) -> tuple[NDArray[np.intp], float, Sums]:
    """The order that sorts a row (M,), its mean, and the prefix sums of what is left without it.

    Zero sensitivities are lifted to a sliver of the mean; all-zero ones count as uniform.
    """
    typical = float(sensitivity.mean())
    h = np.maximum(sensitivity, MIN_SENSITIVITY * typical) if typical > 0 else np.ones_like(sensitivity)
    order, mean = np.argsort(weights, kind="stable"), float(weights.mean())
    h, w = h[order], weights[order] - mean
    return order, mean, Sums(*(np.concatenate([[0.0], np.cumsum(part)]) for part in (h, h * w, h * w * w)))


def nest_rows(
    weights: Floats, sensitivity: Floats, *, bits: Sequence[int], width_weights: Floats
) -> tuple[NDArray[np.uint8], dict[int, Floats]]:
    """Codes (R, M) and tables {k: (R, 2^k)} of table rows (R, M), each of which may be several matrix rows end to end.

    P = max(bits); the code at width k is code >> (P - k). Tables are float64. `width_weights`: balance().
    """
    typical, means = sensitivity.mean(axis=1, keepdims=True), weights.mean(axis=1, keepdims=True)
    h = np.where(typical > 0, np.maximum(sensitivity, MIN_SENSITIVITY * typical), 1.0)
    order = row_batches.sort_rows(weights - means, h)
    codes, tables = row_batches.nest_rows(
        order, width_weights, bits=bits, grid_cells=GRID_CELLS, rounds=SETTLING_ROUNDS
    )
    return codes, {k: table + means for k, table in tables.items()}
