"""Contexts, outcomes and histories for tests of policies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policies.records import DecisionRecord
from policies.types import (
    Arm,
    BudgetState,
    Estimates,
    Evidence,
    History,
    LoggedContext,
    Neighbours,
    Outcome,
    RouteContext,
)

DIMENSIONS = 24


def make_arms(count: int = 4) -> tuple[Arm, ...]:
    """Arms from cheap to expensive."""
    return tuple(
        Arm(f"model-{i}", prompt_price=1e-7 * 3**i, completion_price=3e-7 * 3**i, parameters=1e9 * 2**i)
        for i in range(count)
    )


def make_unit(rng: np.random.Generator, rows: int, dimensions: int = DIMENSIONS) -> np.ndarray:
    vectors = rng.normal(size=(rows, dimensions))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def make_history(arms: Sequence[Arm], rows: int = 300, seed: int = 0, dimensions: int = DIMENSIONS) -> History:
    """More expensive arms are better by half a spread, and each arm likes its own direction."""
    rng = np.random.default_rng(seed)
    embeddings = make_unit(rng, rows, dimensions)
    tastes = make_unit(rng, len(arms), dimensions)
    level = np.linspace(0.4, 0.8, len(arms))
    scores = np.clip(level + embeddings @ tastes.T + 0.1 * rng.normal(size=(rows, len(arms))), 0.0, 1.0)
    tokens = rng.integers(20, 200, rows)
    completion = rng.integers(50, 150, (rows, len(arms)))
    price = np.array([(arm.prompt_price, arm.completion_price) for arm in arms])
    costs = tokens[:, None] * price[:, 0] + completion * price[:, 1]
    return History(embeddings, tuple(arms), scores, costs, tokens, tokens * 4)


def make_context(arms: Sequence[Arm], history: History | None = None, seed: int = 1, **changes: object) -> RouteContext:
    """A query with its 60 nearest rows of history; arms history has not seen are NaN."""
    rng = np.random.default_rng(seed)
    vector = make_unit(rng, 1, DIMENSIONS if history is None else history.embeddings.shape[1])[0]
    fields: dict[str, object] = {
        "decision_id": f"r{seed}",
        "tenant": "acme",
        "preference": 10.0,
        "embedding": vector,
        "neighbours": make_neighbours(vector, arms, history),
        "arms": tuple(arms),
        "prompt_tokens": 100,
        "prompt_characters": 400,
        "max_completion_tokens": 512,
        "now": float(seed),
        "budget": BudgetState(),
    }
    return RouteContext(**(fields | changes))  # type: ignore[arg-type]


def make_neighbours(vector: np.ndarray, arms: Sequence[Arm], history: History | None, k: int = 60) -> Neighbours:
    if history is None:
        empty = np.zeros((0, len(arms)))
        return Neighbours(np.zeros(0, np.float32), empty, empty)
    similarity = history.embeddings @ vector
    near = np.argsort(-similarity)[:k]
    column = {arm.name: i for i, arm in enumerate(history.arms)}
    scores = np.full((len(near), len(arms)), np.nan)
    costs = scores.copy()
    for i, arm in enumerate(arms):
        if arm.name in column:
            scores[:, i] = history.scores[near, column[arm.name]]
            costs[:, i] = history.costs[near, column[arm.name]]
    return Neighbours(similarity[near].astype(np.float32), scores, costs)


def make_outcome(context: LoggedContext, arm: str, *, score: float = 0.7, cost: float = 1e-5) -> Outcome:
    return Outcome(
        context=context,
        arm=arm,
        score=score,
        cost=cost,
        propensity=0.5,
        completion_tokens=90,
        now=context.now,
    )


def make_record(
    decision_id: str,
    arms: Sequence[Arm],
    *,
    model: str = "",
    at_ms: int = 1,
    vector: np.ndarray | None = None,
    probabilities: Sequence[float] = (),
    **more: object,
) -> DecisionRecord:
    """A decision over these arms as a gateway might have logged it; the first one was asked unless another is named."""
    n = len(arms)
    context = LoggedContext(
        decision_id=decision_id,
        tenant="acme",
        preference=0.0,
        embedding=np.ones(8, np.float32) if vector is None else vector.astype(np.float16).astype(np.float32),
        arms=tuple(arms),
        prompt_tokens=50,
        prompt_characters=200,
        max_completion_tokens=512,
        now=at_ms / 1000,
        neighbours_asked=100,
    )
    expected = Estimates(np.full(n, 0.5), np.full(n, 0.1), np.full(n, 1e-5))
    known: dict[str, object] = {
        "context": context,
        "evidence": Evidence(expected),
        "probabilities": np.array(probabilities or [1.0 / n] * n),
        "model": model or arms[0].name,
        "policy": "epsilon",
        "key_id": "k",
    }
    return DecisionRecord(**(known | more))  # type: ignore[arg-type]
