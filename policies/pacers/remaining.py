"""Prices from what is left: of each budget, of each arm's own capacity, over the queries still to come."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.pacers.arrivals import Arrivals
from policies.pacers.dual import joint_dual, smoothed_dual, spending_curve
from policies.pacers.sample import QuerySample
from policies.types import Estimates, Float, History, Outcome, Prices, RouteContext

Rehearsal = Callable[[], tuple[tuple[str, ...], Estimates] | None]
Expect = Callable[[History, NDArray[np.intp]], Estimates]
"""(history, rows (S,)) -> estimates (S, M) of those rows made without looking at them."""

SAMPLE_ROWS = 3000  # of the rehearsal, for the dual of capacities
CURVE_ROWS = 600  # of the rehearsal, for the price of a budget
OWN_ROWS = 800  # of history, where the pacer rehearses itself
MOST_CURVES = 8  # sets of eligible arms whose curves are kept for each budget
MOST_BUDGETS = 256  # the one that was not asked about for longest is forgotten
RECENT_ROWS = 1500  # of the queries that came since, pooled with the rehearsal
CURVE_PRICES = 64

STALE = 0.02  # of the queries left: when so many have come prices are solved again, where that is sooner
SOONEST = 5  # arrivals between two solutions

FEWEST = 0.01  # of all queries of a budget: money is kept for so many
CAUTION = 0.01  # of what the cheapest answers to all would cost: so much less is taken for what may be spent beyond it
PAYS = 1.02  # times what answering all is expected to earn, from which queries are refused: below it is guesswork
ENDS_EARLY = 0.05  # chance that queries stop coming before all that are expected came, whenever


def chance_to_come(rows: int) -> Float:
    """(rows, 1) in (1 − ENDS_EARLY, 1]: the chance that each of the queries expected comes, at even places in time.

    Money left when queries end early bought nothing. An answer that may never be asked for is worth its quality times
    this chance. So prices are a little lower now than they would be if all came for certain, and spending runs ahead
    the more, the less that costs. Places follow the golden ratio: neighbouring rows are far apart in time.
    """
    places = np.arange(1, rows + 1) * 0.6180339887498949 % 1.0
    return np.asarray(1.0 - ENDS_EARLY * places)[:, None]


ANSWER, REFUSE = "answer", "refuse"  # what becomes of a query that is not worth its price while money is short


def may_refuse(when_short: str) -> bool:
    """Raises: ValueError for anything but ANSWER and REFUSE."""
    if when_short not in (ANSWER, REFUSE):
        raise ValueError(f"when_short is {when_short!r}, expected {ANSWER} or {REFUSE}")
    return when_short == REFUSE


@dataclass(frozen=True, slots=True)
class Curve:
    """What the queries to come would cost at each price of a dollar."""

    prices: Float  # (P,) 1/USD, ascending; none while nothing is known of the queries to come
    spent: Float  # (P,) USD a query, when all are answered
    spent_choosing: Float  # (P,) the same when those not worth their price are refused
    earned: Float  # (P,) quality a query, when all are answered
    earned_choosing: Float  # (P,)

    def price(self, budget: float, *, may_refuse: bool, pays: float = PAYS) -> tuple[float, bool]:
        """(the least price at which queries spend no more than `budget` USD each, whether some are refused then).

        Where some may be refused the plan is followed that is expected to earn more. Where not even the cheapest
        answers can all be paid, the money ends early if nothing is refused.
        """
        if not len(self.prices):
            return 0.0, False
        cheapest = float(self.spent[-1])
        surplus = budget - cheapest * (1.0 + CAUTION)
        price = float(np.interp(-max(surplus + cheapest, 0.0), -self.spent, self.prices))
        if not may_refuse or price == 0.0:
            return price, False
        choosing = float(np.interp(-budget, -self.spent_choosing, self.prices))
        share = min(1.0, budget / max(cheapest, 1e-300))
        all_earn = share * float(np.interp(price, self.prices, self.earned))
        if float(np.interp(choosing, self.prices, self.earned_choosing)) > pays * all_earn:
            return choosing, True
        return price, False


class _PacedBudget:
    """What is known of one budget: its arrivals, its queries, and the prices they were last solved for."""

    def __init__(self, queries_per_s: float) -> None:
        self.arrivals = Arrivals(queries_per_s)
        self.recent = QuerySample(RECENT_ROWS)
        self.solved_at = 0  # arrivals when prices were last solved
        self.queries = math.inf  # still to come, when last asked
        self.per_query = math.inf  # USD a query that was left when last asked
        self.capacities: dict[tuple[str, ...], tuple[Float, Float]] = {}  # (n + 1,): γ and μ; (n,): USD a query
        self.curves: dict[tuple[str, ...], Curve] = {}

    def forget_prices(self) -> None:
        """They are solved anew when next asked for."""
        self.capacities, self.curves = {}, {}
        self.recent = QuerySample(RECENT_ROWS)


class Remaining:
    """μ + γ: one price for the budget that pays, one for each arm's capacity.

    What is left of a budget is spread over the queries expected to draw on it until its reset. A budget is spread
    over its own arrivals, by hour of the week, and a capacity over everybody's. The queries to come are taken to look
    like the estimator's rehearsal and the budget's own queries since, each row of either counting the same. They are
    taken to come with a chance that falls a little towards the end. The caller's preference is a price already: μ is
    what is missing of the one that keeps the budget. Both prices are solved together where both bind, again every
    `resolve` arrivals and oftener where that is more than a fiftieth of the queries left. That happens in learn(),
    off the path of a request. `prices()` solves only where nothing was solved before. With `may_refuse` the plan that
    drops queries not worth their price is weighed too.
    """

    def __init__(
        self,
        rehearsal: Rehearsal | None = None,
        *,
        resolve: int = 50,
        queries_per_s: float = 1.0,
        may_refuse: bool = True,
        expect: Expect | None = None,
    ) -> None:
        self._rehearsal = rehearsal or (lambda: self._own)
        self._expect = expect  # where the estimator has no rehearsal of its own
        self._own: tuple[tuple[str, ...], Estimates] | None = None
        self._resolve = resolve
        self._queries_per_s = queries_per_s
        self._may_refuse = may_refuse
        self.always_drops = False  # follow the plan that drops, whatever it is expected to earn: for comparison
        self._everybody = Arrivals(queries_per_s)
        self._budgets: dict[str, _PacedBudget] = {}

    def prices(self, context: RouteContext, estimates: Estimates) -> Prices:
        reset_s, left = context.budget.reset_s, context.budget.remaining
        if not math.isfinite(reset_s):
            return Prices()
        paced, names = self._paced(context.budget.name), context.names
        expected = paced.arrivals.expected(context.now, reset_s)
        paced.queries = queries = max(expected, self._fewest(paced.arrivals, expected))
        paced.per_query = left / queries
        gamma = None
        if context.capacity is not None and np.isfinite(context.capacity).any():
            expected = self._everybody.expected(context.now, reset_s)
            everybody = max(expected, self._fewest(self._everybody, expected))
            gamma = self._capacity_prices(paced, names, np.maximum(context.capacity, 0.0) / everybody)
        if not math.isfinite(left):
            return Prices(capacity=gamma)
        curve = paced.curves.get(names)
        if curve is None:
            curve = paced.curves[names] = self._curve(paced, names)
        drops = self._may_refuse or gamma is not None
        price, refuses = curve.price(paced.per_query, may_refuse=drops, pays=0.0 if self.always_drops else PAYS)
        return Prices(max(0.0, price - context.preference), gamma, self._may_refuse and (refuses or gamma is not None))

    def _fewest(self, arrivals: Arrivals, expected: float) -> float:
        """Queries that money is kept for though fewer are expected. They are half of those between two solutions, and
        at most a hundredth of all, or a short stream would end with money left.
        """
        return min(self._resolve / 2, max(1.0, FEWEST * (arrivals.count + expected)))

    def learn(self, outcome: Outcome) -> None:
        if np.isnan(outcome.cost) and outcome.arm:
            return  # a judgement of an answer that was counted when it was settled
        paced = self._paced(outcome.context.budget.name)
        self._everybody.add(outcome.now)
        paced.arrivals.add(outcome.now)
        if outcome.expected is not None:
            paced.recent.add(outcome.context.names, outcome.expected.quality, outcome.expected.cost)
        due = min(self._resolve, max(SOONEST, STALE * paced.queries))
        if self._rehearsal() is None:  # all that is known of the queries to come are those that came
            due = min(due, max(1, paced.recent.added // 4))
        if paced.arrivals.count - paced.solved_at >= due:
            paced.solved_at = paced.arrivals.count
            for names, (gamma, budgets) in list(paced.capacities.items())[-MOST_CURVES:]:
                paced.capacities[names] = self._dual(paced, names, budgets, gamma), budgets
            paced.curves = {names: self._curve(paced, names) for names in list(paced.curves)[-MOST_CURVES:]}

    def refit(self, history: History) -> None:
        """Prices follow the estimator's new rehearsal."""
        if self._expect is not None and len(history.scores):
            rows = np.unique(np.linspace(0, len(history.scores) - 1, OWN_ROWS).astype(np.intp))
            self._own = tuple(arm.name for arm in history.arms), self._expect(history, rows)
        for paced in self._budgets.values():
            paced.forget_prices()

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        found: dict[str, NDArray[np.generic]] = {"budgets": np.array(list(self._budgets), np.str_)}
        found |= _under("everybody", self._everybody.state())
        if self._own is not None:
            names, expected = self._own
            found |= {"own.names": np.array(names, np.str_), "own.quality": expected.quality, "own.cost": expected.cost}
        for place, paced in enumerate(self._budgets.values()):
            found |= _under(f"budget{place}", _stored(paced))
        return found

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._everybody.restore(_within("everybody", state))
        self._own = None
        if "own.names" in state:
            quality, cost = (np.array(state[f"own.{key}"], np.float64) for key in ("quality", "cost"))
            self._own = (
                tuple(str(name) for name in state["own.names"]),
                Estimates(quality, np.zeros(quality.shape), cost),
            )
        self._budgets = {}
        for place, name in enumerate(state["budgets"]):
            self._budgets[str(name)] = paced = _PacedBudget(self._queries_per_s)
            _restore(paced, _within(f"budget{place}", state))

    def _paced(self, name: str) -> _PacedBudget:
        paced = self._budgets.pop(name, None)
        if paced is None:
            paced = _PacedBudget(self._usual_rate())
            if len(self._budgets) >= MOST_BUDGETS:
                del self._budgets[next(iter(self._budgets))]
        self._budgets[name] = paced  # the last one asked about is last
        return paced

    def _usual_rate(self) -> float:
        """Queries a second that a new budget is expected to see: as the others do."""
        known = [paced.arrivals.rate for paced in self._budgets.values() if paced.arrivals.count >= SOONEST]
        return float(np.median(known)) if known else self._queries_per_s

    def _curve(self, paced: _PacedBudget, names: tuple[str, ...]) -> Curve:
        """Empty while nothing is known of the queries to come."""
        quality, cost, weights = self._to_come(paced, names, CURVE_ROWS)
        if not len(cost):
            return Curve(*[np.zeros(0)] * 5)
        if names in paced.capacities:  # what an arm earns beyond its own price
            quality = quality - paced.capacities[names][0][:-1] * cost
        prices = np.concatenate([[0.0], np.geomspace(1e-2, 1e3, CURVE_PRICES - 1)]) / cost.mean()
        spent, some, earned, choosing = spending_curve(quality, cost, prices, weights=weights)
        if names in paced.capacities:
            spent, earned = some, choosing  # capacities were priced for a plan that drops
        return Curve(prices, spent, some, earned, choosing)

    def _capacity_prices(self, paced: _PacedBudget, names: tuple[str, ...], budgets: Float) -> Float:
        """γ (n,), 1/USD, as last solved; the budgets are kept for the next solution."""
        known = paced.capacities.get(names)
        gamma = self._dual(paced, names, budgets, None) if known is None else known[0]
        if known is None:
            paced.curves.pop(names, None)
        paced.capacities[names] = gamma, budgets
        return gamma[:-1]

    def _dual(self, paced: _PacedBudget, names: tuple[str, ...], budgets: Float, start: Float | None) -> Float:
        """γ of these budgets of one query and μ beside them, zero where no budget pays; (n + 1,), 1/USD."""
        quality, cost, weights = self._to_come(paced, names, SAMPLE_ROWS)
        if not len(cost):
            return np.zeros(len(names) + 1)
        if math.isfinite(paced.per_query):
            return joint_dual(quality, cost, budgets, shared=paced.per_query, weights=weights, start=start)
        first = None if start is None else start[:-1]
        return np.append(smoothed_dual(quality, cost, budgets, weights=weights, start=first), 0.0)

    def _to_come(self, paced: _PacedBudget, names: tuple[str, ...], rows: int) -> tuple[Float, Float, Float]:
        """(r, n) quality by the chance to earn it, −inf where an arm was absent; (r, n) cost; (r,) weights of sum one.

        r is 0 at first.
        """
        nothing, seen = np.zeros((0, len(names))), paced.recent
        known, expected = self._rehearsal() or (names, Estimates(nothing, nothing, nothing))
        chosen = np.unique(
            np.linspace(0, max(len(expected.cost) - 1, 0), min(rows, len(expected.cost))).astype(np.intp)
        )
        quality, cost = _columns(names, known, expected.quality[chosen], _as_expensive_as_all(expected.cost, chosen))
        weights = np.full(len(chosen), len(expected.cost) / max(len(chosen), 1))
        if len(seen):
            some = slice(None, None, -(-len(seen) // rows))
            recent = _columns(names, seen.names, seen.quality[some], seen.cost[some])
            quality, cost = np.concatenate([quality, recent[0]]), np.concatenate([cost, recent[1]])
            weights = np.concatenate([weights, np.full(len(recent[0]), seen.added / len(recent[0]))])
        missing = np.isnan(quality) | np.isnan(cost)
        theirs = ~missing.all(axis=1)  # the others went to arms that are not asked about
        quality, cost, weights, missing = quality[theirs], cost[theirs], weights[theirs], missing[theirs]
        usual = np.nanmean(np.where(missing, np.nan, cost)) if len(cost) else 1.0
        worth = np.where(missing, -np.inf, quality * chance_to_come(len(quality)))
        return worth, np.where(missing, usual, cost), weights / max(weights.sum(), 1.0)


def _as_expensive_as_all(cost: Float, chosen: NDArray[np.intp]) -> Float:
    """(r, M) the chosen rows of cost (n, M), each arm's scaled to the mean of all rows. Answers' costs have long tails,
    and the mean of some hundred rows is off by several percent."""
    some = cost[chosen]
    if len(chosen) == len(cost):
        return some
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.nanmean(cost, axis=0) / np.nanmean(some, axis=0)
    return np.asarray(some * np.where(np.isfinite(scale), scale, 1.0))


def _columns(names: tuple[str, ...], known: tuple[str, ...], quality: Float, cost: Float) -> tuple[Float, Float]:
    """(r, n) of each, in the order of names; NaN where a name is not known."""
    at = [known.index(name) if name in known else len(known) for name in names]
    gap = np.full((len(quality), 1), np.nan)
    return np.hstack([quality, gap])[:, at], np.hstack([cost, gap])[:, at]


SEPARATOR = "\x1f"  # between the names of one set of arms


def _stored(paced: _PacedBudget) -> dict[str, NDArray[np.generic]]:
    numbers = np.array([paced.solved_at, paced.queries, paced.per_query])
    found: dict[str, NDArray[np.generic]] = {"numbers": numbers} | _under("recent", paced.recent.state())
    found |= _under("arrivals", paced.arrivals.state())
    found |= {"capacities": np.array([SEPARATOR.join(names) for names in paced.capacities], np.str_)}
    found |= {"curves": np.array([SEPARATOR.join(names) for names in paced.curves], np.str_)}
    for place, pair in enumerate(paced.capacities.values()):
        found[f"capacity{place}"] = np.concatenate(pair)
    for place, curve in enumerate(paced.curves.values()):
        found[f"curve{place}"] = np.stack([getattr(curve, name) for name in Curve.__slots__])
    return found


def _restore(paced: _PacedBudget, state: Mapping[str, NDArray[np.generic]]) -> None:
    """Inverse of _stored()."""
    solved_at, paced.queries, paced.per_query = np.array(state["numbers"], np.float64).tolist()
    paced.solved_at = int(solved_at)
    paced.recent.restore(_within("recent", state))
    paced.arrivals.restore(_within("arrivals", state))
    sets = {key: [tuple(str(each).split(SEPARATOR)) for each in state[key]] for key in ("capacities", "curves")}
    for place, names in enumerate(sets["capacities"]):
        both, n = np.array(state[f"capacity{place}"], np.float64), len(names)
        paced.capacities[names] = both[: n + 1], both[n + 1 :]
    for place, names in enumerate(sets["curves"]):
        paced.curves[names] = Curve(*np.array(state[f"curve{place}"], np.float64))


def _under(prefix: str, state: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    return {f"{prefix}.{key}": value for key, value in state.items()}


def _within(prefix: str, state: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    start = f"{prefix}."
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
