"""Nests many rows in one compiled call: the searches of dp_numba with memory that is taken once for all of them.

A row takes a few milliseconds, and its tables some megabytes. Taking them anew for each row, and the interpreter
between the searches, cost as much again, and kept several threads from running at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.anyprec.dp_numba import (
    Floats,
    Ints,
    Sums,
    compiled,
    grid,
    seed,
    settle,
    spans_into,
    split,
    tree_into,
)  # fmt: skip


@compiled
def _finest_places(A: Any, cuts: Ints, depths: int) -> Ints:
    """Cuts of the width before the finest, in places of the grid, from those of the coarsest."""
    for depth in range(depths - 1, 1, -1):
        finer = np.empty(2 * len(cuts) - 1, np.int64)
        for i in range(len(cuts) - 1):
            finer[2 * i], finer[2 * i + 1] = cuts[i], A[depth, cuts[i], cuts[i + 1]]
        finer[-1] = cuts[-1]
        cuts = finer
    return cuts


@compiled
def _split_every(sums: Sums, cuts: Ints) -> Ints:
    """Each cell cut in two, at the best of all places."""
    finer = np.empty(2 * len(cuts) - 1, np.int64)
    for i in range(len(cuts) - 1):
        finer[2 * i], finer[2 * i + 1] = cuts[i], split(sums, cuts[i], cuts[i + 1])[1]
    finer[-1] = cuts[-1]
    return finer


@compiled
def _cuts_of(sums: Sums, width_weights: Floats, cells: int, places: Ints, rounds: int, memory: Any) -> Ints:
    """What nested_kmeans.nested_cuts finds. `memory` are three tables (B, B) and A, for B places."""
    spans, total, finer, A = memory
    spans_into(Sums(sums.h[places], sums.hw[places], sums.hww[places]), spans)
    cuts = seed(tree_into(spans, width_weights, cells, total, finer, A), cells)
    if len(width_weights) == 1:
        return settle(sums, places[cuts], width_weights, rounds)
    return settle(sums, _split_every(sums, places[_finest_places(A, cuts, len(width_weights))]), width_weights, rounds)


@compiled
def _memory(size: int, depths: int) -> Any:
    return (
        np.zeros((size, size)),
        np.zeros((size, size)),
        np.zeros((size, size)),
        np.zeros((depths, size, size), np.int16),
    )


@compiled
def _means(sums: Sums, cuts: Ints, parent: Floats) -> Floats:
    """Weighted mean of every cell (cells,); an empty cell takes its parent's."""
    found = np.empty(len(cuts) - 1)
    for i in range(len(found)):
        a, b = cuts[i], cuts[i + 1]
        found[i] = (sums.hw[b] - sums.hw[a]) / (sums.h[b] - sums.h[a]) if b > a else parent[i // 2]
    return found


@compiled
def _nest_rows(
    h: Floats, hw: Floats, hww: Floats, order: Any, width_weights: Floats, low: int, grid_cells: int, rounds: int,
    codes: Any, tables: Floats,
) -> None:  # fmt: skip
    """Codes (R, M) and the tables (R, Σ 2^k) of every width from the narrowest to the widest, end to end."""
    cells, depths = 1 << low, len(width_weights)
    memory = _memory(grid_cells + 1, depths)
    for r in range(len(h)):
        sums = Sums(h[r], hw[r], hww[r])
        places = grid(sums, grid_cells)
        fitting = memory if len(places) == grid_cells + 1 else _memory(len(places), depths)
        finest = _cuts_of(sums, width_weights, cells, places, rounds, fitting)
        for cell in range(len(finest) - 1):
            for i in range(finest[cell], finest[cell + 1]):
                codes[r, order[r, i]] = cell
        parent, at = np.zeros(cells // 2), 0
        for t in range(depths - 1, -1, -1):
            parent = _means(sums, finest[:: 1 << t].copy(), parent)
            tables[r, at : at + len(parent)] = parent
            at += len(parent)


def nest_rows(
    sorted_rows: tuple[NDArray[np.intp], Floats, Floats, Floats],
    width_weights: Floats,
    *,
    bits: Sequence[int],
    grid_cells: int,
    rounds: int,
) -> tuple[NDArray[np.uint8], dict[int, Floats]]:
    """Codes (R, M) and tables {k: (R, 2^k)}, about each row's mean, of rows as `sort_rows` gives them."""
    order, h, hw, hww = sorted_rows
    low, high = min(bits), max(bits)
    codes = np.empty(order.shape, np.uint8)
    tables = np.empty((len(order), (2 << high) - (1 << low)))
    _nest_rows(h, hw, hww, order, width_weights, low, grid_cells, rounds, codes, tables)
    found = {k: tables[:, (1 << k) - (1 << low) : (2 << k) - (1 << low)] for k in range(low, high + 1)}
    return codes, {k: found[k] for k in bits}


def sort_rows(weights: Floats, sensitivity: Floats) -> tuple[NDArray[np.intp], Floats, Floats, Floats]:
    """The order that sorts each row (R, M), and the prefix sums (R, M + 1) of h, h·w and h·w²."""
    order = np.argsort(weights, axis=1, kind="stable")
    h, w = (np.take_along_axis(each, order, axis=1) for each in (sensitivity, weights))
    return order, _prefixes(h), _prefixes(h * w), _prefixes(h * w * w)


def _prefixes(values: Floats) -> Floats:
    found = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=found[:, 1:])
    return found
