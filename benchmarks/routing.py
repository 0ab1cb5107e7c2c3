"""Routing quality of `paced` on the public traces: `python -m benchmarks.routing` prints every row beside its must and aim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.traces import STREAMS, Embedded, Trace, embed_trace, trace_split
from policies.composed import Composed
from policies.estimators.blend import Blend
from policies.estimators.means import Means
from policies.estimators.neighbours import NeighbourMeans
from policies.explorers.greedy import Greedy
from policies.pacers.remaining import Remaining
from policies.replay import LOST, Result, Rows, Till, judge, split_budget, split_weights, total_budget
from policies.types import Estimates, Float, History, Neighbours, Outcome, Purse, RouteContext

TENANT = "benchmark"
NOTHING_NEAR = Neighbours(np.zeros(0, np.float32), np.zeros((0, 0)), np.zeros((0, 0)))


class Prepared:
    """An estimator that looks up what was estimated beforehand; a request's id is its row."""

    def __init__(self, estimates: Estimates) -> None:
        self._estimates = estimates

    def estimate(self, context: RouteContext) -> Estimates:
        row, found = int(context.request_id), self._estimates
        return Estimates(found.quality[row], found.sigma[row], found.cost[row])

    def learn(self, outcome: Outcome) -> None:
        """Nothing."""

    def refit(self, history: History) -> None:
        """Nothing."""

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return {}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Fitted:
    """`paced` fitted on the history of one seed, and what it expects of the stream."""

    embedded: Embedded
    stream: Rows  # (n,) rows of the trace, in order
    history: Rows
    blend: Blend
    expected: Estimates  # (n, M) each

    @property
    def trace(self) -> Trace:
        return self.embedded.trace

    @property
    def scores(self) -> Float:
        return self.trace.scores[self.stream]

    @property
    def costs(self) -> Float:
        return self.trace.costs[self.stream]


def fit(trace: Trace, seed: int) -> Fitted:
    """Embedder, estimators and expectations of one seed."""
    stream, history = trace_split(trace, seed)
    embedded = embed_trace(trace, history)
    blend = Blend(NeighbourMeans(Means()))
    past = embedded.history(history)
    blend.refit(past)
    return Fitted(embedded, stream, history, blend, blend.estimate_batch(embedded.queries(stream, past)))


def budgets_of(fitted: Fitted, rule: str, seed: int, factor: float = 1.0) -> Float:
    """(M,) USD of one split."""
    past_scores, past_costs = fitted.trace.scores[fitted.history], fitted.trace.costs[fitted.history]
    weights = split_weights(rule, past_scores.mean(axis=0), past_costs.mean(axis=0), seed=seed)
    return split_budget(total_budget(fitted.costs, factor), weights)


def route(fitted: Fitted, budgets: Float, *, order: Rows | None = None, horizon: int | None = None) -> Result:
    """Budget mode: the live pacer and explorer on prepared estimates, admission as the rules say."""
    order = np.arange(len(fitted.stream)) if order is None else order
    pacer = Remaining(lambda: fitted.blend.rehearsal)
    policy = Composed(Prepared(fitted.expected), pacer, Greedy())
    till = Till(len(budgets), budgets=budgets)
    choices, served = np.full(len(order), LOST), np.zeros(len(order), np.bool_)
    scores, costs = fitted.scores[order], fitted.costs[order]
    for at, row in enumerate(order):
        context = _context(fitted, int(row), at, till, len(order) if horizon is None else horizon)
        proposal = policy.propose(context)
        arm = int(np.argmax(proposal.probabilities))
        if proposal.scores[arm] >= 0.0:
            choices[at], served[at] = arm, till.admit(arm, float(costs[at, arm]))
        policy.learn(_outcome(context, arm if served[at] else LOST, costs[at], scores[at]))
    return judge(choices, served, scores=scores, costs=costs)


def _context(fitted: Fitted, row: int, at: int, till: Till, horizon: int) -> RouteContext:
    return RouteContext(
        request_id=str(row),
        tenant=TENANT,
        preference=0.0,
        embedding=fitted.embedded.vectors[fitted.stream[row]],
        neighbours=NOTHING_NEAR,
        arms=fitted.trace.arms,
        prompt_tokens=0,
        prompt_characters=0,
        max_completion_tokens=4096,
        now=float(at),
        purse=Purse(remaining=till.remaining(), reset_s=float(max(horizon - at, 1)), name=TENANT),
        capacity=till.capacity(),
    )


def _outcome(context: RouteContext, arm: int, costs: Float, scores: Float) -> Outcome:
    return Outcome(
        request_id=context.request_id,
        tenant=TENANT,
        arm="" if arm == LOST else context.arms[arm].name,
        embedding=context.embedding,
        score=float("nan") if arm == LOST else float(scores[arm]),
        cost=float("nan") if arm == LOST else float(costs[arm]),
        propensity=1.0,
        prompt_tokens=0,
        completion_tokens=0,
        prompt_characters=0,
        now=context.now,
        purse=TENANT,
    )
