"""The views of the past: the index of judged queries, the table of their answers, and the state of every policy.

They follow from the entries of a log, in order, and from nothing else; what follows them live and what judges another
policy afterwards are the same code. Nothing here waits or reads the world.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from policies.records import (
    DecisionRecord,
    Feedback,
    LogEntry,
    Notice,
    SettlementRecord,
    context_of,
    features_of,
    outcome_of,
    packed,
    to_half,
    unpacked,
)
from policies.reliability import SourceReliability, combined
from policies.signature import AnswerHeads
from policies.trust import Trust
from policies.types import Arm, Float, Float32, History, LoggedContext, Neighbours, Outcome, RouteContext, StoredPolicy
from router.learning.answer_times import AnswerTimes
from router.learning.histories import LabelledRow
from router.learning.index import FaissIndex
from router.learning.machine_time import MachineTimeAccounting
from router.learning.prompt_caches import PromptCaches
from router.learning.session_turns import SessionTurns
from router.learning.shares import Shares
from router.learning.similar_answers import SimilarAnswers
from router.learning.stored_answers import AnswerJudgements
from router.learning.table import OutcomeTable
from router.learning.token_counts import TokenCounts
from router.learning.turn_holders import TurnHolders
from router.types import NANO_PER_USD

LOG = logging.getLogger("pointsman.learning")
A_PAGE = 500  # decisions encoded at once for a snapshot
OPEN_DECISIONS = 20_000  # decisions that may still be judged, about a kilobyte each; the tenants share them
NAN = float("nan")
SIGNATURE = "signature"  # the source of what an answer's own looks say
COMPARED = 40  # nearest queries on which a judgement is compared with others'
ALONE = 0.5  # trust in a tenant below which it is shown its own queries first
MOST_MINE = 1_024  # of its latest
HEARD = 0.2  # weight of a tenant from which on its judgements are neighbours
LEAST_TAUGHT = 0.01  # weight of what another source adds to what was learned of an answer
LEAST_COMPARED = 1.0  # their similarities together, by trust, where a comparison says anything

Said = dict[str, tuple[float, float, float]]  # by source: its word, how far it is believed, and P(it was asked)
Stored = tuple[bytes, bytes, Said, float, int, bytes]
_encode = msgspec.msgpack.Encoder().encode
_encode_paid = msgspec.msgpack.Encoder().encode
_decode_paid = msgspec.msgpack.Decoder(SettlementRecord).decode
_decode_page = msgspec.msgpack.Decoder(list[tuple[str, str, Stored]]).decode


@dataclass(slots=True)
class OpenDecision:
    """A decision that may still be settled or judged; once settled it is kept packed, in a third of the memory."""

    _record: DecisionRecord | bytes
    settlement: SettlementRecord | None = None
    said: Said = field(default_factory=dict)
    taught: float = 0.0  # the weight that policies have learned it with
    row: int = -1  # in the table, once judged
    features: bytes = b""  # how its answer looks, where that was noted

    @property
    def record(self) -> DecisionRecord:
        return unpacked(self._record) if isinstance(self._record, bytes) else self._record

    def pack(self) -> None:
        if not isinstance(self._record, bytes):
            self._record = packed(self._record)

    def moved(self, record: bytes) -> None:
        self._record = record

    @property
    def cost(self) -> float:
        """USD, had no cache been read or written; NaN before it is settled."""
        paid = self.settlement
        return NAN if paid is None else (paid.uncached or paid.cost) / NANO_PER_USD

    def stored(self) -> Stored:
        """For a snapshot."""
        record = self._record if isinstance(self._record, bytes) else packed(self._record)
        paid = b"" if self.settlement is None else _encode_paid(self.settlement)
        return record, paid, self.said, self.taught, self.row, self.features

    @classmethod
    def of(cls, stored: Stored) -> OpenDecision:
        """Inverse of stored(). Raises: ValueError."""
        record, paid, said, taught, row, features = stored
        return cls(record, _decode_paid(paid) if paid else None, said, taught, row, features)


class Views:
    """What the log says, up to the entry taken in last. `learned` counts judgements."""

    def __init__(
        self,
        index: FaissIndex,
        policies: Mapping[str, StoredPolicy],
        *,
        machine_time: MachineTimeAccounting | None = None,
    ) -> None:
        self.index = index
        self.table = OutcomeTable(index.dim)
        self.policies = dict(policies)
        self.machine_time = machine_time
        self.learned = 0
        self.space = ""  # of all embeddings here, see DecisionRecord.space
        self.texts = 0  # whose counts may be kept …
        self.fitted_on = 0  # … and how many of them the embedder was fitted on
        self.histories: dict[str, int] = {}  # judgements taken in when a labelled history was, by its name
        self.open = Shares[OpenDecision](OPEN_DECISIONS)
        self.trust = Trust()
        self.sources = SourceReliability()
        self.heads = AnswerHeads()
        self.caches = PromptCaches()
        self.counts = TokenCounts()
        self.times = AnswerTimes()
        self.answers = AnswerJudgements()
        self.similar = SimilarAnswers()
        self.holders = TurnHolders()
        self.turns = SessionTurns()
        self._weights: Float = np.ones(0)  # (t,) of the tenants of the table …
        self._changes, self._doubts = 0, False  # … at this change of trust, and whether one of them is below 1
        self.meanwhile: dict[str, list[Outcome]] = {}  # outcomes since a policy's refit began, by its name

    def context(self, logged: LoggedContext) -> RouteContext:
        """What a policy would be asked now about a logged query."""
        hits = self.index.search(logged.embedding[None, :], logged.neighbours_asked)
        return context_of(logged, self.neighbours(logged, hits.ids[0], hits.similarity[0]))

    def neighbours(self, asked: LoggedContext, rows: NDArray[np.int64], similarity: NDArray[np.float32]) -> Neighbours:
        """What the arms earned and cost on `rows` (k,), by how far this tenant may believe whoever judged them. To one
        that others do not agree with its own queries are shown first."""
        belief = self._belief()
        if belief is None:
            return self.table.as_long(self.table.neighbours(rows, similarity, asked.arms), rows, asked)
        own = self.table.place_of(asked.tenant)
        alike = float(belief[own]) if own >= 0 else 1.0
        owners = self.table.owners(rows)
        weights = np.where(owners == own, 1.0, belief[owners] * alike)
        heard = weights >= HEARD  # what is hardly believed would only take others' places
        if alike < ALONE:
            others = np.flatnonzero((owners != own) & (belief[owners] >= HEARD))[: self.trust.shown_to(asked.tenant)]
            mine, near = self.table.nearest_own(asked.tenant, asked.embedding, len(rows) - len(others), most=MOST_MINE)
            theirs = self.trust.bounded_for(asked.tenant, belief[owners[others]])
            rows, similarity = np.concatenate([mine, rows[others]]), np.concatenate([near, similarity[others]])
            weights = np.concatenate([np.ones(len(mine)), theirs])
            chosen = np.argsort(-similarity, kind="stable")
        else:
            chosen = np.flatnonzero(heard)
        rows, similarity = rows[chosen], similarity[chosen]
        found = self.table.as_long(self.table.neighbours(rows, similarity, asked.arms), rows, asked)
        believed = weights[chosen].astype(np.float32)
        return replace(found, weights=believed if found.weights is None else believed * found.weights)

    def prepared(self, arms: Sequence[Arm]) -> History:
        """history(), once the heads that read answers have been fitted; takes milliseconds to seconds."""
        self.heads.fit()
        return self.history(arms)

    def history(self, arms: Sequence[Arm], table: OutcomeTable | None = None) -> History:
        """All rows, for a refit, by how far whoever judged them is believed. Copies, so that a thread may read it."""
        found, belief = (table or self.table).history(arms), self._belief()
        if belief is None:
            return found
        return replace(found, weights=found.reliability * belief[self.table.owners(slice(None))])

    def _belief(self) -> Float | None:
        """(t,) weight of each tenant of the table; None where nobody is doubted. A new tenant is believed until trust
        is looked at again, so that what is believed follows from the log alone."""
        count = self.table.count_tenants
        if count < 2:
            return None
        if self.trust.changes != self._changes:
            self._changes = self.trust.changes
            self._weights = np.array([self.trust.of(name) for name in self.table.tenants])
            self._doubts = bool((self._weights < 1.0).any())
        elif len(self._weights) < count:
            self._weights = np.concatenate([self._weights, np.ones(count - len(self._weights))])
        return self._weights if self._doubts else None

    def _weigh(self, record: DecisionRecord, entry: Feedback) -> Feedback:
        """The judgement with the weight that others may give it, after it was compared with theirs."""
        tenant = record.tenant
        expected = self._others_expect(record)
        if expected is not None:
            self.trust.judged(tenant, entry.key_id, score=entry.score, expected=expected)
        return replace(entry, reliability=entry.reliability * self.trust.of_key(tenant, entry.key_id))

    def _others_expect(self, record: DecisionRecord) -> float | None:
        """The score that other tenants would give: their mean on the nearest queries; None where too few are near."""
        own = self.table.place_of(record.tenant)
        if self.table.count_tenants - (own >= 0) < 1:
            return None
        hits = self.index.search(record.context.embedding[None, :], COMPARED)
        rows, similarity = hits.ids[0], hits.similarity[0]
        found = self.table.neighbours(rows, similarity, (arm_of(record),))
        belief, owners = self._belief(), self.table.owners(rows)
        weights = np.maximum(similarity, 0.0) * (owners != own) * ~np.isnan(found.scores[:, 0])
        weights = weights if belief is None else weights * belief[owners]
        total = float(weights.sum())
        return float(weights @ np.nan_to_num(found.scores[:, 0])) / total if total >= LEAST_COMPARED else None

    def take(self, entry: LogEntry) -> None:
        """Take in one entry of the log."""
        if self.machine_time is not None:
            self.machine_time.take(entry)
        if isinstance(entry, DecisionRecord):
            if len(entry.context.embedding) != self.index.dim:
                return  # of another embedder: nothing compares with it
            self.texts += bool(entry.text_id)
            here = entry if entry.space == self.space else placed(entry, np.zeros(self.index.dim, np.float32))
            self.open.put(entry.tenant, entry.decision_id, OpenDecision(here))
        elif isinstance(entry, Notice):
            if entry.kind == "embedder":  # and nobody has the counts here: only what comes from now on compares
                self.move(Moved(entry.name, entry.texts, *self.at(np.zeros((len(self.table), self.index.dim)))))
        elif isinstance(entry, SettlementRecord):
            self._settled(entry)
        else:
            self._judged(entry)

    def _settled(self, entry: SettlementRecord) -> None:
        known = self.open.get(entry.decision_id)
        if known is None or entry.outcome not in ("settled", "refused"):
            return
        known.settlement = entry
        self.caches.settled(known.record, entry)
        self.counts.settled(known.record, entry)
        self.times.settled(entry)
        self.similar.settled(known.record, entry)
        self.holders.settled(entry)
        self.turns.settled(known.record, entry)
        self._teach(outcome_of(known.record, entry))
        known.pack()

    def _judged(self, entry: Feedback) -> None:
        known = self.open.get(entry.decision_id)
        if known is None or (known.settlement is not None and known.settlement.outcome == "refused"):
            return  # nobody answered
        self.similar.judged(known.record, entry)
        if self.answers.judged(known.record, entry):
            return
        by_person = entry.source == "user"
        self._look(known, entry)
        if entry.says_nothing:
            return
        self._compare(known, entry)
        if not by_person and "user" in known.said:
            return  # a person has the last word
        self.learned += 1
        record, paid = known.record, known.settlement
        entry = self._weigh(record, entry) if by_person else self._together(known, entry)
        if known.row < 0:
            known.row = self.table.append(record.context, record.text, record.text_id)
            self.index.add(record.context.embedding[None, :], np.array([known.row]))
        tokens = 0 if paid is None else paid.completion_tokens
        self.table.observe(
            known.row, arm_of(record), score=entry.score, cost=known.cost, tokens=tokens, weight=entry.reliability
        )
        fresh = entry.reliability if by_person else max(entry.reliability - known.taught, LEAST_TAUGHT)
        known.taught = entry.reliability
        believed = replace(entry, reliability=fresh * self.trust.of(record.tenant))
        self._teach(outcome_of(record, paid, believed, counted=True))

    def _look(self, known: OpenDecision, entry: Feedback) -> None:
        """Note how an answer looks, and teach the head of its model what others say of such an answer."""
        reported: list[tuple[float, float]] = [(entry.score, entry.reliability)]
        if entry.source == SIGNATURE:
            known.features = entry.features
            reported = [(score, believed) for source, (score, believed, _) in known.said.items() if source != SIGNATURE]
        found = features_of(known.features)
        if found is None:
            return
        for score, believed in reported:
            self.heads.judged(known.record.model, found, score=score, weight=believed)

    def _compare(self, known: OpenDecision, entry: Feedback) -> None:
        """Measure sources that are no truth by those that are, and note what this one says."""
        judging = self.sources.asked(entry.source, entry.propensity) if entry.propensity < 1.0 else 1.0
        given = entry.score, entry.reliability, judging
        truths = [score for source, (score, reliability, _) in known.said.items() if _is_truth(source, reliability)]
        if not entry.is_truth and truths:
            self.sources.compared(entry.source, entry.score, truths[0], weight=judging)
        elif entry.is_truth and not truths:
            for source, (score, reliability, weight) in known.said.items():
                if not _is_truth(source, reliability):
                    self.sources.compared(source, score, entry.score, weight=weight)
        known.said[entry.source] = given

    def _together(self, known: OpenDecision, entry: Feedback) -> Feedback:
        """What all sources but a person say of one answer."""
        heard = [
            (self.sources.calibrated(source, score) if source.startswith("judge:") else score, reliability * weight)
            for source, (score, reliability, weight) in known.said.items()
        ]
        score, believed = combined(heard)
        return replace(entry, score=score, reliability=min(believed, 1.0))

    def counted(self) -> dict[str, Any]:
        """What a snapshot says of these views beside its files."""
        return {name: getattr(self, name) for name in ("space", "texts", "fitted_on", "histories")}

    def at(self, embeddings: NDArray[np.floating[Any]]) -> tuple[OutcomeTable, FaissIndex]:
        """Table and index as they are with other embeddings (N, d)."""
        vectors = to_half(embeddings.astype(np.float32))
        return self.table.moved(vectors), self.index.of(vectors)

    def move(self, moved: Moved) -> None:
        """Let everything be of another space from now on."""
        self.space, self.fitted_on, self.table, self.index = moved.space, moved.texts, moved.table, moved.index
        for known, record in moved.opened:
            known.moved(record)

    def label(self, name: str, text_id: bytes, row: LabelledRow, embedding: Float32) -> None:
        """Take in one row of a labelled history, unless it is here."""
        features = np.frombuffer(row.features, np.float32) if row.features else None
        lengths = row.prompt_tokens, row.prompt_characters
        context = LoggedContext("", name, 0.0, embedding, (), *lengths, 0, 0.0, features=features)
        at = self.table.append(context, row.text, text_id)
        self.index.add(embedding[None, :], np.array([at]))
        self.table.label(at, scores=row.scores, costs=row.costs)
        self.learned += 1
        self.texts += bool(row.counts)

    def without(self, tenant: str) -> tuple[OutcomeTable, NDArray[np.int64], FaissIndex]:
        """The table without a tenant's rows, where each row is in it (−1: gone), and its index."""
        table, places = self.table.without(tenant)
        return table, places, self.index.of(table.embeddings.astype(np.float32))

    def forget(self, history: str, without: tuple[OutcomeTable, NDArray[np.int64], FaissIndex]) -> None:
        """Take out a labelled history: what is without its rows, of this moment, takes their place."""
        self.table, places, self.index = without
        for _, _, known in self.open.items():
            known.row = int(places[known.row]) if known.row >= 0 else -1
        self.histories.pop(history, None)

    def _teach(self, outcome: Outcome) -> None:
        for policy in self.policies.values():
            policy.learn(outcome)
        for outcomes in self.meanwhile.values():
            outcomes.append(outcome)


def _is_truth(source: str, reliability: float) -> bool:
    return Feedback("", 0, 0.0, source, reliability).is_truth


@dataclass(frozen=True, slots=True)
class Moved:
    """What is to take the place of table, index and open decisions once the embedder is another."""

    space: str
    texts: int  # it was fitted on
    table: OutcomeTable
    index: FaissIndex
    opened: Sequence[tuple[OpenDecision, bytes]] = ()


def placed(record: DecisionRecord, embedding: Float32) -> DecisionRecord:
    """The same decision at an embedding of another space."""
    return replace(record, context=replace(record.context, embedding=embedding))


def arm_of(record: DecisionRecord) -> Arm:
    """The arm that answered, at its price of then."""
    return next(arm for arm in record.context.arms if arm.name == record.model)


def pages(opened: Shares[OpenDecision]) -> Iterator[bytes]:
    """Open decisions, each tenant's oldest first, some at a time: encoding them holds up every other thread."""
    left = opened.items()
    while page := list(islice(left, A_PAGE)):
        yield _encode([(tenant, name, each.stored()) for tenant, name, each in page])


def take_page(opened: Shares[OpenDecision], page: bytes) -> None:
    """Inverse of one of pages(). Raises: ValueError."""
    for tenant, name, stored in _decode_page(page):
        opened.put(tenant, name, OpenDecision.of(stored))
