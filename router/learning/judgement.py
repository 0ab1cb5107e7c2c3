"""What another policy would have earned on the gateway's own log, by its propensities.

The other policy follows the log by the code that follows it live, and is asked at each decision in the context that
was logged with it. A log that says too little is refused in a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.estimators.linear import principal_directions
from policies.ope import Logged, TooFewAnswers, Value, cross_fitted, doubly_robust, ips, snips
from policies.records import PINNED
from policies.registry import build
from policies.stored_answers import is_stored
from policies.types import Arm, Float, StoredPolicy
from router.errors import SettingsError
from router.learning.index import FaissIndex
from router.learning.refit_schedule import REFIT_FIRST, next_refit, refit_soon
from router.learning.views import Views
from router.types import NANO_PER_USD, DecisionRecord, Feedback, LogEntry, Notice, SettlementRecord

DIRECTIONS = 16  # of the embedding, for the reward model of the doubly robust estimate


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """A decision with what it cost and how it was judged."""

    record: DecisionRecord
    settlement: SettlementRecord
    feedback: Feedback

    @property
    def cost(self) -> float:
        """USD."""
        return self.settlement.cost / NANO_PER_USD

    @property
    def score(self) -> float:
        """In [0, 1]."""
        return self.feedback.score


def judged_answers(entries: Iterable[LogEntry]) -> list[JudgedAnswer]:
    """Decisions a policy made among several models that were settled and judged, in order of judgement.

    A later judgement of the same decision replaces the earlier; pinned requests are left out.
    """
    decided: dict[str, DecisionRecord] = {}
    settled: dict[str, SettlementRecord] = {}
    judged: dict[str, Feedback] = {}
    for entry in entries:
        if isinstance(entry, DecisionRecord):
            if entry.policy != PINNED and len(entry.context.arms) > 1:
                decided[entry.decision_id] = entry
        elif isinstance(entry, SettlementRecord):
            if entry.outcome == "settled":
                settled[entry.decision_id] = entry
        elif isinstance(entry, Notice) or entry.says_nothing:
            continue
        elif not _by_a_person(judged.get(entry.decision_id)) or _by_a_person(entry):
            judged[entry.decision_id] = entry
    return [
        JudgedAnswer(decided[key], paid, verdict)
        for key, verdict in judged.items()
        if key in decided and (paid := settled.get(key)) is not None
    ]


def _by_a_person(feedback: Feedback | None) -> bool:
    return feedback is not None and feedback.source == "user"


def proposed(
    policy: StoredPolicy, entries: Iterable[LogEntry], asked: frozenset[str], *, refit_from: int = REFIT_FIRST
) -> dict[str, Float]:
    """(n,) probabilities by decision id: what the policy would have proposed at these decisions, had it followed the
    log from its beginning."""
    found: dict[str, Float] = {}
    arms: dict[str, Arm] = {}
    views, due, fitted_on = None, refit_from, 0
    for entry in entries:
        if isinstance(entry, DecisionRecord):
            arms |= {arm.name: arm for arm in entry.context.arms if not is_stored(entry.context, arm.name)}
            views = views or Views(FaissIndex(len(entry.context.embedding)), {"": policy})
            if entry.space != views.space:  # an export has no counts: only what comes from now on compares
                views.take(Notice("embedder", entry.space))
            if entry.decision_id in asked:
                views.index.settle()
                found[entry.decision_id] = policy.propose(views.context(entry.context)).probabilities
        if views is None:
            continue
        views.take(entry)
        if views.learned >= due or refit_soon(views.table, views.learned, fitted_on, refit_from):
            policy.refit(views.history(tuple(arms.values())))
            views.table.fitted()
            due, fitted_on = next_refit(views.learned), views.learned
    return found


Judgement = Mapping[str, Mapping[str, Value | str]]
"""metric ("quality", "cost_usd") -> estimator ("ips", "snips", "dr") -> value, or why there is none."""


def live_value(answers: Sequence[JudgedAnswer]) -> Judgement:
    """What the live policies earned: the plain mean with its interval."""
    propensities = np.array([answer.record.propensity for answer in answers])
    believed = np.array([answer.feedback.weight for answer in answers])
    quality = Logged(np.array([a.score for a in answers]), propensities, propensities, believed)
    cost = Logged(np.array([a.cost for a in answers]), propensities, propensities)
    return {"quality": {"mean": ips(quality)}, "cost_usd": {"mean": ips(cost)}}


def choices_of(answers: Sequence[JudgedAnswer]) -> tuple[list[str], NDArray[np.intp]]:
    """Names of all models that could answer, and the column (n,) of the one that did."""
    names = sorted({name for answer in answers for name in answer.record.context.names})
    return names, np.array([names.index(answer.record.model) for answer in answers], np.intp)


def contexts_of(answers: Sequence[JudgedAnswer]) -> Float:
    """(n, p) where the queries lie in the principal directions of their embeddings."""
    embeddings = np.stack([answer.record.context.embedding for answer in answers])
    return (embeddings @ principal_directions(embeddings, DIRECTIONS).T).astype(np.float64)


def judge_policy(policy: StoredPolicy, entries: Sequence[LogEntry]) -> Judgement:
    """Quality and cost of an answer under another policy. Raises: SettingsError where nothing was judged."""
    answers = judged_answers(entries)
    if not answers:
        raise SettingsError("the log has no judged answers: give feedback first (POST /v1/feedback)", param="trace")
    names, choices = choices_of(answers)
    target = np.zeros((len(answers), len(names)))
    found = proposed(policy, entries, frozenset(answer.record.decision_id for answer in answers))
    for row, answer in enumerate(answers):
        columns = [names.index(name) for name in answer.record.context.names]
        target[row, columns] = found[answer.record.decision_id]
    contexts = contexts_of(answers)
    logged = Logged(
        rewards=np.array([answer.score for answer in answers]),
        propensities=np.array([answer.record.propensity for answer in answers]),
        target=target[np.arange(len(answers)), choices],
        reliability=np.array([answer.feedback.weight for answer in answers]),
    )
    costs = replace(logged, rewards=np.array([answer.cost for answer in answers]), reliability=None)
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
        expected = cross_fitted(choices, contexts, logged, arms=target.shape[1])
        chosen = expected[np.arange(len(choices)), choices]
        robust = doubly_robust(logged, expected=(target * expected).sum(axis=1), expected_chosen=chosen)
        return {"ips": ips(logged), "snips": snips(logged), "dr": robust}
    except TooFewAnswers as reason:
        return {"refused": str(reason)}
