"""Prices from what is left: of a tenant's purse, of each arm's own capacity, over the queries still to come."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from policies.pacers.dual import smoothed_dual, spending_curve
from policies.pacers.sample import QuerySample
from policies.types import Estimates, Float, History, Outcome, Prices, RouteContext

Rehearsal = Callable[[], tuple[tuple[str, ...], Estimates] | None]

SAMPLE_ROWS = 3000  # of the rehearsal, for the dual of capacities
CURVE_ROWS = 600  # of the rehearsal, for the price of a purse
MOST_CURVES = 8  # sets of eligible arms whose curves are kept
RECENT_ROWS = 1500  # of the queries that came since, pooled with the rehearsal
CURVE_PRICES = 64
FORGET = 0.999  # a query's weight in the arrival rate, for each query that came after it
PRIOR_QUERIES = 10.0  # what the rate believed at the start is worth

STALE = 0.02  # of the queries left: when so many have come prices are solved again, where that is sooner
SOONEST = 5  # arrivals between two solutions

ENDS_EARLY = 0.05  # chance that queries stop coming before all that are expected came, whenever
RESERVE = 0.005  # of the planned queries' money, kept until they have all come
OVERTIME = 0.3  # of the planned queries, expected once they have all come


def queries_left(planned: int, arrived: int) -> float:
    """Queries still to be paid for when `planned` is only a guess of how many come.

    A little money is kept back while they come, and spread over more than were planned afterwards: it costs little
    where the guess is right and earns much where it is low, since a query's first dollar buys the most.
    """
    if arrived >= planned:
        return max(1.0, OVERTIME * planned)
    return max(1.0, (planned - arrived) + RESERVE * planned)


def chance_to_come(rows: int) -> Float:
    """(rows, 1) in (1 − ENDS_EARLY, 1]: the chance that each of the queries expected comes, at even places in time.

    Money left when queries end early bought nothing. An answer that may never be asked for is worth its quality times
    this chance; so prices are a little lower now than they would be if all came for certain, and spending runs ahead
    the more, the less that costs. Places follow the golden ratio: neighbouring rows are far apart in time.
    """
    places = np.arange(1, rows + 1) * 0.6180339887498949 % 1.0
    return np.asarray(1.0 - ENDS_EARLY * places)[:, None]


class Remaining:
    """λ + μ + γ: the tenant's preference, one price for the purse, one for each arm's capacity.

    Both budgets are spread over the queries expected until the purse's reset: the observed rate of arrivals times the
    seconds left. The queries to come are taken to look like the estimator's rehearsal and the queries seen since, each
    row of either counting the same, and to come with a chance that falls a little towards the end. γ and the curve of
    spending against μ are solved again every `resolve` arrivals, and oftener where that is more than a fiftieth of the
    queries left, in learn(), off the path of a request; prices() solves only where nothing was solved before.
    """

    def __init__(self, rehearsal: Rehearsal, *, resolve: int = 50, queries_per_s: float = 1.0) -> None:
        self._rehearsal = rehearsal
        self._resolve = resolve
        self._arrivals = 0
        self._counted = PRIOR_QUERIES
        self._elapsed_s = PRIOR_QUERIES / queries_per_s
        self._last_s = np.nan
        self._solved_at = 0  # arrivals when prices were last solved
        self._queries = math.inf  # still to come, when last asked
        self._solved_for: tuple[str, ...] = ()
        self._gamma: Float = np.zeros(0)
        self._budgets: Float = np.zeros(0)  # USD a query that each arm of _solved_for had left when last asked
        self._curves: dict[tuple[str, ...], tuple[Float, Float]] = {}
        self._recent = QuerySample(RECENT_ROWS)

    def prices(self, context: RouteContext, estimates: Estimates) -> Prices:
        if not math.isfinite(context.purse.reset_s):
            return Prices()
        names, purse, capacity = context.names, 0.0, None
        queries = max(context.purse.reset_s * self._counted / self._elapsed_s, self._resolve / 2)
        self._queries = queries
        if math.isfinite(context.purse.remaining):
            purse = self._purse_price(names, context.purse.remaining / queries)
        if context.capacity is not None and np.isfinite(context.capacity).any():
            capacity = self._capacity_prices(names, np.maximum(context.capacity, 0.0) / queries)
        return Prices(purse, capacity)

    def learn(self, outcome: Outcome) -> None:
        if np.isnan(outcome.cost) and outcome.arm:
            return  # a judgement of an answer that was counted when it was settled
        self._arrivals += 1
        if not np.isnan(self._last_s):
            self._counted = self._counted * FORGET + 1.0
            self._elapsed_s = self._elapsed_s * FORGET + max(outcome.now - self._last_s, 0.0)
        self._last_s = outcome.now
        if outcome.expected is not None:
            self._recent.add(outcome.context.names, outcome.expected.quality, outcome.expected.cost)
        if self._arrivals - self._solved_at >= min(self._resolve, max(SOONEST, STALE * self._queries)):
            self._solved_at = self._arrivals
            self._curves = {names: self._curve(names) for names in list(self._curves)[-MOST_CURVES:]}
            if self._solved_for:
                self._gamma = self._dual(self._solved_for, self._budgets, self._gamma)

    def refit(self, history: History) -> None:
        """Prices follow the estimator's new rehearsal."""
        self._solved_for, self._curves = (), {}
        self._recent = QuerySample(RECENT_ROWS)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        numbers = {name: np.array(getattr(self, f"_{name}")) for name in PACER_STATE}
        recent = {f"recent.{key}": value for key, value in self._recent.state().items()}
        solved = {"gamma": self._gamma.copy(), "budgets": self._budgets.copy()}
        solved |= {"curve_names": np.array([SEPARATOR.join(names) for names in self._curves], np.str_)}
        for row, (grid, spent) in enumerate(self._curves.values()):
            solved |= {f"curve{row}.grid": grid.copy(), f"curve{row}.spent": spent.copy()}
        return numbers | recent | solved | {"solved_for": np.array(self._solved_for, np.str_)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._arrivals = int(state["arrivals"])
        self._counted, self._elapsed_s = float(state["counted"]), float(state["elapsed_s"])
        self._last_s = float(state["last_s"])
        self._solved_at, self._queries = int(state["solved_at"]), float(state["queries"])
        self._gamma, self._budgets = np.array(state["gamma"]), np.array(state["budgets"])
        self._solved_for = tuple(str(name) for name in state["solved_for"])
        names = [tuple(str(joined).split(SEPARATOR)) for joined in state["curve_names"]]
        curves = [(state[f"curve{row}.grid"], state[f"curve{row}.spent"]) for row in range(len(names))]
        self._curves = {
            each: (np.array(grid), np.array(spent)) for each, (grid, spent) in zip(names, curves, strict=True)
        }
        self._recent.restore({key.removeprefix("recent."): state[key] for key in state if key.startswith("recent.")})

    def _purse_price(self, names: tuple[str, ...], budget: float) -> float:
        """μ, 1/USD: the least price at which the queries to come spend no more than `budget` USD each."""
        if names not in self._curves:
            self._curves[names] = self._curve(names)
        grid, spent = self._curves[names]
        return float(np.interp(-budget, -spent, grid)) if len(grid) else 0.0

    def _curve(self, names: tuple[str, ...]) -> tuple[Float, Float]:
        """Prices (P,) and USD a query spent at each (P,); empty while nothing is known of the queries to come."""
        quality, cost, weights = self._to_come(names, CURVE_ROWS)
        if not len(cost):
            return np.zeros(0), np.zeros(0)
        grid = np.concatenate([[0.0], np.geomspace(1e-2, 1e3, CURVE_PRICES - 1)]) / cost.mean()
        return grid, spending_curve(quality, cost, grid, weights=weights)

    def _capacity_prices(self, names: tuple[str, ...], budgets: Float) -> Float:
        """γ (n,), 1/USD, as last solved; the budgets are kept for the next solution."""
        if names != self._solved_for:
            self._gamma, self._solved_for = self._dual(names, budgets, None), names
        self._budgets = budgets
        return self._gamma

    def _dual(self, names: tuple[str, ...], budgets: Float, start: Float | None) -> Float:
        """γ (n,), 1/USD, for these budgets of one query."""
        quality, cost, weights = self._to_come(names, SAMPLE_ROWS)
        if not len(cost):
            return np.zeros(len(names))
        return smoothed_dual(quality, cost, budgets, weights=weights, start=start)

    def _to_come(self, names: tuple[str, ...], rows: int) -> tuple[Float, Float, Float]:
        """(r, n) quality by the chance to earn it, −inf where an arm was absent; (r, n) cost; (r,) weights of sum one.

        r is 0 at first.
        """
        nothing = np.zeros((0, len(names)))
        known, expected = self._rehearsal() or (names, Estimates(nothing, nothing, nothing))
        chosen = np.unique(
            np.linspace(0, max(len(expected.cost) - 1, 0), min(rows, len(expected.cost))).astype(np.intp)
        )
        quality, cost = _columns(names, known, expected.quality[chosen], expected.cost[chosen])
        weights = np.full(len(chosen), len(expected.cost) / max(len(chosen), 1))
        if len(self._recent):
            some = slice(None, None, -(-len(self._recent) // rows))
            sample = self._recent.quality[some], self._recent.cost[some]
            recent = _columns(names, self._recent.names, *sample)
            quality, cost = np.concatenate([quality, recent[0]]), np.concatenate([cost, recent[1]])
            weights = np.concatenate([weights, np.full(len(recent[0]), self._recent.added / len(recent[0]))])
        missing = np.isnan(quality) | np.isnan(cost)
        usual = np.nanmean(np.where(missing, np.nan, cost)) if not missing.all() else 1.0
        worth = np.where(missing, -np.inf, quality * chance_to_come(len(quality)))
        return worth, np.where(missing, usual, cost), weights / max(weights.sum(), 1.0)


def _columns(names: tuple[str, ...], known: tuple[str, ...], quality: Float, cost: Float) -> tuple[Float, Float]:
    """(r, n) of each, in the order of names; NaN where a name is not known."""
    at = [known.index(name) if name in known else len(known) for name in names]
    gap = np.full((len(quality), 1), np.nan)
    return np.hstack([quality, gap])[:, at], np.hstack([cost, gap])[:, at]


SEPARATOR = "\x1f"  # between the names of one curve
PACER_STATE = ("arrivals", "counted", "elapsed_s", "last_s", "solved_at", "queries")
