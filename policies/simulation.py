"""Play a policy over a stream of queries on which every arm's answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from policies.records import (
    NANO_PER_USD,
    DecisionRecord,
    Feedback,
    SettlementRecord,
    context_of,
    outcome_of,
)
from policies.replay import LOST, BudgetGate, Result, Rows, judge
from policies.types import (
    Arm,
    BudgetState,
    Float,
    Float32,
    History,
    LoggedContext,
    Neighbours,
    Policy,
    RouteContext,
    draw,
)

TENANT = "replay"
COMPLETION_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class QueryStream:
    """N queries in order of arrival, one a second, with the truth of all M arms."""

    arms: tuple[Arm, ...]  # (M,)
    embeddings: Float32  # (N, d), unit rows
    scores: Float  # (N, M), in [0, 1]
    costs: Float  # (N, M), USD
    prompt_tokens: NDArray[np.int64]  # (N,)
    prompt_characters: NDArray[np.int64]  # (N,)
    features: Float32 | None = None  # (N, f)
    present: NDArray[np.bool_] | None = None  # (N, M) which arms exist at each query; None: all

    def __len__(self) -> int:
        return len(self.scores)

    def columns(self, row: int) -> NDArray[np.intp]:
        """Arms that exist at this query."""
        return np.arange(len(self.arms)) if self.present is None else np.flatnonzero(self.present[row])


class NeighbourView(Protocol):
    """The past queries a policy is shown."""

    def near(self, row: int, columns: NDArray[np.intp]) -> Neighbours:
        """Of query `row` of the stream, for these arms."""

    def take(self, row: int, arm: int, *, score: float, cost: float) -> None:
        """An answer to query `row` was judged."""


class FixedNeighbours:
    """The history only, as given: what PORT and the rules of budget mode look at."""

    def __init__(self, stream: QueryStream, history: History, *, k: int = 100) -> None:
        self._rows, self._similarity = nearest(stream.embeddings, history.embeddings, k)
        self._scores, self._costs = history.scores, history.costs

    def near(self, row: int, columns: NDArray[np.intp]) -> Neighbours:
        cells = self._rows[row][:, None], columns
        return Neighbours(self._similarity[row], self._scores[cells], self._costs[cells])

    def take(self, row: int, arm: int, *, score: float, cost: float) -> None:
        """The history does not grow."""


class GrowingNeighbours:
    """The history and every answer since, as the gateway's index has it: one arm known for each new row."""

    def __init__(self, stream: QueryStream, history: History, *, k: int = 100) -> None:
        self._k, self._past = k, len(history.scores)
        self._rows, self._similarity = nearest(stream.embeddings, history.embeddings, k)
        self._embeddings = stream.embeddings
        self._judged = np.zeros(len(stream), np.bool_)
        blank = np.full(stream.scores.shape, np.nan)
        self._scores, self._costs = np.vstack([history.scores, blank]), np.vstack([history.costs, blank])

    def near(self, row: int, columns: NDArray[np.intp]) -> Neighbours:
        since = np.flatnonzero(self._judged)
        similarity = np.concatenate([self._similarity[row], self._embeddings[since] @ self._embeddings[row]])
        rows = np.concatenate([self._rows[row], since + self._past])
        order = np.argsort(-similarity, kind="stable")[: self._k]
        cells = rows[order][:, None], columns
        return Neighbours(similarity[order], self._scores[cells], self._costs[cells])

    def take(self, row: int, arm: int, *, score: float, cost: float) -> None:
        self._judged[row] = True
        self._scores[self._past + row, arm], self._costs[self._past + row, arm] = score, cost


def nearest(queries: Float32, rows: Float32, k: int) -> tuple[NDArray[np.intp], Float32]:
    """(m, k) rows most similar to each query and (m, k) their cosines, descending; fewer than k where rows are few."""
    k = min(k, len(rows))
    found, similarity = np.empty((len(queries), k), np.intp), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries) if k else 0, 512):
        part = slice(start, start + 512)
        cosines = queries[part] @ rows.T
        best = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        close = np.take_along_axis(cosines, best, axis=1)
        order = np.argsort(-close, axis=1, kind="stable")
        found[part] = np.take_along_axis(best, order, axis=1)
        similarity[part] = np.take_along_axis(close, order, axis=1)
    return found, similarity


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """What a policy did on a stream."""

    choices: Rows  # (N,), LOST where the policy dropped the query
    served: NDArray[np.bool_]  # (N,)
    propensity: Float  # (N,) of the choice, in (0, 1]
    spent: Float  # (N,) USD after each query
    result: Result


def simulate(
    policy: Policy,
    stream: QueryStream,
    view: NeighbourView,
    *,
    gate: BudgetGate,
    rng: np.random.Generator,
    preference: float = 0.0,
    drops: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> PolicyRun:
    """Propose, draw, admit and learn, query by query.

    `preference` is λ in 1/USD. `drops`: a query whose best score is below zero is not worth its price and is
    dropped, where the policy plans with that.
    `on_progress(row)` hears of progress.
    """
    choices, served = np.full(len(stream), LOST), np.zeros(len(stream), np.bool_)
    propensity, spent = np.ones(len(stream)), np.zeros(len(stream))
    for row in range(len(stream)):
        columns = stream.columns(row)
        logged = _logged(stream, row, columns, preference=preference, gate=gate)
        proposal = policy.propose(context_of(logged, view.near(row, columns)))
        drawn = draw(proposal.probabilities, rng.random())
        arm = int(columns[drawn])
        name = stream.arms[arm].name
        record = DecisionRecord(logged, proposal.evidence, proposal.probabilities, name, policy="")
        if not drops or not proposal.evidence.refuses or proposal.scores[drawn] >= 0.0:
            choices[row], propensity[row] = arm, proposal.probabilities[drawn]
            served[row] = gate.admit(arm, float(stream.costs[row, arm]))
        outcome = outcome_of(record, None)
        if served[row]:
            score, cost = float(stream.scores[row, arm]), float(stream.costs[row, arm])
            view.take(row, arm, score=score, cost=cost)
            outcome = outcome_of(record, *answered(record, cost=cost, score=score))
        elif choices[row] != LOST:
            outcome = replace(outcome, refused=name, left=gate.left(arm))
        policy.learn(outcome)
        spent[row] = gate.spent.sum()
        if on_progress is not None:
            on_progress(row)
    return PolicyRun(
        choices, served, propensity, spent, judge(choices, served, scores=stream.scores, costs=stream.costs)
    )


def contexts(
    stream: QueryStream, view: NeighbourView, *, preference: float = 0.0, most: int | None = None
) -> list[RouteContext]:
    """Every query of a stream, or `most` of them, as a policy sees it before any is answered, without budgets."""
    gate = BudgetGate(len(stream.arms))
    return [
        context_of(
            _logged(stream, row, stream.columns(row), preference=preference, gate=gate),
            view.near(row, stream.columns(row)),
        )
        for row in range(len(stream) if most is None else min(most, len(stream)))
    ]


def _logged(
    stream: QueryStream, row: int, columns: NDArray[np.intp], *, preference: float, gate: BudgetGate
) -> LoggedContext:
    capacity = gate.capacity()
    everything = len(columns) == len(stream.arms)
    return LoggedContext(
        decision_id=str(row),
        tenant=TENANT,
        preference=preference,
        embedding=stream.embeddings[row],
        arms=stream.arms if everything else tuple(stream.arms[column] for column in columns),
        prompt_tokens=int(stream.prompt_tokens[row]),
        prompt_characters=int(stream.prompt_characters[row]),
        max_completion_tokens=COMPLETION_TOKENS,
        now=float(row),
        budget=BudgetState(remaining=gate.remaining(), limit=gate.total, reset_s=float(len(stream) - row), name=TENANT),
        capacity=None if capacity is None else capacity[columns],
        features=None if stream.features is None else stream.features[row],
    )


def answered(record: DecisionRecord, *, cost: float, score: float) -> tuple[SettlementRecord, Feedback]:
    """What the log would say of an answer that cost so many USD and earned this score."""
    at_ms = record.at_ms
    paid = SettlementRecord(record.decision_id, at_ms, record.model, round(cost * NANO_PER_USD), 0, 0, "settled")
    return paid, Feedback(record.decision_id, at_ms, score)
