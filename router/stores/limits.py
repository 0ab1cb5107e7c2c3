"""Meters: how budgets and rate limits are counted, whatever the store. Pure integer arithmetic; fails nowhere.

A meter counts amounts in time slots. A rolling period of P is cut into 60 slots and a slot counts until all of it has
left the period, so no window of length P ever holds more than the limit, and what was spent is free again at most P/60
late. A calendar period is one slot that nothing outlives.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar

import msgspec

from router.stores.pages import Meter
from router.types import Budget, Offer, Principal, RateLimit

Kind = Literal["budget", "requests", "tokens", "concurrent"]

P = TypeVar("P")
SLOTS = 60  # of one rolling period
REMEMBERED = 120_000  # plans of keys and models, about 2 kB each
DAY_MS = 86_400_000
MINUTE_MS = 60_000


class Gauge(msgspec.Struct, frozen=True, gc=False):
    """One limit on one meter."""

    scope: str
    meter: str  # its name within the scope; gauges of one period share it
    kind: Kind
    limit: int  # nano-USD, requests, tokens or requests at once
    hard: bool
    width_ms: int  # of a slot; 0 where `calendar` rules
    keep: int  # past slots that still count
    calendar: str | None = None
    soft: int = 0  # the limit, where its crossing is an event instead of a refusal

    def slot(self, at_ms: int) -> int:
        """Number of the slot this moment falls into."""
        return slot_of(at_ms, width_ms=self.width_ms, calendar=self.calendar)

    def ends_ms(self, slot: int) -> int:
        """When what was counted in this slot stops counting."""
        if self.calendar is not None:
            return _calendar_start_ms(self.calendar, slot + 1)
        return (slot + self.keep + 1) * self.width_ms


def slot_of(at_ms: int, *, width_ms: int, calendar: str | None) -> int:
    """Number of a slot: since 1970 for a fixed width, of the UTC calendar else."""
    return at_ms // width_ms if calendar is None else _calendar_slot(calendar, at_ms // DAY_MS)


@lru_cache(maxsize=1024)
def _calendar_slot(calendar: str, day: int) -> int:
    if calendar == "day":
        return day
    if calendar == "week":
        return (day + 3) // 7  # 1970-01-01 was a Thursday; weeks begin on Monday
    date = dt.date(1970, 1, 1) + dt.timedelta(days=day)
    return date.year if calendar == "year" else date.year * 12 + date.month - 1


@lru_cache(maxsize=1024)
def _calendar_start_ms(calendar: str, slot: int) -> int:
    if calendar == "day":
        return slot * DAY_MS
    if calendar == "week":
        return (slot * 7 - 3) * DAY_MS
    date = dt.date(slot, 1, 1) if calendar == "year" else dt.date(slot // 12, slot % 12 + 1, 1)
    return (date - dt.date(1970, 1, 1)).days * DAY_MS


CALENDARS = ("day", "week", "month", "year")


def calendar_slots(day: int) -> dict[str, int]:
    """Number of each calendar's slot on a UTC day, counted since 1970."""
    return {calendar: _calendar_slot(calendar, day) for calendar in CALENDARS}


def calendar_bounds(calendar: str, at_ms: int) -> tuple[int, int, int]:
    """(slot, start, end) of the calendar period that contains a moment; times in milliseconds."""
    slot = _calendar_slot(calendar, at_ms // DAY_MS)
    return slot, _calendar_start_ms(calendar, slot), _calendar_start_ms(calendar, slot + 1)


def day_of(at_ms: int) -> str:
    """The UTC day of a moment, e.g. 2026-11-23."""
    return _day(at_ms // DAY_MS)


@lru_cache(maxsize=1024)
def _day(day: int) -> str:
    return (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()


def wait_ms(meter: Meter, gauge: Gauge, need: int, now_ms: int) -> int:
    """Milliseconds until `need` fits, if nothing else comes. Holds are taken to last."""
    if gauge.kind == "concurrent":
        return 1000
    over = meter.total + meter.held + need - gauge.limit
    for slot, amount in meter.counted():
        over -= amount
        if over <= 0:
            return max(1, gauge.ends_ms(slot) - now_ms)
    return max(1, gauge.ends_ms(gauge.slot(now_ms)) - now_ms)


def of_budget(budget: Budget) -> Gauge:
    """The gauge of a budget."""
    calendar = budget.calendar
    if calendar is not None:
        width, keep, name = 0, 0, calendar
    else:
        width, keep, name = budget.period_s * 1000 // SLOTS, SLOTS, f"{budget.period_s}"
    return Gauge(
        scope=budget.scope,
        meter=name,
        kind="budget",
        limit=budget.limit,
        hard=budget.hard,
        width_ms=width,
        keep=keep,
        calendar=calendar,
        soft=0 if budget.hard else budget.limit,
    )


def of_limit(limit: RateLimit) -> Iterator[Gauge]:
    """The gauges of a rate limit: one for each thing it limits."""
    if limit.requests_per_minute is not None:
        yield _rate(limit.scope, "requests", limit.requests_per_minute)
    if limit.tokens_per_minute is not None:
        yield _rate(limit.scope, "tokens", limit.tokens_per_minute)
    if limit.concurrent is not None:
        yield _rate(limit.scope, "concurrent", limit.concurrent)


def _rate(scope: str, kind: Kind, limit: int) -> Gauge:
    return Gauge(scope, kind, kind, limit, True, MINUTE_MS // SLOTS, SLOTS)


def gauges_of(principal: Principal, offer: Offer) -> tuple[Gauge, ...]:
    """Every gauge a request of this principal to this offer must pass.

    A principal's budget or limit whose scope ends in "|model:NAME" holds for that model only.
    """
    mark, model = "|model:", offer.model
    gauges = []
    for budgets in (principal.budgets, offer.budgets):
        gauges += [of_budget(b) for b in budgets if mark not in b.scope or b.scope.partition(mark)[2] == model]
    for limits in (principal.limits, offer.limits):
        for limit in limits:
            if mark not in limit.scope or limit.scope.partition(mark)[2] == model:
                gauges += of_limit(limit)
    return tuple(gauges)


class Charge(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One meter a hold counts on, and how to count there. The slot follows from the time, the amount from the hold."""

    scope: str
    meter: str
    kind: str
    width_ms: int
    keep: int
    calendar: str | None
    soft: int  # the soft limit whose crossing is an event; 0: none

    def slot(self, at_ms: int) -> int:
        """As Gauge.slot."""
        return slot_of(at_ms, width_ms=self.width_ms, calendar=self.calendar)


Charges = tuple[Charge | Gauge, ...]  # one for each meter; a gauge says all that a charge does


class Ticket(msgspec.Struct, array_like=True, gc=False):
    """A hold as the stores keep it: enough to end it even where the store has forgotten it."""

    decision_id: str
    model: str
    tenant: str
    team: str
    key_id: str
    amount: int
    tokens: int
    at_ms: int
    expires_ms: int
    ends_ms: int  # never renewed beyond
    sent: bool
    charges: bytes  # see charges_in
    seq: int = 0


class Shown(msgspec.Struct, frozen=True, gc=False):
    """Which of some gauges, by their place, a caller is told of: in headers, or by a warning where they are soft."""

    requests: tuple[int, ...]
    tokens: tuple[int, ...]
    soft: tuple[int, ...]


def shown_of(gauges: tuple[Gauge, ...]) -> Shown:
    """What to tell of these; the same object for all that are alike."""
    return _shown(tuple([gauge.kind if gauge.hard else "soft" for gauge in gauges]))


@lru_cache(maxsize=1024)
def _shown(kinds: tuple[str, ...]) -> Shown:
    def places(kind: str) -> tuple[int, ...]:
        return tuple(place for place, found in enumerate(kinds) if found == kind)

    return Shown(places("requests"), places("tokens"), places("soft"))


class Plan(msgspec.Struct):
    """Everything a request of one principal to one offer must pass, and where it will count."""

    gauges: tuple[Gauge, ...]
    alike: tuple[Gauge, ...]  # the same without scopes: one object for all principals on the same terms
    shown: Shown
    charged: Charges
    charges: bytes  # the same, as a ticket keeps them
    meters: tuple[Meter, ...] = ()  # the gauges' meters as `owner` found them last
    bound: Any = None  # what else it found
    owner: object = None


def plan_of(principal: Principal, offer: Offer) -> Plan:
    """One charge for each meter among the gauges."""
    gauges = gauges_of(principal, offer)
    charged: Charges = gauges
    if len({(g.scope, g.meter) for g in gauges}) < len(gauges):
        charged = _merged(gauges)
    rows = [(g.scope, g.meter, g.kind, g.width_ms, g.keep, g.calendar, g.soft) for g in charged]
    return Plan(gauges, alike(gauges), shown_of(gauges), charged, _encode(rows))


def alike(charged: Iterable[Charge | Gauge]) -> tuple[Any, ...]:
    """These without their scopes; the same object for all that are alike.

    With a hundred thousand tenants what each of them has for itself is in no cache of the processor.
    """
    return _alike(tuple([_unscoped(each) for each in charged]))


def _unscoped(each: Charge | Gauge) -> Charge | Gauge:
    if isinstance(each, Gauge):
        return Gauge(
            "", each.meter, each.kind, each.limit, each.hard, each.width_ms, each.keep, each.calendar, each.soft
        )
    return Charge("", each.meter, each.kind, each.width_ms, each.keep, each.calendar, each.soft)


@lru_cache(maxsize=1024)
def _alike(charged: tuple[Any, ...]) -> tuple[Any, ...]:
    return charged


def _merged(gauges: tuple[Gauge, ...]) -> Charges:
    charges: dict[tuple[str, str], Charge] = {}
    for g in gauges:
        known = charges.get((g.scope, g.meter))
        if known is None or (known.soft == 0 and not g.hard):
            charges[g.scope, g.meter] = Charge(g.scope, g.meter, g.kind, g.width_ms, g.keep, g.calendar, g.soft)
    return tuple(charges.values())


_encode = msgspec.msgpack.Encoder().encode
_decode_charges = msgspec.msgpack.Decoder(tuple[Charge, ...]).decode
_decode_rows = msgspec.msgpack.Decoder(tuple[tuple[str, str, str, int, int, str | None, int], ...]).decode


def charges_in(charges: bytes) -> tuple[Charge, ...]:
    """The charges of a ticket."""
    return _decode_charges(charges)


def scopes_and_terms(charges: bytes) -> tuple[tuple[str, ...], tuple[Charge, ...]]:
    """The scopes of a ticket's charges, and these without their scopes as `alike` gives them."""
    rows = _decode_rows(charges)
    return tuple([row[0] for row in rows]), _terms(tuple([row[1:] for row in rows]))


@lru_cache(maxsize=1024)
def _terms(rows: tuple[tuple[Any, ...], ...]) -> tuple[Charge, ...]:
    return tuple(Charge("", *row) for row in rows)


class PlanCache(Generic[P]):
    """Plans of principals and offers, made once while the same objects come back. Bounded."""

    def __init__(self, make: Callable[[Principal, Offer], P], *, size: int = REMEMBERED) -> None:
        self._make, self._size = make, size
        self._known: dict[str, dict[str, tuple[Principal, Offer, P]]] = {}  # by model and key
        self._count = 0

    def of(self, principal: Principal, offer: Offer) -> P:
        """The plan of a request of this principal to this offer."""
        of_model = self._known.get(offer.model)
        if of_model is not None:
            known = of_model.get(principal.key_id)
            if known is not None and known[0] is principal and (known[1] is offer or _same(known[1], offer)):
                return known[2]
        return self._made(principal, offer)

    def _made(self, principal: Principal, offer: Offer) -> P:
        if self._count >= self._size:
            self._known.clear()
            self._count = 0
        plan = self._make(principal, offer)
        self._known.setdefault(offer.model, {})[principal.key_id] = (principal, offer, plan)
        self._count += 1
        return plan


def _same(a: Offer, b: Offer) -> bool:
    return (a.budgets is b.budgets or a.budgets == b.budgets) and (a.limits is b.limits or a.limits == b.limits)


def need_of(kind: str, *, worst: int, tokens: int) -> int:
    """How much of a meter a request asks for."""
    if kind == "budget":
        return worst
    return tokens if kind == "tokens" else 1
