"""What this process knows of its holds, and how the scripts are told of them. Pure; fails nowhere."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

import msgspec

from router.stores.limits import Limit, Shown, limits_of, shown_of
from router.stores.redis.wire import Argument
from router.types import Offer, Principal, Reservation, Spend

HELD, KNOWN, ANY = 0, 1, 2  # what a settlement charges: only what is held; or was, and its lease ran out; or whatever


class WirePlan(msgspec.Struct, frozen=True, gc=False):
    """The limits of one principal and offer, and the same as the scripts read them."""

    limits: tuple[Limit, ...]
    shown: Shown
    text: bytes


class Lease(msgspec.Struct, gc=False):
    """A hold of this process. Times are those of Redis."""

    decision_id: str
    who: str  # tenant, team, key and model, joined by \x1f
    amount: int
    tokens: int
    at_ms: int
    lease_ms: int
    plan: bytes
    expires_ms: int
    ends_ms: int  # never renewed beyond
    sent: bool = False  # bytes of the answer may have been relayed, and Redis knows
    ended: bool = False


class Settlement(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The end of a hold: the arguments of the settle script after the clock, in their order."""

    decision_id: str
    owner: str  # the process that took the hold
    cost: int
    prompt_tokens: int
    completion_tokens: int
    outcome: str
    who: str
    held: int
    tokens_held: int
    at_ms: int
    plan: bytes
    settled_ms: int = 0  # by Redis's clock; 0: when Redis hears of it
    charges: int = ANY
    parts: str = ""  # tokens with a price of their own: "cached 120 reasoning 40"

    def words(self) -> tuple[Argument, ...]:
        """As the script reads them."""
        return msgspec.structs.astuple(self)

    def at_worst(self) -> Settlement:
        """The same hold, ended at all that was held."""
        return msgspec.structs.replace(
            self, cost=self.held, prompt_tokens=0, completion_tokens=0, outcome="expired", parts=""
        )


def settlement(lease: Lease, owner: str, spend: Spend, *, now_ms: int, charges: int = ANY) -> Settlement:
    """How this hold ends."""
    return Settlement(
        lease.decision_id,
        owner,
        spend.cost,
        spend.prompt_tokens,
        spend.completion_tokens,
        spend.outcome,
        lease.who,
        lease.amount,
        lease.tokens,
        lease.at_ms,
        lease.plan,
        now_ms,
        charges,
        as_words(spend.kinds),
    )


def as_words(counts: Mapping[str, int]) -> str:
    """Counts by kind, as the scripts read them."""
    return " ".join(f"{kind} {count}" for kind, count in counts.items())


def of_words(parts: str) -> collections.Counter[str]:
    """The same back."""
    words = parts.split()
    return collections.Counter(dict(zip(words[::2], map(int, words[1::2]), strict=True)))


def release(r: Reservation, owner: str, who: str) -> Settlement:
    """The end of a hold that may exist, of which nothing was sent."""
    return Settlement(r.decision_id, owner, 0, 0, 0, "released", who, 0, 0, r.now_ms, b"[]", charges=KNOWN)


def as_lost(lease: Lease, owner: str, now_ms: int) -> tuple[Argument, ...]:
    """The arguments of the restore script after the clock."""
    left = (max(0, lease.expires_ms - now_ms), max(0, lease.ends_ms - now_ms))
    held = (lease.who, lease.amount, lease.tokens, lease.at_ms, int(lease.sent), lease.plan)
    return (lease.decision_id, owner, *left, *held)


def limits_text(limits: Sequence[Limit]) -> bytes:
    """Limits as the scripts read them."""
    return msgspec.json.encode(
        [(f"{g.scope}#{g.meter}", g.kind, g.limit, int(g.hard), g.width_ms, g.keep, g.calendar or "") for g in limits]
    )


def plan_of(principal: Principal, offer: Offer) -> WirePlan:
    """The limits of a request."""
    limits = limits_of(principal, offer)
    return WirePlan(limits, shown_of(limits), limits_text(limits))
