"""Reference routers over arrays of estimates: what any policy must beat, and the optimum it is measured by."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.lazy_module import LazyModule
from policies.replay import LOST, BudgetGate, Rows
from policies.types import Float

optimize = LazyModule("scipy.optimize")
sparse = LazyModule("scipy.sparse")


def assignment(scores: Float, costs: Float, *, budgets: Float | None, total: float = float("inf")) -> Float:
    """(N, M) shares x of the LP max Σ score·x with Σ_m x ≤ 1 a query and the budgets kept (HiGHS).

    Raises: RuntimeError where the solver fails.
    """
    queries, arms = scores.shape
    rows = [sparse.kron(sparse.identity(queries), np.ones((1, arms)), format="csr")]
    limits = [np.ones(queries)]
    if budgets is not None:
        rows.append(_per_arm(costs))
        limits.append(np.asarray(budgets))
    if np.isfinite(total):
        rows.append(sparse.csr_matrix(costs.reshape(1, -1)))
        limits.append(np.array([total]))
    scale = 1.0 / np.concatenate([limits[0], *(np.maximum(each, 1e-300) for each in limits[1:])])
    matrix = sparse.vstack(rows).multiply(scale[:, None]).tocsr()
    right = np.concatenate(limits) * scale
    solved = optimize.linprog(-scores.ravel(), A_ub=matrix, b_ub=right, bounds=(0.0, 1.0), method="highs")
    if solved.x is None:
        raise RuntimeError(f"the assignment LP was not solved: {solved.message}")
    return np.asarray(solved.x, dtype=np.float64).reshape(queries, arms)


def _per_arm(costs: Float) -> Any:
    """(M, N·M) the cost of every query on its own arm."""
    queries, arms = costs.shape
    columns = np.arange(queries * arms)
    return sparse.csr_matrix((costs.ravel(), (columns % arms, columns)), shape=(arms, queries * arms))


def rounded(shares: Float) -> Rows:
    """(N,) the arm with the largest share; none where the query gets nothing."""
    return np.where(shares.max(axis=1) > 1e-9, shares.argmax(axis=1), LOST)


def optimum(scores: Float, costs: Float, *, budgets: Float | None, total: float = float("inf")) -> Rows:
    """(N,) choices of the LP, rounded: on estimates it is ApproxOpt, on the truth TrueOpt."""
    return rounded(assignment(scores, costs, budgets=budgets, total=total))


def uniform(queries: int, arms: int, *, seed: int) -> Rows:
    """(N,) an arm drawn evenly for each query."""
    return np.random.default_rng(seed).integers(arms, size=queries)


def greedy(worth: Float, cost: Float, *, costs: Float, gate: BudgetGate) -> Rows:
    """(N,) the most worth among the arms whose estimated cost still fits, charged in order at the true costs (N, M).

    greedy-perf and knn-perf pass q̂ as worth, greedy-cost and knn-cost pass −ĉ; what fits nowhere is lost.
    """
    choices = np.full(len(worth), LOST)
    for row, (values, expected) in enumerate(zip(worth, cost, strict=True)):
        open_arms = gate.fits(expected)
        if open_arms.any():
            choices[row] = np.argmax(np.where(open_arms, values, -np.inf))
            gate.admit(int(choices[row]), float(costs[row, choices[row]]))
    return choices


def neighbour_means(similarity: Float, values: Float, *, k: int) -> Float:
    """(N, M) means of history values (H, M) over the k rows most similar to each query, similarity (N, H); over all
    rows where history has fewer."""
    k = min(k, similarity.shape[1])
    near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    return np.asarray(np.nanmean(values[near], axis=1), dtype=np.float64)


def batch_split(
    quality: Float,
    cost: Float,
    *,
    budgets: Float | None,
    total: float = float("inf"),
    batch: int = 256,
) -> Rows:
    """(N,) choices of one LP a batch, each with its share of the budget by the share of queries in it."""
    queries = len(quality)
    choices = np.full(queries, LOST)
    for start in range(0, queries, batch):
        rows = slice(start, min(start + batch, queries))
        share = (rows.stop - rows.start) / queries
        parts = None if budgets is None else budgets * share
        choices[rows] = optimum(quality[rows], cost[rows], budgets=parts, total=total * share)
    return choices
