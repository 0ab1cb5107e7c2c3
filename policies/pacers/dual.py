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


def joint_dual(
    quality: Float, cost: Float, budgets: Float, *, shared: float, weights: Float, start: Float | None = None
) -> Float:
    """(γ, μ) (M + 1,) ≥ 0, 1/USD, as smoothed_dual(), where all arms also draw on one budget of `shared` USD a query,
    whose price is μ. `start` is an earlier answer to begin from."""
    scale, bound = weights @ cost, np.append(np.isfinite(budgets), True)
    mean = float(scale.mean())
    units = np.append(scale, mean)
    limits = np.append(np.where(bound[:-1], budgets, 0.0), shared) / units
    prices = np.where(bound, 0.1, 0.0) if start is None else np.where(bound, start * units, 0.0)
    for temperature, iterations in COOLING if start is None else WARM:
        solved = optimize.minimize(
            _joint_objective,
            prices,
            args=(quality, cost / scale, scale / mean, limits, weights, temperature),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, PRICE_CAP if each else 0.0) for each in bound],
            options={"maxiter": iterations},
        )
        prices = solved.x
    return np.asarray(prices / units)


def _joint_objective(
    prices: Float, quality: Float, cost: Float, units: Float, limits: Float, weights: Float, temperature: float
) -> tuple[float, Float]:
    """The smoothed dual of the arms' budgets and the shared one, and its gradient (M + 1,); units (M,) say how much of
    the shared budget's unit an arm's is."""
    value, slope = _objective(
        prices[:-1] + prices[-1] * units, quality, cost, np.zeros(len(units)), weights, temperature
    )
    return value + float(prices @ limits), limits + np.append(slope, slope @ units)


def spending_curve(
    quality: Float, cost: Float, prices: Float, *, weights: Float, drops: bool = False, earned: Float | None = None
) -> Float:
    """(P,) USD a query spent at each price (P,), ascending, when every query is answered, or with `drops` those that
    are worth their price. `earned` (P,) receives the quality that this buys."""
    rows, spent = np.arange(len(quality)), np.empty(len(prices))
    for at, price in enumerate(prices):
        scores = quality - price * cost
        chosen = np.argmax(scores, axis=1)
        kept = weights * (scores[rows, chosen] >= 0.0) if drops else weights
        spent[at] = kept @ cost[rows, chosen]
        if earned is not None:
            earned[at] = kept @ quality[rows, chosen]
    return spent
