"""The dual of PORT: solved once, from the queries of a random first phase (Wu & Silwal, arXiv 2509.02718)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.lazy_module import LazyModule
from policies.pacers.budgets import Budgets
from policies.pacers.sample import QuerySample
from policies.types import Estimates, Float, History, Outcome, Prices, RouteContext

optimize = LazyModule("scipy.optimize")


def port_dual(quality: Float, cost: Float, *, cover: Float, limits: Float, share: float, alpha: float) -> Float:
    """γ (R,) in [0, 1]: argmin F(γ) = ε γ·B + Σ_j max_i (α d̂_ij − γ_i ĝ_ij) by L-BFGS-B from 1/M, as published.

    quality, cost (J, n) with NaN where an arm was not eligible; cover (R, n) and limits (R,) as Budgets.resources;
    share is ε. The maximum is not clipped at zero: where the budget cannot serve all, only the box ends the fall.
    """
    worth = np.where(np.isnan(quality), -np.inf, alpha * quality)
    price_of = np.nan_to_num(cost)
    rows = np.arange(len(worth))

    def dual(gamma: Float) -> tuple[float, Float]:
        scores = worth - (cover.T @ gamma) * price_of
        best = scores.argmax(axis=1)
        drawn = np.bincount(best, weights=price_of[rows, best], minlength=worth.shape[1])
        return share * float(gamma @ limits) + float(scores[rows, best].sum()), share * limits - cover @ drawn

    start = np.full(len(limits), 1.0 / worth.shape[1])
    solved = optimize.minimize(dual, start, jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * len(start))
    return np.asarray(solved.x, dtype=np.float64)


class OneShot:
    """γ is zero through the first `explore` share of a horizon, then solved and kept to its end."""

    def __init__(self, budgets: Budgets, *, explore: float = 0.025, alpha: float = 1e-4) -> None:
        if not 0.0 < explore <= 1.0:
            raise ValueError(f"explore is {explore}, expected 0 < explore ≤ 1")
        if not alpha > 0.0:
            raise ValueError(f"alpha is {alpha}, expected > 0")
        self._budgets = budgets
        self._alpha = alpha
        self._share = explore
        self._sample = QuerySample(max(1, round(explore * budgets.horizon)))
        self._gamma: dict[str, float] = {}  # 1/USD
        self._solved = False
        self._asked = 0  # queries in this horizon

    @property
    def exploring(self) -> bool:
        """Whether the random phase still runs."""
        return not self._solved

    def prices(self, context: RouteContext, estimates: Estimates) -> Prices:
        return Prices(capacity=np.array([self._gamma.get(arm.name, 0.0) for arm in context.arms]))

    def learn(self, outcome: Outcome) -> None:
        if outcome.is_judgement:
            return
        self._asked += 1
        if self._asked > self._budgets.horizon:  # budgets are full again, and what was solved is over
            self._asked, self._solved, self._gamma = 1, False, {}
            self._sample = QuerySample(self._sample.size)
        if self._solved or outcome.expected is None:
            return
        self._sample.add(outcome.context.names, outcome.expected.quality, outcome.expected.cost)
        if len(self._sample) == self._sample.size:
            self._solve()

    def _solve(self) -> None:
        names = self._sample.names
        cover, limits = self._budgets.resources(names)
        self._solved = True
        if len(limits):
            quality, cost = self._sample.quality, self._sample.cost
            gamma = port_dual(quality, cost, cover=cover, limits=limits, share=self._share, alpha=self._alpha)
            self._gamma = dict(zip(names, (cover.T @ gamma / self._alpha).tolist(), strict=True))

    def refit(self, history: History) -> None:
        """Nothing: PORT takes only estimates from history."""

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        gamma = {"gamma_names": np.array(list(self._gamma), np.str_), "gamma": np.array(list(self._gamma.values()))}
        return {**self._sample.state(), **gamma, "solved": np.array(self._solved), "asked": np.array(self._asked)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._sample.restore(state)
        names = [str(name) for name in state["gamma_names"]]
        self._gamma = dict(zip(names, np.asarray(state["gamma"], np.float64).tolist(), strict=True))
        self._solved, self._asked = bool(state["solved"]), int(state["asked"])
