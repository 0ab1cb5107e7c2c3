"""The rules by which routers are judged on traces where every arm's score and cost is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.types import Float

Rows = NDArray[np.intp]
LOST = -1  # a choice of no arm: the query is dropped

LAMBDAS: Float = np.concatenate([[0.0], np.logspace(-1.0, 6.5, 75)])  # (76,), 1/USD, the sweep of preference mode


def split(rows: int, *, stream: int, seed: int) -> tuple[Rows, Rows]:
    """(stream rows in order of arrival (stream,), history rows) of one seed.

    Raises: ValueError where nothing would be left for history.
    """
    if not 0 < stream < rows:
        raise ValueError(f"a stream of {stream} does not leave history in a trace of {rows} rows")
    order = np.random.default_rng(1000 + seed).permutation(rows)
    return order[:stream], order[stream:]


def total_budget(costs: Float, factor: float = 1.0) -> float:
    """USD: factor times what the stream (N, M) costs on its cheapest arm."""
    return factor * float(costs.sum(axis=0).min())


def split_weights(rule: str, quality: Float, cost: Float, *, seed: int = 0) -> Float:
    """(M,) how a total budget is split, from the history means of each arm; not normalised.

    Rules: weighted √(q/c), cost √(1/c), perf q, uniform, extreme1 … extreme5, random.
    Raises: ValueError for an unknown rule, or an extreme rule with too few arms.
    """
    count = rule.removeprefix("extreme")
    if rule != count and count.isdecimal():
        return _extreme_weights(int(count), quality, cost)
    rules: dict[str, Callable[[], Float]] = {
        "weighted": lambda: np.sqrt(quality / cost),
        "cost": lambda: np.sqrt(1.0 / cost),
        "perf": lambda: quality.astype(np.float64),
        "uniform": lambda: np.ones(len(quality)),
        "random": lambda: np.random.default_rng(77 + seed).uniform(5.0, 30.0, len(quality)),
    }
    if rule not in rules:
        raise ValueError(f"there is no split {rule!r}; there are {', '.join(rules)}, extreme1 … extreme5")
    return rules[rule]()


def _extreme_weights(count: int, quality: Float, cost: Float) -> Float:
    """The `count` arms with the least quality per dollar get 50 each, the others share 12.5 · count evenly."""
    arms = len(quality)
    if not 1 <= count < arms:
        raise ValueError(f"extreme{count} needs more than {count} arms, there are {arms}")
    weights = np.full(arms, 12.5 * count / (arms - count))
    weights[np.argsort(quality / cost, kind="stable")[:count]] = 50.0
    return weights


def split_budget(total: float, weights: Float) -> Float:
    """(M,) USD."""
    return np.asarray(total * weights / weights.sum(), dtype=np.float64)


class BudgetGate:
    """What was spent against a budget for each arm, one for all, or both; a query that does not fit is not charged."""

    def __init__(self, arms: int, *, budgets: Float | None = None, total: float = float("inf")) -> None:
        self.budgets = budgets  # (M,) USD, or None
        self.total = total  # USD for all arms together
        self.spent: Float = np.zeros(arms)  # (M,) USD

    def admit(self, arm: int, cost: float) -> bool:
        """Charge this answer if it fits; whether it did."""
        if arm == LOST:
            return False
        fits = self.budgets is None or self.spent[arm] + cost <= self.budgets[arm]
        if not fits or self.spent.sum() + cost > self.total:
            return False
        self.spent[arm] += cost
        return True

    def left(self, arm: int) -> float:
        """USD an answer of this arm may cost at most."""
        own = float("inf") if self.budgets is None else float(self.budgets[arm] - self.spent[arm])
        return min(own, self.remaining())

    def fits(self, expected: Float) -> NDArray[np.bool_]:
        """(M,) whether an answer of this expected cost (M,) still fits."""
        open_total = self.spent.sum() + expected <= self.total
        open_arms = (
            np.ones(len(self.spent), np.bool_) if self.budgets is None else self.spent + expected <= self.budgets
        )
        return np.asarray(open_total & open_arms, dtype=np.bool_)

    def capacity(self) -> Float | None:
        """(M,) USD left of each arm's own budget, or None where arms have none."""
        return None if self.budgets is None else self.budgets - self.spent

    def remaining(self) -> float:
        """USD left of the budget for all arms."""
        return self.total - float(self.spent.sum())


def admitted(choices: Rows, costs: Float, gate: BudgetGate) -> NDArray[np.bool_]:
    """(N,) which of the choices (N,) are served when charged in order at their true costs (N, M)."""
    return np.array([gate.admit(int(arm), float(costs[i, arm])) for i, arm in enumerate(choices)], dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class Result:
    """What one run over a stream earned."""

    performance: float  # Σ score of what was served
    cost: float  # USD
    throughput: int  # queries served
    queries: int

    @property
    def performance_per_usd(self) -> float:
        return self.performance / self.cost if self.cost > 0 else 0.0


def judge(choices: Rows, served: NDArray[np.bool_], *, scores: Float, costs: Float) -> Result:
    """The result of choices (N,) on the truth (N, M), counting what was served."""
    rows = np.flatnonzero(served)
    arms = choices[rows]
    return Result(
        performance=float(scores[rows, arms].sum()),
        cost=float(costs[rows, arms].sum()),
        throughput=len(rows),
        queries=len(choices),
    )


@dataclass(frozen=True, slots=True)
class Frontier:
    """Mean cost and mean quality over a sweep of preferences."""

    costs: Float  # (L,), USD a query
    qualities: Float  # (L,), in [0, 1]


def sweep(quality: Float, cost: Float, *, scores: Float, costs: Float, lambdas: Float = LAMBDAS) -> Frontier:
    """The frontier of argmax q̂ − λĉ over `lambdas`, and of the least ĉ, for estimates and truth (N, M)."""
    rows = np.arange(len(quality))
    choices = [np.argmax(quality - price * cost, axis=1) for price in lambdas]
    choices.append(np.argmin(cost, axis=1))
    return Frontier(
        np.array([costs[rows, arms].mean() for arms in choices]),
        np.array([scores[rows, arms].mean() for arms in choices]),
    )


def upper_hull(frontier: Frontier) -> Frontier:
    """The concave upper hull, by cost: what mixing points of the sweep can reach."""
    order = np.lexsort((-frontier.qualities, frontier.costs))
    hull: list[tuple[float, float]] = []
    for cost, quality in zip(frontier.costs[order], frontier.qualities[order], strict=True):
        if hull and quality <= hull[-1][1]:
            continue
        while len(hull) >= 2 and _turns_left(hull[-2], hull[-1], (cost, quality)):
            hull.pop()
        hull.append((float(cost), float(quality)))
    points = np.array(hull)
    return Frontier(points[:, 0], points[:, 1])


def _turns_left(first: tuple[float, float], second: tuple[float, float], third: tuple[float, float]) -> bool:
    return (second[1] - first[1]) * (third[0] - first[0]) <= (third[1] - first[1]) * (second[0] - first[0])


def aiq(frontier: Frontier, costs: Float) -> float:
    """Mean height of the upper hull between the mean costs of the cheapest and the most expensive arm (N, M).

    RouterBench, arXiv 2403.12031; beyond its ends the hull is held flat.
    """
    means = costs.mean(axis=0)
    hull = upper_hull(frontier)
    grid = np.linspace(means.min(), means.max(), 2001)
    return float(np.interp(grid, hull.costs, hull.qualities).mean())


def zero_router(scores: Float, costs: Float) -> Frontier:
    """The single arms as a frontier: what mixing models without looking at the query reaches."""
    return Frontier(costs.mean(axis=0), scores.mean(axis=0))


def gap_recovered(preference: Float, *, weak: Float, strong: Float) -> Float:
    """(N + 1,) share of the gap between two arms recovered when the 0 … N queries preferred most go to the strong one.

    RouteLLM, arXiv 2406.18665: PGR; `preference` (N,) is how much a router wants the strong arm, weak and strong (N,)
    the true scores.
    """
    order = np.argsort(-preference, kind="stable")
    gain = np.concatenate([[0.0], np.cumsum((strong - weak)[order])])
    return np.asarray(gain / gain[-1], dtype=np.float64)


def apgr(preference: Float, *, weak: Float, strong: Float) -> float:
    """Area under the recovered gap over the share of strong calls; 0.5 for a random router."""
    recovered = gap_recovered(preference, weak=weak, strong=strong)
    return float((recovered[1:] + recovered[:-1]).mean() / 2)


def cpt(preference: Float, *, weak: Float, strong: Float, share: float = 0.5) -> float:
    """The least share of strong calls that recovers `share` of the gap."""
    recovered = gap_recovered(preference, weak=weak, strong=strong)
    return float(np.argmax(recovered >= share)) / (len(recovered) - 1)
