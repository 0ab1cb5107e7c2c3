"""Prices from what is left: of a tenant's purse, of each arm's own capacity, over the queries still to come."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from policies.pacers.dual import smoothed_dual, spending_curve
from policies.types import Estimates, Float, History, Outcome, RouteContext

Rehearsal = Callable[[], tuple[tuple[str, ...], Estimates] | None]

SAMPLE_ROWS = 3000  # of the rehearsal, for the dual of capacities
CURVE_ROWS = 800  # of the rehearsal, for the price of a purse
CURVE_PRICES = 96
FORGET = 0.999  # a query's weight in the arrival rate, for each query that came after it
PRIOR_QUERIES = 10.0  # what the rate believed at the start is worth


class Remaining:
    """λ + μ + γ: the tenant's preference, one price for the purse, one for each arm's capacity.

    Both budgets are spread over the queries expected until the purse's reset: the observed rate of arrivals times the
    seconds left. The queries to come are taken to look like the estimator's rehearsal. γ is solved again every
    `resolve` arrivals; μ follows from a curve of spending against price at every proposal.
    """

    def __init__(self, rehearsal: Rehearsal, *, resolve: int = 50, queries_per_s: float = 1.0) -> None:
        self._rehearsal = rehearsal
        self._resolve = resolve
        self._arrivals = 0
        self._counted = PRIOR_QUERIES
        self._elapsed_s = PRIOR_QUERIES / queries_per_s
        self._last_s = np.nan
        self._solved_at = -1  # arrivals when γ was last solved
        self._solved_for: tuple[str, ...] = ()
        self._gamma: Float = np.zeros(0)
        self._curves: dict[tuple[str, ...], tuple[Float, Float]] = {}

    def prices(self, context: RouteContext, estimates: Estimates) -> Float:
        prices = np.full(len(context.arms), float(context.preference))
        if not np.isfinite(context.purse.reset_s) or self._rehearsal() is None:
            return prices
        names = tuple(arm.name for arm in context.arms)
        queries = max(context.purse.reset_s * self._counted / self._elapsed_s, self._resolve / 2)
        if np.isfinite(context.purse.remaining):
            prices += self._purse_price(names, context.purse.remaining / queries)
        if context.capacity is not None and np.isfinite(context.capacity).any():
            prices += self._capacity_prices(names, np.maximum(context.capacity, 0.0) / queries)
        return prices

    def learn(self, outcome: Outcome) -> None:
        if np.isnan(outcome.cost) and outcome.arm:
            return  # a judgement of an answer that was counted when it was settled
        self._arrivals += 1
        if not np.isnan(self._last_s):
            self._counted = self._counted * FORGET + 1.0
            self._elapsed_s = self._elapsed_s * FORGET + max(outcome.now - self._last_s, 0.0)
        self._last_s = outcome.now

    def refit(self, history: History) -> None:
        """Prices follow the estimator's new rehearsal."""
        self._solved_at, self._solved_for, self._curves = -1, (), {}

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        numbers = {name: np.array(getattr(self, f"_{name}")) for name in PACER_STATE}
        return numbers | {"gamma": self._gamma.copy(), "solved_for": np.array(self._solved_for, np.str_)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._arrivals, self._solved_at = int(state["arrivals"]), int(state["solved_at"])
        self._counted, self._elapsed_s = float(state["counted"]), float(state["elapsed_s"])
        self._last_s = float(state["last_s"])
        self._gamma = np.array(state["gamma"])
        self._solved_for = tuple(str(name) for name in state["solved_for"])
        self._curves = {}

    def _purse_price(self, names: tuple[str, ...], budget: float) -> float:
        """μ, 1/USD: the least price at which the rehearsal spends no more than `budget` USD a query."""
        if names not in self._curves:
            quality, cost = self._sample(names, CURVE_ROWS)
            grid = np.concatenate([[0.0], np.geomspace(1e-2, 1e3, CURVE_PRICES - 1)]) / cost.mean()
            self._curves[names] = grid, spending_curve(quality, cost, grid, weights=_even(len(cost)))
        grid, spent = self._curves[names]
        return float(np.interp(-budget, -spent, grid))

    def _capacity_prices(self, names: tuple[str, ...], budgets: Float) -> Float:
        """γ (n,), 1/USD; kept between solutions."""
        fresh = names == self._solved_for and self._arrivals - self._solved_at < self._resolve
        if not fresh or self._solved_at < 0:
            quality, cost = self._sample(names, SAMPLE_ROWS)
            start = self._gamma if names == self._solved_for and len(self._gamma) == len(names) else None
            self._gamma = smoothed_dual(quality, cost, budgets, weights=_even(len(cost)), start=start)
            self._solved_for, self._solved_at = names, self._arrivals
        return self._gamma

    def _sample(self, names: tuple[str, ...], rows: int) -> tuple[Float, Float]:
        """(r, n) quality and cost of evenly spread rows of the rehearsal; an unknown arm costs its column's mean."""
        found = self._rehearsal()
        if found is None:
            raise ValueError("there is no rehearsal to price from")
        known, expected = found
        at = [known.index(name) if name in known else -1 for name in names]
        chosen = np.unique(np.linspace(0, len(expected.cost) - 1, rows).astype(np.intp))
        quality, cost = expected.quality[chosen][:, at], expected.cost[chosen][:, at]
        unknown = np.array(at) < 0
        quality[:, unknown] = -np.inf
        return quality, cost


PACER_STATE = ("arrivals", "counted", "elapsed_s", "last_s", "solved_at")


def _even(rows: int) -> Float:
    """(rows,) equal weights that sum to one."""
    return np.full(rows, 1.0 / rows)
