"""Prices of budgets: the dual of the routing LP, smoothed and solved from a rehearsal of the queries to come."""

from __future__ import annotations

import numpy as np

from policies.lazy_module import LazyModule
from policies.types import Float

optimize = LazyModule("scipy.optimize")

COOLING = ((0.03, 60), (0.01, 60), (0.003, 60))  # temperatures, in quality, and iterations at each
WARM = ((0.003, 20),)  # the same from an earlier answer
PRICE_CAP = 50.0  # in units of quality per mean cost of an arm: beyond it nothing is worth its price


def smoothed_dual(quality: Float, cost: Float, budgets: Float, *, weights: Float, start: Float | None = None) -> Float:
    """γ (M,) ≥ 0, 1/USD, minimising γ·b + Σ_j w_j max(0, max_i q_ij − γ_i c_ij).

    quality, cost (n, M); budgets (M,) USD for one query, infinite where there is none; weights (n,) sum to one. The
    maximum is softened at temperatures falling to 0.003 of quality, which makes the dual smooth and the answer unique;
    the outer maximum with zero lets a query be dropped (PORT's own leaves it out and is unbounded below). `start` is
    an earlier answer to begin from.
    """
    scale = weights @ cost
    unit_cost, bound = cost / scale, np.isfinite(budgets)
    limits = np.where(bound, budgets, 0.0) / scale
    prices = np.where(bound, 0.3, 0.0) if start is None else np.where(bound, start * scale, 0.0)
    bounds = [(0.0, PRICE_CAP if each else 0.0) for each in bound]
    for temperature, iterations in COOLING if start is None else WARM:
        solved = optimize.minimize(
            _objective,
            prices,
            args=(quality, unit_cost, limits, weights, temperature),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": iterations},
        )
        prices = solved.x
    return np.asarray(prices / scale)


def _objective(
    prices: Float, quality: Float, cost: Float, limits: Float, weights: Float, temperature: float
) -> tuple[float, Float]:
    """The smoothed dual and its gradient (M,) at prices (M,)."""
    scores = (quality - prices * cost) / temperature
    top = np.maximum(scores.max(axis=1), 0.0)
    shares = np.exp(scores - top[:, None])
    total = shares.sum(axis=1) + np.exp(-top)
    shares *= (weights / total)[:, None]
    value = prices @ limits + temperature * (weights @ (top + np.log(total)))
    return float(value), limits - np.einsum("ij,ij->j", shares, cost)


def spending_curve(quality: Float, cost: Float, prices: Float, *, weights: Float) -> Float:
    """(P,) USD a query spent at each price (P,), ascending, when every query is answered."""
    rows = np.arange(len(quality))
    spent = [weights @ cost[rows, np.argmax(quality - price * cost, axis=1)] for price in prices]
    return np.asarray(spent)
