"""The dual of budgets solved exactly: from history before the first query, and again with what remains."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from policies.lazy_module import LazyModule
from policies.pacers.budgets import Budgets
from policies.pacers.sample import QuerySample
from policies.types import Estimates, Float, History, Outcome, Prices, RouteContext

optimize = LazyModule("scipy.optimize")
sparse = LazyModule("scipy.sparse")

Expect = Callable[[History, NDArray[np.intp]], Estimates]
"""(history, rows (S,)) -> estimates (S, M) of those rows made without looking at them."""


def exact_dual(quality: Float, cost: Float, *, cover: Float, limits: Float) -> Float:
    """γ (R,) ≥ 0, 1/USD: argmin γ·B + Σ_j max(0, max_i (q̂_ij − (coverᵀγ)_i ĉ_ij)), as a linear programme (HiGHS).

    quality, cost (J, n) with NaN where an arm was not eligible; limits (R,) USD for these J queries. A budget of zero
    has no finite price; such budgets are left to the mask and priced as one part in a million of what is asked.
    Raises: RuntimeError where the solver fails.
    """
    queries, arms = quality.shape
    unit = float(np.nanmean(cost)) or 1.0  # prices are solved per mean cost, so that all coefficients are near one
    pairs = np.flatnonzero(~np.isnan(quality).ravel())
    rows, columns = np.divmod(pairs, arms)
    drawn = cover[:, columns].T * (cost.ravel()[pairs, None] / unit)  # (P, R)
    regret = sparse.csr_matrix((np.ones(len(pairs)), (np.arange(len(pairs)), rows)), shape=(len(pairs), queries))
    weights = np.maximum(limits / unit, 1e-6 * queries)
    solved = optimize.linprog(
        np.concatenate([weights, np.ones(queries)]),
        A_ub=-sparse.hstack([sparse.csr_matrix(drawn), regret], format="csr"),
        b_ub=-quality.ravel()[pairs],
        bounds=(0.0, None),
        method="highs",
    )
    if solved.x is None:
        raise RuntimeError(f"the dual of the budgets was not solved: {solved.message}")
    return np.asarray(solved.x[: len(limits)] / unit, dtype=np.float64)


class Resolved:
    """γ from what was expected of sampled history rows, which live queries replace one by one; re-solved regularly.

    A new horizon begins, with full budgets, when as many queries were asked as one horizon has.
    """

    def __init__(self, budgets: Budgets, expect: Expect, *, sample: int = 800, resolve: float = 0.05) -> None:
        if not 0.0 < resolve <= 1.0:
            raise ValueError(f"resolve is {resolve}, expected 0 < resolve ≤ 1")
        self._budgets = budgets
        self._expect = expect
        self._every = max(1, round(resolve * budgets.horizon))
        self._sample = QuerySample(sample)
        self._spent: dict[str, float] = {}  # USD in this horizon
        self._asked = 0  # queries in this horizon
        self._gamma: dict[str, float] = {}  # 1/USD

    def prices(self, context: RouteContext, estimates: Estimates) -> Prices:
        return Prices(capacity=np.array([self._gamma.get(arm.name, 0.0) for arm in context.arms]))

    def learn(self, outcome: Outcome) -> None:
        if outcome.is_judgement:
            return
        if not np.isnan(outcome.cost):
            self._spent[outcome.arm] = self._spent.get(outcome.arm, 0.0) + outcome.cost
        self._asked += 1
        if outcome.expected is not None:
            self._sample.add(outcome.context.names, outcome.expected.quality, outcome.expected.cost)
        if self._asked >= self._budgets.horizon:
            self._spent, self._asked = {}, 0
        if self._asked % self._every == 0:
            self._solve()

    def refit(self, history: History) -> None:
        rows = np.unique(np.linspace(0, len(history.scores) - 1, self._sample.size).astype(np.intp))
        expected = self._expect(history, rows)
        for quality, cost in zip(expected.quality, expected.cost, strict=True):
            self._sample.add([arm.name for arm in history.arms], quality, cost)
        self._solve()

    def _solve(self) -> None:
        names = self._sample.names
        cover, limits = self._budgets.less(self._spent).resources(names)
        if not len(limits) or not len(self._sample):
            return
        share = len(self._sample) / (self._budgets.horizon - self._asked)
        gamma = exact_dual(self._sample.quality, self._sample.cost, cover=cover, limits=share * limits)
        self._gamma = dict(zip(names, (cover.T @ gamma).tolist(), strict=True))

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return {
            **self._sample.state(),
            "asked": np.array(self._asked),
            **_as_arrays("spent", self._spent),
            **_as_arrays("gamma", self._gamma),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._sample.restore(state)
        self._asked = int(state["asked"])
        self._spent, self._gamma = _as_mapping("spent", state), _as_mapping("gamma", state)


def _as_arrays(key: str, values: Mapping[str, float]) -> dict[str, NDArray[np.generic]]:
    return {f"{key}_names": np.array(list(values), np.str_), key: np.array(list(values.values()), np.float64)}


def _as_mapping(key: str, state: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    names = [str(name) for name in state[f"{key}_names"]]
    return dict(zip(names, np.asarray(state[key], np.float64).tolist(), strict=True))
