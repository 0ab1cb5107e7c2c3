"""Which stored answers lie near a question, and how sure one must be to give one again; the log alone decides.

A tenant's questions are compared where all else of their requests is the same. How often sureness misled is told by
answers that were asked for although one was stored, and by judgements of those that were given again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.conformal import NEVER, selective_threshold
from policies.escalation import RIGHT_FROM
from policies.records import DecisionRecord, Feedback, SettlementRecord
from policies.stored_answers import is_stored
from policies.types import Float32
from router.learning.likeness import TURNED
from router.learning.stored_answers import ANSWER

GROUP, ASKS = "group", "asks"  # keys in a decision's metadata: all but the question, its fingerprint …
LIKENESS = "likeness"  # … and how sure it was that a stored question has the same answer
MOST_GROUPS = 5_000
MOST_NEAR = 1_000  # questions of one group, the latest
NEAR = 0.7  # cosine, from which a question in other words is looked at
MOST_PAIRS = 2_000  # of a tenant, the latest
MOST_TENANTS = 1_000
MISS = 0.05  # chance that a tenant's threshold is too low
STALE = 20  # of so many pairs one that is fresh, and right, makes for a threshold told anew


class NearAnswer(NamedTuple):
    """A stored answer to another question."""

    name: str
    cosine: float


class Questions:
    """The questions of one kind of request, the latest MOST_NEAR."""

    def __init__(self, space: str, dim: int) -> None:
        self.space, self.names, self._asks = space, list[str](), list[str]()
        self._vectors, self._oldest = np.empty((16, dim), np.float32), 0
        self._places: dict[str, dict[int, None]] = {}  # the oldest first, of those that nothing turns round

    @property
    def vectors(self) -> Float32:
        """(n, d)."""
        return self._vectors[: len(self.names)]

    def nearest(self, vector: Float32, asks: str, most: int) -> list[NearAnswer]:
        """Of those that nothing turns round: the latest that ask for it in the same words, so many, and the nearest
        where it is near."""
        places = list(self._places.get(asks[:TURNED], ()))
        if not places:
            return []
        few = 2 * len(places) < len(self.names)  # so that a copy of them costs less than a look at all
        cosines = self._vectors[places] @ vector if few else (self.vectors @ vector)[places]
        best = int(cosines.argmax())
        alike = [each for each, place in enumerate(places) if self._asks[place] == asks][-most:]
        near = [best] if cosines[best] >= NEAR else []
        found = dict.fromkeys([*alike, *near])
        return [NearAnswer(self.names[places[each]], float(cosines[each])) for each in found]

    def add(self, name: str, vector: Float32, asks: str) -> None:
        """One more; the oldest goes where there are too many."""
        at = len(self.names)
        if at == MOST_NEAR:
            at, self._oldest = self._oldest, (self._oldest + 1) % MOST_NEAR
            self._drop(at)
            self.names[at], self._asks[at] = name, asks
        else:
            if at == len(self._vectors):
                self._vectors = np.vstack([self._vectors, np.empty_like(self._vectors)])
            self.names.append(name)
            self._asks.append(asks)
        self._vectors[at] = vector
        self._places.setdefault(asks[:TURNED], {})[at] = None

    def _drop(self, at: int) -> None:
        key = self._asks[at][:TURNED]
        del self._places[key][at]
        if not self._places[key]:
            del self._places[key]

    def rows(self) -> list[tuple[str, str]]:
        """(n,) names and fingerprints."""
        return list(zip(self.names, self._asks, strict=True))


@dataclass(slots=True)
class Pairs:
    """What was sure and what was right, of one tenant."""

    sure: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_PAIRS))
    wrong: deque[bool] = field(default_factory=lambda: deque(maxlen=MOST_PAIRS))
    fresh: int = 0  # since thresholds were told
    thresholds: dict[float, float] = field(default_factory=dict)  # by risk

    def threshold(self, risk: float) -> float:
        """How sure one must be; NEVER where too little is known."""
        if risk not in self.thresholds:
            sure, wrong = np.array(self.sure), np.array(self.wrong, np.bool_)
            self.thresholds[risk] = selective_threshold(sure, wrong, risk=risk, miss=MISS)
        return self.thresholds[risk]

    def add(self, sure: float, *, wrong: bool) -> None:
        """One more."""
        self.sure.append(sure)
        self.wrong.append(wrong)
        self.fresh += 1
        if wrong or self.fresh * STALE >= len(self.sure):
            self.thresholds.clear()
            self.fresh = 0


class SimilarAnswers:
    """Follows decisions, settlements and judgements of tenants that let similar questions share an answer."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[str, str], Questions] = OrderedDict()
        self._pairs: OrderedDict[str, Pairs] = OrderedDict()

    def settled(self, record: DecisionRecord, paid: SettlementRecord) -> None:
        """An answer that may be given again, and whether it was what was stored for a similar question."""
        group = record.metadata.get(GROUP)
        if group is None or paid.outcome != "settled" or is_stored(record.context, record.model):
            return
        if record.context.embedding.any():  # else of another embedder, or of none
            self._keep(record, group)
        if paid.agrees is not None:
            self._pair(record, wrong=not paid.agrees)

    def judged(self, record: DecisionRecord, entry: Feedback) -> None:
        """Of an answer that was given again to a similar question."""
        if LIKENESS in record.metadata and entry.is_truth and is_stored(record.context, record.model):
            self._pair(record, wrong=entry.score < RIGHT_FROM)

    def questions(self, tenant: str, group: str, space: str) -> Questions | None:
        """Those of a tenant's requests of one group, in an embedder's space; None where there are none."""
        known = self._groups.get((tenant, group))
        return known if known is not None and known.space == space else None

    def threshold(self, tenant: str, risk: float) -> float:
        """How sure one must be; NEVER where too little is known."""
        known = self._pairs.get(tenant)
        return NEVER if known is None else known.threshold(risk)

    def _keep(self, record: DecisionRecord, group: str) -> None:
        vector, marks = record.context.embedding, record.metadata
        self._group(record.tenant, group, record.space, vector).add(marks[ANSWER], vector, marks[ASKS])
        while len(self._groups) > MOST_GROUPS:
            self._groups.popitem(last=False)

    def _group(self, tenant: str, group: str, space: str, like: Float32) -> Questions:
        """The latest used; begun anew in another embedder's space, where nothing compares."""
        known = self._groups.pop((tenant, group), None)
        if known is None or known.space != space:
            known = Questions(space, len(like))
        self._groups[tenant, group] = known
        return known

    def _pair(self, record: DecisionRecord, *, wrong: bool) -> None:
        known = self._pairs.setdefault(record.tenant, Pairs())
        self._pairs.move_to_end(record.tenant)
        known.add(float(record.metadata[LIKENESS]), wrong=wrong)
        while len(self._pairs) > MOST_TENANTS:
            self._pairs.popitem(last=False)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """For a snapshot."""
        rows = [(*key, each.space, *row) for key, each in self._groups.items() for row in each.rows()]
        vectors = [vector for each in self._groups.values() for vector in each.vectors]
        pairs = [(tenant, *pair) for tenant, of in self._pairs.items() for pair in zip(of.sure, of.wrong, strict=True)]
        return {
            "rows": np.array(rows, np.str_).reshape(-1, 5),
            "vectors": np.array(vectors, np.float16).reshape(len(rows), -1) if rows else np.zeros((0, 1), np.float16),
            "tenants": np.array([pair[0] for pair in pairs], np.str_),
            "pairs": np.array([pair[1:] for pair in pairs], np.float64).reshape(-1, 2),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: KeyError, ValueError."""
        self._groups, self._pairs = OrderedDict(), OrderedDict()
        for (tenant, group, space, name, asks), vector in zip(state["rows"], state["vectors"], strict=True):
            found = np.asarray(vector, np.float32)
            self._group(str(tenant), str(group), str(space), found).add(str(name), found, str(asks))
        for tenant, (sure, wrong) in zip(state["tenants"], state["pairs"], strict=True):
            self._pairs.setdefault(str(tenant), Pairs()).add(float(sure), wrong=bool(wrong))
