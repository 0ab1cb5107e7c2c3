"""Nested codes: prefixes, and what nesting costs against k-means free of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from backends.anyprec import dp_numba as compiled
from backends.anyprec import nested_kmeans as nesting
from benchmarks import dp_numpy

BITS = (3, 4, 5, 6, 7, 8)
ROWS = {"gaussian": lambda rng, size: rng.normal(size=size), "student": lambda rng, size: rng.standard_t(5, size=size)}


def rebuilt(nested: dp_numpy.Nested, k: int) -> np.ndarray:
    return nested.tables[k][nested.codes >> (max(nested.tables) - k)]


def squared_error(weights: np.ndarray, other: np.ndarray, sensitivity: np.ndarray) -> float:
    return float((sensitivity * (weights - other) ** 2).sum())


@pytest.mark.parametrize("seed", [11, 2000])
@pytest.mark.parametrize("size", [4096, 8192])
@pytest.mark.parametrize("kind", ROWS)
def test_nesting_costs_at_most_a_fifth_more_than_the_best_free_cells_at_every_width(
    kind: str, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, even = [ROWS[kind](rng, size) for _ in range(8)], np.ones(size)
    sums = [nesting.sort_row(row, even)[2] for row in rows]
    width_weights = nesting.balance(sums, bits=BITS)
    nested = [dp_numpy.nest(row, even, bits=BITS, width_weights=width_weights) for row in rows]
    free = sum(compiled.free_errors(each, 2 ** max(BITS)) for each in sums)
    for k in BITS:
        ours = sum(squared_error(row, rebuilt(each, k), even) for row, each in zip(rows, nested, strict=True))
        assert ours <= 1.2 * free[2**k - 1], k


def test_widths_weighed_on_a_few_rows_suit_the_rest_of_a_matrix() -> None:
    rng, even = np.random.default_rng(5), np.ones(4096)
    sums = [nesting.sort_row(rng.standard_t(5, 4096), even)[2] for _ in range(24)]
    width_weights = nesting.balance(sums[::2], bits=BITS)
    cuts = [nesting.nested_cuts(nesting.Row.of(each), width_weights, bits=BITS) for each in sums[1::2]]
    ours = sum(nesting.errors_at(each, at, len(BITS)) for each, at in zip(sums[1::2], cuts, strict=True))
    free = sum(nesting.free_errors(each, BITS) for each in sums[1::2])
    assert (ours[::-1] <= 1.2 * free).all(), ours[::-1] / free


def test_free_errors_are_those_of_the_free_cells() -> None:
    rng = np.random.default_rng(6)
    weights, sensitivity = rng.standard_t(5, 300), rng.chisquare(1, 300)
    sums = nesting.sort_row(weights, sensitivity)[2]
    for each in (compiled, dp_numpy):
        errors = each.free_errors(sums, 40)
        for cells in (1, 7, 40):
            cut = dp_numpy.unconstrained(weights, sensitivity, cells=cells)
            assert squared_error(weights, cut, sensitivity) == pytest.approx(errors[cells - 1])


@pytest.mark.parametrize("seed", range(3))
def test_every_cell_is_the_union_of_its_two_halves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights, sensitivity = rng.normal(size=700), rng.chisquare(1, size=700)
    nested = dp_numpy.nest(weights, sensitivity, bits=BITS)
    order = np.argsort(weights)
    assert (np.diff(nested.codes[order].astype(int)) >= 0).all()  # cells are runs of the sorted row at every width
    for k in BITS:
        codes = nested.codes >> (8 - k)
        for cell in np.unique(codes):
            inside = codes == cell
            mean = np.average(weights[inside], weights=sensitivity[inside])
            assert nested.tables[k][cell] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("size", [1, 5, 40, 300, 2000])
def test_the_searches_in_numpy_choose_the_same_codes(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(size)
    weights, sensitivity = rng.standard_t(4, size=size), rng.chisquare(1, size=size)
    codes = dp_numpy.nest(weights, sensitivity, bits=BITS).codes
    monkeypatch.setattr(nesting, "dp_numba", dp_numpy)
    np.testing.assert_array_equal(codes, dp_numpy.nest(weights, sensitivity, bits=BITS).codes)


@pytest.mark.parametrize("bits", [BITS, (3, 4, 6), (4,), (2, 8)])
def test_rows_nested_together_have_the_codes_they_have_alone(bits: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    weights, sensitivity = rng.standard_t(4, size=(7, 900)), rng.chisquare(1, size=(7, 900))
    weights[2], sensitivity[3], weights[4, 5:] = 1.5, 0.0, -2.0  # one value, no sensitivity, few values
    width_weights = nesting.balance(
        [nesting.sort_row(*row)[2] for row in zip(weights, sensitivity, strict=True)], bits=bits
    )
    codes, tables = nesting.nest_rows(weights, sensitivity, bits=bits, width_weights=width_weights)
    for i in range(len(weights)):
        alone = dp_numpy.nest(weights[i], sensitivity[i], bits=bits, width_weights=width_weights)
        np.testing.assert_array_equal(codes[i], alone.codes)
        for k in bits:
            np.testing.assert_allclose(tables[k][i], alone.tables[k], atol=1e-9)


def test_free_k_means_is_the_best_of_all_partitions() -> None:
    rng = np.random.default_rng(5)
    weights, sensitivity = np.sort(rng.normal(size=10)), rng.chisquare(1, size=10)
    found = dp_numpy.unconstrained(weights, sensitivity, cells=3)

    def error(cuts: tuple[int, ...]) -> float:
        pieces = zip((0, *cuts), (*cuts, 10), strict=True)
        means = [np.full(b - a, np.average(weights[a:b], weights=sensitivity[a:b])) for a, b in pieces]
        return squared_error(weights, np.concatenate(means), sensitivity)

    best = min(error(cuts) for cuts in itertools.combinations(range(1, 10), 2))
    assert squared_error(weights, found, sensitivity) == pytest.approx(best)


def test_more_bits_never_rebuild_a_row_worse() -> None:
    rng = np.random.default_rng(3)
    for size in (16, 100, 1000, 5000):
        weights, sensitivity = rng.standard_t(3, size=size), rng.chisquare(1, size=size)
        nested = dp_numpy.nest(weights, sensitivity, bits=BITS)
        errors = [squared_error(weights, rebuilt(nested, k), sensitivity) for k in BITS]
        assert all(wide <= narrow * (1 + 1e-9) for narrow, wide in itertools.pairwise(errors))


@pytest.mark.parametrize("weights", [np.zeros(50), np.ones(64) * 3.5, np.repeat([1.0, -1.0], 20)])
def test_rows_with_few_values_are_rebuilt_exactly(weights: np.ndarray) -> None:
    nested = dp_numpy.nest(weights, np.zeros_like(weights), bits=BITS)
    for k in BITS:
        np.testing.assert_allclose(rebuilt(nested, k), weights, atol=1e-12)
        assert np.isfinite(nested.tables[k]).all()
