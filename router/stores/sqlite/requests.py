"""What is asked of the ledger's transactions, and what a hold counts on. Fails nowhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from router.errors import StoreUnavailable
from router.stores.limits import Limit, Shown, limits_of, shown_of
from router.stores.refusals import Refusal
from router.types import Offer, Principal, Spend

CounterKey = tuple[str, str]  # scope and meter
Counts = tuple[tuple[int, int], ...]  # counters and their soft limits, 0 where there is none

_encode = msgspec.json.Encoder().encode


class CountPlan(msgspec.Struct):
    """Everything a request of one principal to one offer must pass, and where it counts."""

    limits: tuple[Limit, ...]
    shown: Shown
    keys: tuple[CounterKey, ...]  # of each limit
    soft: dict[CounterKey, int]  # each of them once, with its soft limit or 0
    scopes: tuple[str, ...]
    ids: tuple[int, ...] | None = None  # of each limit's counter, once they are in the table; they never change
    counts: str = ""  # the same as the table of holds keeps it


def plan_of(principal: Principal, offer: Offer) -> CountPlan:
    """What stands between them."""
    limits = limits_of(principal, offer)
    keys = tuple([(limit.scope, limit.meter) for limit in limits])
    soft = dict.fromkeys(keys, 0)
    for key, limit in zip(keys, limits, strict=True):
        if not limit.hard:
            soft[key] = limit.limit
    return CountPlan(limits, shown_of(limits), keys, soft, tuple({scope: None for scope, _ in keys}))


class HeldRow(NamedTuple):
    """A row of `holds` that is being ended."""

    decision: str
    tenant: str
    team: str
    key: str
    model: str
    amount: int
    tokens: int
    at_ms: int
    expires_ms: int
    sent: int
    counts: str

    @property
    def who(self) -> tuple[str, str, str, str]:
        """Whose spend it is."""
        return self[1:5]


class Reserve:
    """Take a hold on the first of these offers that fits. Times in milliseconds."""

    __slots__ = ("choices", "decision_id", "keys_version", "longest_ms", "principal", "run", "ttl_ms")

    def __init__(
        self,
        run: Callable[[Reserve], Taken | Refusal | StoreUnavailable],
        decision_id: str,
        principal: Principal,
        *,
        ttl_ms: int,
        longest_ms: int,
    ) -> None:
        self.run = run
        self.decision_id, self.principal, self.ttl_ms, self.longest_ms = decision_id, principal, ttl_ms, longest_ms
        self.choices: list[tuple[Offer, CountPlan]] = []
        self.keys_version = 0  # of the keys, once it is done

    def __call__(self) -> Taken | Refusal | StoreUnavailable:
        """See Accounting.reserve."""
        return self.run(self)


class Taken(NamedTuple):
    """An offer that fits, how much of each limit is used, this request included, and until when it is held."""

    offer: Offer
    plan: CountPlan
    used: list[int]
    now_ms: int


class End:
    """End a hold with what it really cost; false where its lease ended before anything was sent."""

    __slots__ = ("decision_id", "refused", "run", "spend")

    def __init__(self, run: Callable[[End], bool], decision_id: str, spend: Spend) -> None:
        self.run = run
        self.decision_id, self.spend = decision_id, spend
        self.refused: str | None = None  # why it is charged at its worst case

    def __call__(self) -> bool:
        """See Accounting.end."""
        return self.run(self)


class Sweep:
    """End what has run out, as every transaction with money does at its beginning."""

    def __call__(self) -> None:
        """It was done at the beginning."""


def counts_of(plan: CountPlan, ids: tuple[int, ...]) -> str:
    """Where a hold counts, as the table keeps it."""
    soft = {each: plan.soft[key] for each, key in zip(ids, plan.keys, strict=True)}
    return _encode(list(soft.items())).decode()
