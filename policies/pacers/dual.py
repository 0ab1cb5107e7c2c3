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
    maximum is softened at temperatures falling to 0.003 of quality, which makes the dual smooth and the answer unique.
    The outer maximum with zero lets a query be dropped (PORT's own leaves it out and is unbounded below). `start` is
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


def spending_curve(quality: Float, cost: Float, prices: Float, *, weights: Float) -> Float:
    """(4, P) at each price (P,), ascending: USD spent a query when every query is answered, and when those not worth
    their price are dropped; the quality that buys, in the same two cases.

    As the price rises a query goes from the best arm to cheaper ones, at prices that follow from its numbers alone.
    There is a step for each change, instead of a choice at each price. Of equal arms the first is chosen.
    """
    rows, changes = np.arange(len(quality)), np.zeros((4, len(prices) + 1))
    chosen = quality.argmax(axis=1)
    worth, usd = quality[rows, chosen], cost[rows, chosen]
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.where(cost > 0.0, quality / cost, np.where(quality >= 0.0, np.inf, -np.inf)).max(axis=1)
    changes[:, 0] = weights @ usd, weights @ usd, weights @ worth, weights @ worth
    last = np.stack([usd, worth])  # (2, r) before it is dropped
    while len(rows):
        q, c = quality[rows], cost[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            when = np.where(c < usd[:, None], (worth[:, None] - q) / (usd[:, None] - c), np.inf)
        chosen = when.argmin(axis=1)
        at, places = when[np.arange(len(rows)), chosen], np.arange(len(rows))
        moved = at < np.inf
        rows, chosen, at, places = rows[moved], chosen[moved], at[moved], places[moved]
        step = np.stack([c[places, chosen] - usd[moved], q[places, chosen] - worth[moved]])
        usd, worth = c[places, chosen], q[places, chosen]
        kept = at <= ends[rows]
        last[:, rows[kept]] += step[:, kept]
        _add_steps(changes[::2], prices, at, step * weights[rows])
        _add_steps(changes[1::2], prices, at[kept], step[:, kept] * weights[rows[kept]])
    _add_steps(changes[1::2], prices, ends, -last * weights)
    return np.asarray(changes[:, :-1].cumsum(axis=1))


def _add_steps(changes: Float, prices: Float, at: Float, steps: Float) -> None:
    """To changes (2, P + 1): each of steps (2, s) at the first of the prices above `at` (s,)."""
    places = np.searchsorted(prices, at, side="right")
    changes += [np.bincount(places, step, minlength=changes.shape[1]) for step in steps]
