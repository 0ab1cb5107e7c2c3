"""Settings of `neighbours` proposed by cross-validation on a trace: k, shrinkage and the share to explore."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.registry import build
from policies.replay import LAMBDAS, BudgetGate
from policies.simulation import GrowingNeighbours, QueryStream, nearest, simulate
from policies.types import Float, History

NEIGHBOURS = (5, 10, 20, 40, 80, 160)
SHRINKAGES = (0.0, 2.0, 5.0, 10.0, 20.0, 40.0)
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1)
REHEARSED = 1_000  # queries on which shares are compared
KNOWN = 0.2  # share of the trace a router knows when the rehearsal begins


@dataclass(frozen=True, slots=True)
class Tuned:
    """Options of `neighbours` and what they earned on rows they had not seen."""

    k: int
    shrinkage: float
    explore: float
    price: float  # λ, 1/USD, that keeps the budget
    quality: float  # mean score at that price, each row estimated from the others
    default_quality: float  # the same of the default options


def tune(history: History, *, usd_per_query: float, on_progress: Callable[[str], None]) -> Tuned:
    """By leave-one-out estimates for k and shrinkage, then by playing with each share. `on_progress(what)` hears of it.

    Raises: ValueError where even the cheapest arm costs more than the budget.
    """
    cheapest = float(np.nanmean(history.costs, axis=0).min())
    if not usd_per_query >= cheapest:  # not a number neither
        raise ValueError(f"{usd_per_query:.3g} USD a query is less than the cheapest model costs, {cheapest:.3g}")
    rows, _ = nearest(history.embeddings, history.embeddings, max(NEIGHBOURS) + 1)
    others = _without_self(rows)
    found: dict[tuple[int, float], tuple[float, float]] = {}
    for k in NEIGHBOURS:
        for shrinkage in SHRINKAGES:
            expected = _shrunk(history.scores, others[:, :k], shrinkage)
            cost = _shrunk(history.costs, others[:, :k], shrinkage)
            found[k, shrinkage] = _earned(expected, cost, history, usd_per_query)
        on_progress(f"k = {k}")
    k, shrinkage = max(found, key=lambda each: found[each][0])
    quality, price = found[k, shrinkage]
    share = _best_share(history, k=k, shrinkage=shrinkage, price=price, on_progress=on_progress)
    return Tuned(k, shrinkage, share, price, quality, found[40, 10.0][0])


def parts() -> int:
    """How often `on_progress` of tune() is called."""
    return len(NEIGHBOURS) + len(SHARES)


def _without_self(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """(N, k) neighbours of each row without itself."""
    own = rows == np.arange(len(rows))[:, None]
    own[~own.any(axis=1), -1] = True  # a duplicate may have taken its place
    return np.asarray(rows[~own].reshape(len(rows), -1), dtype=np.intp)


def _shrunk(values: Float, near: NDArray[np.intp], shrinkage: float) -> Float:
    """(N, M) mean over neighbours and `shrinkage` rows of the column's mean."""
    means = np.nanmean(values, axis=0)
    taken = values[near]
    seen = (~np.isnan(taken)).sum(axis=1)
    total = np.nansum(taken, axis=1) + shrinkage * means
    weight = seen + shrinkage
    return np.asarray(np.where(weight > 0, total / np.maximum(weight, 1e-9), means), dtype=np.float64)


def _earned(quality: Float, cost: Float, history: History, usd_per_query: float) -> tuple[float, float]:
    """(mean score, λ) at the least λ whose choices keep the budget; the cheapest arm where none does."""
    rows = np.arange(len(quality))
    for price in LAMBDAS:
        chosen = np.argmax(quality - price * cost, axis=1)
        if np.nanmean(history.costs[rows, chosen]) <= usd_per_query:
            return float(np.nanmean(history.scores[rows, chosen])), float(price)
    return float(np.nanmean(history.scores[rows, np.argmin(cost, axis=1)])), float(LAMBDAS[-1])


def _best_share(
    history: History, *, k: int, shrinkage: float, price: float, on_progress: Callable[[str], None]
) -> float:
    """The share that earned most from little history, learning from the chosen model's answers only."""
    known = max(1, int(KNOWN * len(history.scores)))
    stream, past = _stream(history, slice(known, known + REHEARSED)), _part(history, slice(0, known))
    earned = []
    for share in SHARES:
        policy = build("epsilon", history.arms, {"share": share, "k": k, "shrinkage": shrinkage})
        policy.refit(past)
        rng = np.random.default_rng(0)
        gate = BudgetGate(len(stream.arms))
        run = simulate(policy, stream, GrowingNeighbours(stream, past), gate=gate, rng=rng, preference=price)
        earned.append(run.result.performance - price * run.result.cost)
        on_progress(f"explore = {share}")
    return SHARES[int(np.argmax(earned))]


def _part(history: History, rows: slice) -> History:
    return History(
        embeddings=history.embeddings[rows],
        arms=history.arms,
        scores=history.scores[rows],
        costs=history.costs[rows],
        prompt_tokens=history.prompt_tokens[rows],
        prompt_characters=history.prompt_characters[rows],
        features=None if history.features is None else history.features[rows],
    )


def _stream(history: History, rows: slice) -> QueryStream:
    part = _part(history, rows)
    return QueryStream(
        arms=part.arms,
        embeddings=part.embeddings,
        scores=part.scores,
        costs=part.costs,
        prompt_tokens=part.prompt_tokens,
        prompt_characters=part.prompt_characters,
        features=part.features,
    )
