"""What another policy would have earned on the gateway's own log, by its propensities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.estimators.linear import principal_directions
from policies.ope import Logged, TooFewAnswers, Value, cross_fitted, doubly_robust, ips, snips
from policies.registry import build
from policies.types import Arm, Float, Outcome, Policy, RouteContext, StoredPolicy
from router.errors import SettingsError
from router.learning.follower import OutcomeTable
from router.learning.index import FaissIndex
from router.types import NANO_PER_USD, DecisionRecord, Feedback, LogEntry, SettlementRecord

NEIGHBOURS = 100
DIRECTIONS = 16  # of the embedding, for the reward model of the doubly robust estimate
COMPLETION_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision with what it cost and how it was judged."""

    record: DecisionRecord
    cost: float  # USD
    completion_tokens: int
    score: float  # in [0, 1]
    reliability: float

    @property
    def embedding(self) -> NDArray[np.float32]:
        """(d,) unit vector."""
        vector = np.frombuffer(self.record.embedding, "<f2").astype(np.float32)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


def judged_answers(entries: Iterable[LogEntry]) -> list[Answer]:
    """Decisions a policy made among several models that were settled and judged, in order of judgement.

    A later judgement of the same decision replaces the earlier; pinned requests are left out.
    """
    decided: dict[str, DecisionRecord] = {}
    settled: dict[str, SettlementRecord] = {}
    judged: dict[str, Feedback] = {}
    for entry in entries:
        if isinstance(entry, DecisionRecord):
            if entry.policy != "pinned" and len(entry.candidates) > 1:
                decided[entry.decision_id] = entry
        elif isinstance(entry, SettlementRecord):
            if entry.outcome == "settled":
                settled[entry.decision_id] = entry
        else:
            judged[entry.decision_id] = entry
    return [
        Answer(decided[key], paid.cost / NANO_PER_USD, paid.completion_tokens, verdict.score, verdict.reliability)
        for key, verdict in judged.items()
        if key in decided and (paid := settled.get(key)) is not None
    ]


class Retrospect:
    """A policy following the log as it grew, asked at each decision before it learns the answer."""

    def __init__(self, policy: Policy, dim: int, refit_from: int = 200) -> None:
        self._policy = policy
        self._table, self._index = OutcomeTable(dim), FaissIndex(dim)
        self._next_refit = refit_from
        self._arms: dict[str, Arm] = {}

    def probabilities(self, answer: Answer) -> Float:
        """(n,) over the candidates of that decision; then the policy learns the answer."""
        context = self._context(answer)
        asked = self._policy.propose(context)
        self._policy.learn(_outcome(answer, context))
        row = self._table.append(answer.record, answer.embedding)
        self._table.observe(row, answer.record.model, score=answer.score, cost=answer.cost)
        self._index.add(answer.embedding[None], np.array([row]))
        self._index.settle()
        if len(self._table) >= self._next_refit:
            self._policy.refit(self._table.history(tuple(self._arms.values())))
            self._next_refit = 2 * len(self._table)
        return asked.probabilities

    def _context(self, answer: Answer) -> RouteContext:
        record = answer.record
        hits = self._index.search(answer.embedding[None], NEIGHBOURS)
        arms = tuple(self._arms.setdefault(name, Arm(name, 0.0, 0.0)) for name in record.candidates)
        return RouteContext(
            request_id=record.decision_id,
            tenant=record.tenant,
            preference=record.preference,
            embedding=answer.embedding,
            neighbours=self._table.neighbours(hits.ids[0], hits.similarity[0], record.candidates),
            arms=arms,
            prompt_tokens=record.prompt_tokens,
            prompt_characters=record.prompt_characters,
            max_completion_tokens=COMPLETION_TOKENS,
            now=record.at_ms / 1000,
            features=np.frombuffer(record.features, "<f4") if record.features else None,
        )


def _outcome(answer: Answer, context: RouteContext) -> Outcome:
    record = answer.record
    return Outcome(
        request_id=record.decision_id,
        tenant=record.tenant,
        arm=record.model,
        embedding=context.embedding,
        score=answer.score,
        cost=answer.cost,
        propensity=record.propensity,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        prompt_characters=record.prompt_characters,
        now=context.now,
        weight=answer.reliability,
        features=context.features,
        purse=record.purse,
    )


Judgement = Mapping[str, Mapping[str, Value | str]]
"""metric ("quality", "cost_usd") -> estimator ("ips", "snips", "dr") -> value, or why there is none."""


def live_value(answers: Sequence[Answer]) -> Judgement:
    """What the live policies earned: the plain mean with its interval."""
    propensities = np.array([answer.record.propensity for answer in answers])
    measured = {"quality": [a.score for a in answers], "cost_usd": [a.cost for a in answers]}
    return {name: {"mean": ips(Logged(np.array(v), propensities, propensities))} for name, v in measured.items()}


def judge_policy(policy: Policy, answers: Sequence[Answer]) -> Judgement:
    """Quality and cost of an answer under another policy. Raises: SettingsError where nothing was judged."""
    if not answers:
        raise SettingsError("the log has no judged answers: give feedback first (POST /v1/feedback)", param="trace")
    names = sorted({name for answer in answers for name in answer.record.candidates})
    target = np.zeros((len(answers), len(names)))
    retrospect = Retrospect(policy, len(answers[0].embedding))
    for row, answer in enumerate(answers):
        columns = [names.index(name) for name in answer.record.candidates]
        target[row, columns] = retrospect.probabilities(answer)
    choices = np.array([names.index(answer.record.model) for answer in answers], np.intp)
    embeddings = np.stack([answer.embedding for answer in answers])
    contexts = (embeddings @ principal_directions(embeddings, DIRECTIONS).T).astype(np.float64)
    logged = Logged(
        rewards=np.array([answer.score for answer in answers]),
        propensities=np.array([answer.record.propensity for answer in answers]),
        target=target[np.arange(len(answers)), choices],
    )
    costs = replace(logged, rewards=np.array([answer.cost for answer in answers]))
    return {name: _values(each, target, choices, contexts) for name, each in (("quality", logged), ("cost_usd", costs))}


def built(name: str, options: Mapping[str, object]) -> StoredPolicy:
    """A named policy to judge. Raises: SettingsError where there is none of that name or options do not fit."""
    try:
        return build(name, (), options)
    except ValueError as error:
        raise SettingsError(str(error), param="policy") from error


def as_json(judged: Mapping[str, Judgement]) -> dict[str, object]:
    """Every label's values as plain numbers; a refusal stays the sentence it is."""
    return {
        label: {
            metric: {each: value if isinstance(value, str) else asdict(value) for each, value in values.items()}
            for metric, values in judgement.items()
        }
        for label, judgement in judged.items()
    }


def _values(logged: Logged, target: Float, choices: NDArray[np.intp], contexts: Float) -> dict[str, Value | str]:
    try:
        expected = cross_fitted(choices, contexts, logged.rewards, arms=target.shape[1])
        chosen = expected[np.arange(len(choices)), choices]
        robust = doubly_robust(logged, expected=(target * expected).sum(axis=1), expected_chosen=chosen)
        return {"ips": ips(logged), "snips": snips(logged), "dr": robust}
    except TooFewAnswers as reason:
        return {"refused": str(reason)}
