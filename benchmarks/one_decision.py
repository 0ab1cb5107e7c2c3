"""A table of benchmarks.routing: what one decision of a fitted `paced` takes, beyond the index search."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np

from policies.paced import build
from policies.records import context_of
from policies.types import Arm, BudgetState, History, LoggedContext, Neighbours, Outcome, RouteContext


def speed(seeds: int) -> Iterable[str]:
    """One decision of a fitted policy: 16 models, 384 dimensions, 100 neighbours, beyond the index search"""
    rng = np.random.default_rng(0)
    history, contexts = _world(rng, rows=6000, arms=16, dim=384)
    policy = build(history.arms)
    policy.refit(history)
    taken = []
    for context in contexts:
        started, worked = time.perf_counter(), time.thread_time()
        proposal = policy.propose(context)
        taken.append((time.perf_counter() - started, time.thread_time() - worked))
        arm = int(np.argmax(proposal.probabilities))
        policy.learn(_answer(context, context.arms[arm].name))
    for name, values in zip(("by the clock", "of CPU"), np.array(taken[1000:]).T, strict=True):
        p50, p99 = 1e6 * np.quantile(values, [0.5, 0.99])
        yield f"{name:12} p50 {p50:.0f} µs, p99 {p99:.0f} µs (must 2000, aim 500)"


def _world(rng: np.random.Generator, *, rows: int, arms: int, dim: int) -> tuple[History, list[RouteContext]]:
    vectors = rng.normal(size=(rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    models = tuple(Arm(f"model-{each}", 1e-7 * (each + 1), 2e-7 * (each + 1)) for each in range(arms))
    tokens, features = rng.integers(10, 1000, rows), rng.random((rows, 49)).astype(np.float32)
    scores = rng.random((rows, arms))
    costs = np.outer(tokens, [arm.prompt_price for arm in models]) + rng.random((rows, arms)) * 1e-4
    history = History(vectors, models, scores, costs, tokens, 4 * tokens, features)

    def context(row: int) -> RouteContext:
        near = rng.integers(0, rows, 100)
        similarity = -np.sort(-rng.random(100).astype(np.float32))
        logged = LoggedContext(
            str(row), "tenant", 5.0, vectors[row], models, int(tokens[row]), int(4 * tokens[row]), 1024, float(row),
            BudgetState(1.0, 2.0, 1000.0, "budget"), None, features[row],
        )  # fmt: skip
        return context_of(logged, Neighbours(similarity, scores[near], costs[near]))

    return history, [context(row) for row in range(2000)]


def _answer(context: RouteContext, arm: str) -> Outcome:
    return Outcome(context, arm, 0.5, 1e-5, 1.0, 10, context.now)
