"""The views of the past: the index of judged queries, the table of their answers, and the state of every policy.

They follow from the entries of a log, in order, and from nothing else; what follows them live and what judges another
policy afterwards are the same code. Nothing here waits or reads the world.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import msgspec
import numpy as np

from policies.records import (
    DecisionRecord,
    Feedback,
    LogEntry,
    SettlementRecord,
    context_of,
    outcome_of,
    packed,
    unpacked,
)
from policies.types import Arm, LoggedContext, Outcome, RouteContext, StoredPolicy
from router.learning.index import FaissIndex
from router.learning.machine_time import MachineTimeAccounting
from router.learning.shares import Shares
from router.learning.table import OutcomeTable
from router.types import NANO_PER_USD

LOG = logging.getLogger("pointsman.learning")
A_PAGE = 500  # decisions encoded at once for a snapshot
OPEN_DECISIONS = 20_000  # decisions that may still be judged, about a kilobyte each; the tenants share them
REFIT_FIRST = 200  # judgements
NAN = float("nan")

Stored = tuple[bytes, bytes, bool, int]
_encode = msgspec.msgpack.Encoder().encode
_encode_paid = msgspec.msgpack.Encoder().encode
_decode_paid = msgspec.msgpack.Decoder(SettlementRecord).decode
_decode_page = msgspec.msgpack.Decoder(list[tuple[str, str, Stored]]).decode


def next_refit(learned: int, every: int = REFIT_FIRST) -> int:
    """Judgements after which policies are refitted again, when they were refitted on so many."""
    return learned + max(every, learned // 4)


@dataclass(slots=True)
class OpenDecision:
    """A decision that may still be settled or judged; once settled it is kept packed, in a third of the memory."""

    _record: DecisionRecord | bytes
    settlement: SettlementRecord | None = None
    judged_by_user: bool = False
    row: int = -1  # in the table, once judged

    @property
    def record(self) -> DecisionRecord:
        return unpacked(self._record) if isinstance(self._record, bytes) else self._record

    def pack(self) -> None:
        if not isinstance(self._record, bytes):
            self._record = packed(self._record)

    @property
    def cost(self) -> float:
        """USD; NaN before it is settled."""
        return NAN if self.settlement is None else self.settlement.cost / NANO_PER_USD

    def stored(self) -> Stored:
        """For a snapshot."""
        record = self._record if isinstance(self._record, bytes) else packed(self._record)
        paid = b"" if self.settlement is None else _encode_paid(self.settlement)
        return record, paid, self.judged_by_user, self.row

    @classmethod
    def of(cls, stored: Stored) -> OpenDecision:
        """Inverse of stored(). Raises: ValueError."""
        record, paid, judged_by_user, row = stored
        return cls(record, _decode_paid(paid) if paid else None, judged_by_user, row)


class Views:
    """What the log says, up to the entry taken in last. `learned` counts judgements."""

    def __init__(
        self,
        index: FaissIndex,
        policies: Mapping[str, StoredPolicy],
        *,
        occupancy: MachineTimeAccounting | None = None,
    ) -> None:
        self.index = index
        self.table = OutcomeTable(index.dim)
        self.policies = dict(policies)
        self.occupancy = occupancy
        self.learned = 0
        self.open = Shares[OpenDecision](OPEN_DECISIONS)
        self.meanwhile: dict[str, list[Outcome]] = {}  # outcomes since a policy's refit began, by its name

    def context(self, logged: LoggedContext) -> RouteContext:
        """What a policy would be asked now about a logged query."""
        hits = self.index.search(logged.embedding[None, :], logged.neighbours_asked)
        return context_of(logged, self.table.neighbours(hits.ids[0], hits.similarity[0], logged.arms))

    def take(self, entry: LogEntry) -> None:
        """Take in one entry of the log."""
        if self.occupancy is not None:
            self.occupancy.take(entry)
        if isinstance(entry, DecisionRecord):
            if len(entry.context.embedding) != self.index.dim:
                return  # of another embedder: nothing compares with it
            self.open.put(entry.tenant, entry.decision_id, OpenDecision(entry))
        elif isinstance(entry, SettlementRecord):
            self._settled(entry)
        else:
            self._judged(entry)

    def _settled(self, entry: SettlementRecord) -> None:
        known = self.open.get(entry.decision_id)
        if known is None or entry.outcome != "settled":
            return
        known.settlement = entry
        self._teach(outcome_of(known.record, entry))
        known.pack()

    def _judged(self, entry: Feedback) -> None:
        known = self.open.get(entry.decision_id)
        if known is None:
            return
        if entry.source != "user" and known.judged_by_user:
            return  # a person has the last word
        known.judged_by_user |= entry.source == "user"
        self.learned += 1
        record, paid = known.record, known.settlement
        if known.row < 0:
            known.row = self.table.append(record.context, record.text)
            self.index.add(record.context.embedding[None, :], np.array([known.row]))
        tokens = 0 if paid is None else paid.completion_tokens
        self.table.observe(
            known.row, arm_of(record), score=entry.score, cost=known.cost, tokens=tokens, weight=entry.reliability
        )
        self._teach(outcome_of(record, paid, entry, counted=True))

    def _teach(self, outcome: Outcome) -> None:
        for policy in self.policies.values():
            policy.learn(outcome)
        for outcomes in self.meanwhile.values():
            outcomes.append(outcome)


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
