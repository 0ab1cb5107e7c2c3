"""The one record of a decision: what it was made in, what it followed from, and what came of it.

The gateway logs it; learning, off-policy judgement, replay and simulation make contexts and outcomes of it by the same
two functions. Bytes that are no record are a ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Literal, cast, get_args

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from policies.signature import WIDTH
from policies.types import (
    Arm,
    BudgetState,
    Estimates,
    Evidence,
    Float,
    Float32,
    LoggedContext,
    MeasuredCost,
    Neighbours,
    Outcome,
    RouteContext,
)

NANO_PER_USD = 1_000_000_000
SAYS_NOTHING = 1e-6  # reliability of a judgement that is none
PINNED = "pinned"  # the policy of a request that named its model
NAN = float("nan")


Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class DecisionRecord(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One decision: enough to learn from, to draw up again, and to judge another policy by."""

    context: LoggedContext
    evidence: Evidence
    probabilities: Float  # (n,), sums to 1
    model: str  # that was asked
    policy: str
    version: str = ""  # of the policy's state: its options, and how far it had learned
    key_id: str = ""
    backend: str = ""  # that serves `model`
    drawn: str = ""  # the model that was drawn, where no budget had room for it
    text: str = ""  # the first characters of the query when the operator keeps text
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    space: str = ""  # of the embedding: vectors of two spaces do not compare
    text_id: bytes = b""  # under which the counts of the query's n-grams are kept, where they are

    @property
    def decision_id(self) -> str:
        return self.context.decision_id

    @property
    def tenant(self) -> str:
        return self.context.tenant

    @property
    def at_ms(self) -> int:
        return round(self.context.now * 1000)

    @property
    def propensity(self) -> float:
        """Probability that `model` was asked: its own, and that of what was drawn unsuccessfully."""
        names = self.context.names
        own = float(self.probabilities[names.index(self.model)])
        return own + float(self.probabilities[names.index(self.drawn)]) if self.drawn else own

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DecisionRecord) and packed(self) == packed(other)

    def __hash__(self) -> int:
        return hash(self.decision_id)


class SettlementRecord(msgspec.Struct, frozen=True, gc=False):
    """What one decision cost in the end."""

    decision_id: str
    at_ms: int
    model: str
    cost: Count  # nano-USD
    prompt_tokens: Count
    completion_tokens: Count
    outcome: str  # "settled", "released", "expired"
    latency_ms: float = 0.0
    first_byte_ms: float = 0.0
    response_id: str | None = None
    finish_reason: str | None = None
    signature: bytes = b""  # float32, little-endian: policies.signature.FEATURES of the answer, where it was judged
    tenant: str = ""
    answered: str = ""  # the arm of a program whose answer was judged and returned …
    returned: float = 1.0  # … and how likely that was, in (0, 1]
    uncached: Count = 0  # nano-USD, had no cache been read or written; 0: the same
    parts: Mapping[str, Count] = {}  # tokens with a price of their own, by kind: cached, cache_write, reasoning, …
    saved: Count = 0  # nano-USD that an answer cost when it was made, which was given again
    marks: tuple[str, ...] = ()  # digests of calls and signatures, with which only this model can go on
    agrees: bool | None = None  # whether it says what is stored for a similar question; None: nobody compared them


class Feedback(msgspec.Struct, frozen=True, gc=False):
    """A judgement of one answer."""

    decision_id: str
    at_ms: int
    score: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
    source: str = "user"  # "user", "validator:…", "signature", "judge:MODEL"
    reliability: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0  # weight
    comment: str | None = None
    replace: bool = False
    tenant: str = ""  # whose decision it judges: no other tenant's is found
    key_id: str = ""  # of whoever judged; only the same one may replace what it said
    by_admin: bool = False  # an admin key with the right to judge for any tenant, which may replace what others said
    propensity: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0  # that this answer was judged at all
    features: bytes = b""  # float32, little-endian: policies.signature.FEATURES of the answer, of source "signature"

    @property
    def is_truth(self) -> bool:
        """Whether other sources are measured by it: a person's, or of an answer that was known."""
        return self.source == "user" or (self.source.startswith("validator:") and self.reliability == 1.0)

    @property
    def says_nothing(self) -> bool:
        """Whether it only notes how an answer looks, of a model whose looks nobody can read yet."""
        return self.reliability <= SAYS_NOTHING

    @property
    def weight(self) -> float:
        """Its reliability by the inverse of the chance that it was asked for, which counts twenty at most."""
        return self.reliability * min(1.0 / self.propensity, 20.0)


class Notice(msgspec.Struct, frozen=True, gc=False):
    """Something else that all who follow the log take in at this place: a new embedder, or a labelled history."""

    kind: Literal["embedder", "history", "forgotten"]
    name: str  # of the space, or of the history
    texts: int = 0  # that it is made of
    at_ms: int = 0
    tenant: str = ""
    decision_id: str = ""


LogEntry = DecisionRecord | SettlementRecord | Feedback | Notice


def to_half(vectors: Float32) -> Float32:
    """Embeddings (…, d) as the log keeps them: decisions are made on nothing finer."""
    return vectors.astype(np.float16).astype(np.float32)


_LOGGED = len(LoggedContext.__struct_fields__)


def context_of(logged: LoggedContext, neighbours: Neighbours) -> RouteContext:
    """What a policy is asked, from what is logged and the past queries found for it."""
    return RouteContext(*astuple(logged)[:_LOGGED], neighbours=neighbours)


def outcome_of(
    record: DecisionRecord,
    settlement: SettlementRecord | None,
    feedback: Feedback | None = None,
    *,
    counted: bool = False,
) -> Outcome:
    """What a policy learns of one decision. `counted`: an earlier outcome told the cost already.

    A query that nobody served is an outcome without an arm.
    """
    served = feedback is not None or (settlement is not None and settlement.outcome == "settled")
    charged = settlement is not None and served and not counted
    latest = feedback or settlement
    return Outcome(
        context=record.context,
        arm=record.model if served else "",
        score=NAN if feedback is None else feedback.score,
        cost=(settlement.uncached or settlement.cost) / NANO_PER_USD if settlement is not None and charged else NAN,
        propensity=record.propensity if served else 1.0,
        completion_tokens=0 if settlement is None else settlement.completion_tokens,
        now=record.context.now if latest is None else latest.at_ms / 1000,
        weight=1.0 if feedback is None else feedback.reliability,
        expected=record.evidence.expected,
        signature=signature_of(settlement),
        answered="" if settlement is None else settlement.answered,
        returned=1.0 if settlement is None else settlement.returned,
    )


def signature_of(settlement: SettlementRecord | None) -> Float | None:
    """(WIDTH,) of the answer, where it was observed."""
    return None if settlement is None else features_of(settlement.signature)


def features_of(data: bytes) -> Float | None:
    """(WIDTH,) of these bytes; None where there are none, or an older gateway's, which had fewer features."""
    return np.frombuffer(data, "<f4").astype(np.float64) if len(data) == 4 * WIDTH else None


# as bytes

Row = Literal[
    "probabilities", "quality", "sigma", "cost", "gamma", "capacity", "worth", "cached", "waiting", "prompt_usd",
    "completion_usd", "tokens", "stored", "counted"
]  # fmt: skip
ROWS: tuple[Row, ...] = get_args(Row)
ALWAYS = 4  # of these are in every record
MOST_ARMS = 4096
_HALF, _SINGLE, _DOUBLE = np.dtype("<f2"), np.dtype("<f4"), np.dtype("<f8")


class PackedRecord(msgspec.Struct, array_like=True, gc=False):
    """A record on its way to and from bytes: numbers of the arms as one block, the arms encoded once for many."""

    decision_id: str
    tenant: str
    key_id: str
    policy: str
    version: str
    model: str
    backend: str
    drawn: str
    text: str
    metadata: Mapping[str, str]
    preference: float
    now: float
    counts: tuple[int, int, int, int]  # prompt tokens and characters, completion tokens at most, neighbours asked
    budget: BudgetState
    budget_price: float
    flags: int  # 1: early, 2: refuses
    arms: msgspec.Raw
    rows: int  # a bit for each of ROWS that is there
    numbers: bytes  # float64 (rows, n), little-endian
    embedding: bytes  # float16 (d,), little-endian
    features: bytes  # float32 (f,), little-endian
    space: str = ""
    text_id: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PackedRecord).decode
_decode_arms = msgspec.msgpack.Decoder(tuple[Arm, ...]).decode
_ARMS: dict[int, tuple[tuple[Arm, ...], msgspec.Raw]] = {}  # by identity: most decisions are over the same arms
MOST_KEPT = 512


def packed(record: DecisionRecord) -> bytes:
    """A record as bytes; equal records are equal bytes."""
    context, evidence = record.context, record.evidence
    rows, numbers = _numbers(record)
    return _encode(
        PackedRecord(
            context.decision_id,
            context.tenant,
            record.key_id,
            record.policy,
            record.version,
            record.model,
            record.backend,
            record.drawn,
            record.text,
            record.metadata,
            context.preference,
            context.now,
            (context.prompt_tokens, context.prompt_characters, context.max_completion_tokens, context.neighbours_asked),
            context.budget,
            evidence.budget_price,
            int(evidence.early) | int(evidence.refuses) << 1,
            _arms(context.arms),
            rows,
            numbers,
            context.embedding.astype(_HALF).tobytes(),
            b"" if context.features is None else context.features.astype(_SINGLE).tobytes(),
            record.space,
            record.text_id,
        )
    )


def _numbers(record: DecisionRecord) -> tuple[int, bytes]:
    """Which of ROWS are there, and their bytes."""
    expected, measured_cost = record.evidence.expected, record.context.measured_cost
    found: list[Float] = [record.probabilities, expected.quality, expected.sigma, expected.cost]
    rows = (1 << ALWAYS) - 1
    context, evidence = record.context, record.evidence
    optional = (evidence.capacity_prices, context.capacity, evidence.worth, context.cached, context.waiting)
    for place, row in enumerate(optional, ALWAYS):
        if row is not None:
            rows |= 1 << place
            found.append(row)
    if measured_cost is not None:
        rows |= 0b111 << (ALWAYS + len(optional))
        found += [measured_cost.prompt_usd, measured_cost.completion_usd, measured_cost.tokens]
    if context.stored is not None:
        rows |= 1 << ROWS.index("stored")
        found.append(context.stored)
    if context.counted is not None:
        rows |= 1 << ROWS.index("counted")
        found.append(context.counted)
    return rows, b"".join([row.tobytes() for row in found])


def _arms(arms: tuple[Arm, ...]) -> msgspec.Raw:
    known = _ARMS.get(id(arms))
    if known is not None and known[0] is arms:
        return known[1]
    if len(_ARMS) >= MOST_KEPT:
        _ARMS.clear()
    raw = msgspec.Raw(_encode(arms))
    _ARMS[id(arms)] = arms, raw
    return raw


def unpacked(data: bytes) -> DecisionRecord:
    """Inverse of packed(), to the last bit. Raises: ValueError where these bytes are no record."""
    found = _decode(data)
    arms = _known_arms(bytes(found.arms))
    numbers = _blocks(found, len(arms))
    block = numbers.get
    usd = block("prompt_usd"), block("completion_usd"), block("tokens")
    prompt_tokens, prompt_characters, max_completion_tokens, neighbours_asked = found.counts
    context = LoggedContext(
        found.decision_id,
        found.tenant,
        found.preference,
        np.frombuffer(found.embedding, _HALF).astype(np.float32),
        arms,
        prompt_tokens,
        prompt_characters,
        max_completion_tokens,
        found.now,
        found.budget,
        block("capacity"),
        np.frombuffer(found.features, _SINGLE) if found.features else None,
        None if usd[0] is None else MeasuredCost(*cast(tuple[Float, Float, Float], usd)),
        neighbours_asked,
        block("cached"),
        block("waiting"),
        block("stored"),
        block("counted"),
    )
    expected = Estimates(numbers["quality"], numbers["sigma"], numbers["cost"])
    evidence = Evidence(
        expected, found.budget_price, block("gamma"), bool(found.flags & 1), bool(found.flags & 2), block("worth")
    )
    names = context.names
    if found.model not in names or (found.drawn and found.drawn not in names):
        raise ValueError(f"{found.decision_id}: {found.model or 'nobody'} is not among its candidates")
    return DecisionRecord(
        context,
        evidence,
        numbers["probabilities"],
        found.model,
        found.policy,
        found.version,
        found.key_id,
        found.backend,
        found.drawn,
        found.text,
        found.metadata,
        found.space,
        found.text_id,
    )


def _blocks(found: PackedRecord, arms: int) -> dict[str, NDArray[np.float64]]:
    """(n,) each of ROWS that is there. Raises: ValueError where bytes are missing or too many."""
    there = [row for place, row in enumerate(ROWS) if found.rows >> place & 1]
    if there[:ALWAYS] != list(ROWS[:ALWAYS]) or found.rows >> len(ROWS) or len(found.numbers) != 8 * len(there) * arms:
        raise ValueError(f"{found.decision_id}: {len(found.numbers)} bytes do not fit {arms} candidates")
    return dict(zip(there, np.frombuffer(found.numbers, _DOUBLE).reshape(len(there), arms), strict=True))


@lru_cache(maxsize=MOST_KEPT)
def _known_arms(raw: bytes) -> tuple[Arm, ...]:
    """The same tuple for the same bytes, so that whoever keeps something by arms finds it again."""
    arms = _decode_arms(raw)
    if not 0 < len(arms) <= MOST_ARMS:
        raise ValueError(f"there are {len(arms)} candidates, expected 1 … {MOST_ARMS}")
    return arms
