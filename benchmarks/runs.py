"""`paced` on a trace: fitted once for each seed, then run with its live pacer, explorer and corrections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from benchmarks.traces import Embedded, PublicTrace, embed_trace, queries_left, trace_split
from policies.composed import Composed
from policies.estimators.drift_corrected import DriftCorrected
from policies.estimators.means import Means
from policies.estimators.mixture import kinds_of
from policies.estimators.neighbours import NeighbourMeans
from policies.estimators.stack import Stack, make_kernel, out_of_fold
from policies.estimators.stacked_or_neighbours import StackedOrNeighbours
from policies.explorers.greedy import Greedy
from policies.pacers.flat import Flat
from policies.pacers.remaining import ANSWER, REFUSE, Remaining, may_refuse
from policies.records import DecisionRecord, context_of, outcome_of
from policies.replay import LOST, BudgetGate, Result, Rows, judge, split_budget, split_weights, total_budget
from policies.simulation import answered
from policies.types import (
    BudgetState,
    Estimates,
    Float,
    Float32,
    History,
    LoggedContext,
    Neighbours,
    Outcome,
    Policy,
    RouteContext,
)

TENANT = "benchmark"
NOTHING_NEAR = Neighbours(np.zeros(0, np.float32), np.zeros((0, 0)), np.zeros((0, 0)))


@dataclass(frozen=True)
class Fitted:
    """`paced` fitted on the history of one seed, and what it expects of the stream."""

    embedded: Embedded
    stream: Rows  # (n,) rows of the trace, in order
    history: Rows
    stacked: StackedOrNeighbours
    expected: Estimates  # (n, M) each
    ood_score: Float  # (n,)

    def kinds(self) -> tuple[Float, Float]:
        """((N, K), (n, K)) what kinds of query history and stream are, as a new arm is described by."""
        stack, state = Stack(), self.stacked.state()
        stack.restore({key.removeprefix("stack."): value for key, value in state.items() if key.startswith("stack.")})
        past, asked = (stack.smooth_inputs(*self.embedded.surface(rows)) for rows in (self.history, self.stream))
        found, kernel = kinds_of(past), make_kernel()
        known = np.hstack([out_of_fold(kernel, past, found.groups, np.ones(len(past))), past @ found.leading.T])
        kernel.fit(past, found.groups)
        expected = np.hstack([kernel.predict(asked), asked @ found.leading.T])
        return known - known.mean(axis=0), expected - known.mean(axis=0)

    @property
    def trace(self) -> PublicTrace:
        return self.embedded.trace

    @property
    def scores(self) -> Float:
        return self.trace.scores[self.stream]

    @property
    def costs(self) -> Float:
        return self.trace.costs[self.stream]


class Prepared:
    """A fitted estimator that looks up what was expected beforehand; a request's id is its row in the stream."""

    def __init__(self, fitted: Fitted) -> None:
        self._fitted = fitted

    @property
    def rehearsal(self) -> tuple[tuple[str, ...], Estimates] | None:
        return self._fitted.stacked.rehearsal

    @property
    def charge_spread(self) -> Mapping[str, float]:
        return self._fitted.stacked.charge_spread

    @property
    def directions(self) -> Float32:
        return self._fitted.stacked.directions

    def place(self, embedding: Float32) -> Float32 | None:
        """Nothing is looked up by place."""
        return None

    def ood_score(self, asked: LoggedContext) -> float:
        return float(self._fitted.ood_score[int(asked.decision_id)])

    def estimate(self, context: RouteContext) -> Estimates:
        row, found = int(context.decision_id), self._fitted.expected
        return Estimates(found.quality[row], found.sigma[row], found.cost[row])

    def expected(self, outcome: Outcome) -> tuple[float, float] | None:
        row, column = int(outcome.context.decision_id), self._fitted.trace.models.index(outcome.arm)
        return float(self._fitted.expected.quality[row, column]), float(self._fitted.expected.cost[row, column])

    def learn(self, outcome: Outcome) -> None:
        """Nothing."""

    def refit(self, history: History) -> None:
        """Nothing."""

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return {}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Nothing."""


def drift_corrected(fitted: Fitted) -> DriftCorrected:
    """The live estimator of `paced` over prepared expectations."""
    estimator = DriftCorrected(Prepared(fitted))
    estimator.refit(fitted.embedded.history(fitted.history))
    return estimator


def fit(trace: PublicTrace, seed: int, *, unseen: str = "") -> Fitted:
    """Embedder, estimators and expectations of one seed; `unseen` names a task kept out of history."""
    stream, history = trace_split(trace, seed)
    history = history[trace.tasks[history] != unseen]
    embedded = embed_trace(trace, history)
    stacked = StackedOrNeighbours(NeighbourMeans(Means()))
    past = embedded.history(history)
    stacked.refit(past)
    contexts = embedded.contexts(stream, past)
    found = [(stacked.estimate(each), stacked.ood_score(each)) for each in contexts]
    parts = ([getattr(expected, part) for expected, _ in found] for part in ("quality", "sigma", "cost"))
    expected = Estimates(*(np.stack(part) for part in parts))
    return Fitted(embedded, stream, history, stacked, expected, np.array([ood_score for _, ood_score in found]))


def budgets_of(fitted: Fitted, rule: str, seed: int, factor: float = 1.0) -> Float:
    """(M,) USD of one split."""
    past_scores, past_costs = fitted.trace.scores[fitted.history], fitted.trace.costs[fitted.history]
    weights = split_weights(rule, past_scores.mean(axis=0), past_costs.mean(axis=0), seed=seed)
    return split_budget(total_budget(fitted.costs, factor), weights)


@dataclass(frozen=True)
class Setup:
    """Budgets of one run over a stream."""

    budgets: Float | None = None  # (M,) USD of each model
    total: float = float("inf")  # USD for all of them
    when_short: str = REFUSE
    always_drops: bool = False  # the plan that drops whatever is not worth its price, without the other beside it

    def policy(self, estimator: DriftCorrected) -> Composed:
        """`paced` over prepared estimates, without its share that explores."""
        pacer = Remaining(lambda: estimator.rehearsal, may_refuse=may_refuse(self.when_short))
        pacer.always_drops = self.always_drops
        return Composed(estimator, pacer, Greedy())


def route(fitted: Fitted, setup: Setup, *, order: Rows | None = None, horizon: int | None = None) -> Result:
    """Budget mode: the live pacer and explorer on prepared estimates, admission as the rules say."""
    order = np.arange(len(fitted.stream)) if order is None else order
    policy = setup.policy(drift_corrected(fitted))
    gate = BudgetGate(fitted.scores.shape[1], budgets=setup.budgets, total=setup.total)
    choices, served = np.full(len(order), LOST), np.zeros(len(order), np.bool_)
    scores, costs = fitted.scores[order], fitted.costs[order]
    for at, row in enumerate(order):
        logged = _logged(fitted, int(row), at, gate, len(order) if horizon is None else horizon)
        arm, worth, record = _chosen(policy, logged)
        if worth >= 0.0:
            choices[at], served[at] = arm, gate.admit(arm, float(costs[at, arm]))
        if served[at]:
            policy.learn(_answered(record, arm, scores=scores[at], costs=costs[at]))
        elif choices[at] != LOST:
            policy.learn(replace(outcome_of(record, None), refused=record.model, left=gate.left(arm)))
        else:
            policy.learn(outcome_of(record, None))
    return judge(choices, served, scores=scores, costs=costs)


def each_tenant(
    fitted: Fitted, terms: Mapping[str, tuple[float, float, float]], asking: tuple[str, ...]
) -> dict[str, float]:
    """Σ score − λ · cost of each tenant that asks, all behind one policy with a budget for each.

    `terms` are by tenant its share of the queries, its budget over what the cheapest model takes for them, and λ times
    the mean cost of an answer. Queries are dealt to tenants the same way whoever asks.
    """
    owners = np.random.default_rng(0).choice(
        list(terms), len(fitted.stream), p=[share for share, _, _ in terms.values()]
    )
    policy = Setup(when_short=ANSWER).policy(drift_corrected(fitted))
    rows = {name: np.flatnonzero(owners == name) for name in asking}
    gates = {
        n: BudgetGate(fitted.scores.shape[1], total=total_budget(fitted.costs[rows[n]], terms[n][1])) for n in asking
    }
    price = {name: terms[name][2] / float(fitted.expected.cost.mean()) for name in asking}
    earned = dict.fromkeys(asking, 0.0)
    for row in np.flatnonzero(np.isin(owners, asking)):
        name = str(owners[row])
        logged = _logged(fitted, int(row), int(row), gates[name], len(fitted.stream), price[name])
        arm, _, record = _chosen(policy, replace(logged, tenant=name, budget=replace(logged.budget, name=name)))
        cost = float(fitted.costs[row, arm])
        if gates[name].admit(arm, cost):
            earned[name] += float(fitted.scores[row, arm]) - price[name] * cost
            policy.learn(_answered(record, arm, scores=fitted.scores[row], costs=fitted.costs[row]))
        else:
            policy.learn(replace(outcome_of(record, None), refused=record.model, left=gates[name].left(arm)))
    return earned


def prefer(
    fitted: Fitted, price: float, *, scores: Float | None = None, costs: Float | None = None, adaptive: bool = True
) -> Float:
    """(n,) score − λ · cost of every query of the stream in preference mode, on this truth (n, M)."""
    scores = fitted.scores if scores is None else scores
    costs = fitted.costs if costs is None else costs
    estimator = drift_corrected(fitted)
    policy = Composed(estimator, Flat(), Greedy())
    gate, earned = BudgetGate(scores.shape[1]), np.zeros(len(scores))
    for row in range(len(scores)):
        arm, _, record = _chosen(policy, _logged(fitted, row, row, gate, len(scores), price))
        earned[row] = scores[row, arm] - price * costs[row, arm]
        if adaptive:
            policy.learn(_answered(record, arm, scores=scores[row], costs=costs[row]))
    return earned


def _logged(
    fitted: Fitted, row: int, at: int, gate: BudgetGate, horizon: int, preference: float = 0.0
) -> LoggedContext:
    return LoggedContext(
        decision_id=str(row),
        tenant=TENANT,
        preference=preference,
        embedding=fitted.embedded.vectors[fitted.stream[row]],
        arms=fitted.trace.arms,
        prompt_tokens=0,
        prompt_characters=0,
        max_completion_tokens=4096,
        now=float(at),
        budget=BudgetState(remaining=gate.remaining(), reset_s=queries_left(horizon, at), name=TENANT),
        capacity=gate.capacity(),
    )


def _chosen(policy: Policy, logged: LoggedContext) -> tuple[int, float, DecisionRecord]:
    """The likeliest arm, its score where the plan may refuse, and the record of choosing it."""
    proposal = policy.propose(context_of(logged, NOTHING_NEAR))
    arm = int(np.argmax(proposal.probabilities))
    worth = float(proposal.scores[arm]) if proposal.evidence.refuses else 0.0
    record = DecisionRecord(logged, proposal.evidence, np.eye(len(logged.arms))[arm], logged.arms[arm].name, "")
    return arm, worth, record


def _answered(record: DecisionRecord, arm: int, *, scores: Float, costs: Float) -> Outcome:
    return outcome_of(record, *answered(record, cost=float(costs[arm]), score=float(scores[arm])))
