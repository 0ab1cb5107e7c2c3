"""Limits: how budgets and rate limits are counted, whatever the store. Pure integer arithmetic; fails nowhere.

Amounts are counted in time slots. A rolling period of P is cut into 60 slots and a slot counts until all of it has
left the period. So no window of length P ever holds more than the limit, and what was spent is free again at most P/60
late. A calendar period is one slot that nothing outlives.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Generic, Literal, TypeVar, cast

import msgspec

from router.types import Budget, Offer, Principal, RateLimit

Kind = Literal["budget", "requests", "tokens", "concurrent"]

P = TypeVar("P")
SLOTS = 60  # of one rolling period
REMEMBERED = 120_000  # plans of keys and models, about 2 kB each
DAY_MS = 86_400_000
MINUTE_MS = 60_000
CALENDARS = ("day", "week", "month", "year")


class Limit(msgspec.Struct, frozen=True, gc=False):
    """One limit on what one counter has counted."""

    scope: str
    meter: str  # its name within the scope; limits of one period share it
    kind: Kind
    limit: int  # nano-USD, requests, tokens or requests at once
    hard: bool
    width_ms: int  # of a slot; 0 where `calendar` rules
    keep: int  # past slots that still count
    calendar: str | None = None


class Window(msgspec.Struct, frozen=True, gc=False):
    """How long something counts, as the name of its meter says it."""

    kind: Kind
    width_ms: int  # of a slot; 0 where `calendar` rules
    keep: int  # past slots that still count
    calendar: str | None = None

    def ends_ms(self, at_ms: int) -> int:
        """When what is counted at this moment stops counting; 0 where it counts until it is given back."""
        if self.calendar is not None:
            return _calendar_end_ms(self.calendar, at_ms // DAY_MS)
        if self.kind == "concurrent":
            return 0
        return (at_ms // self.width_ms + self.keep + 1) * self.width_ms


@lru_cache(maxsize=1024)
def window_of(meter: str) -> Window:
    """The window of a meter: "3600" rolls over so many seconds, "month" is of the calendar."""
    if meter in ("requests", "tokens", "concurrent"):
        return Window(cast(Kind, meter), MINUTE_MS // SLOTS, SLOTS)
    if meter in CALENDARS:
        return Window("budget", 0, 0, meter)
    return Window("budget", int(meter) * 1000 // SLOTS, SLOTS)


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


@lru_cache(maxsize=1024)
def _calendar_end_ms(calendar: str, day: int) -> int:
    return _calendar_start_ms(calendar, _calendar_slot(calendar, day) + 1)


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


def of_budget(budget: Budget) -> Limit:
    """The limit of a budget."""
    return _limit_on(budget.scope, budget.calendar or str(budget.period_s), budget.limit, hard=budget.hard)


def _limit_on(scope: str, meter: str, limit: int, *, hard: bool = True) -> Limit:
    window = window_of(meter)
    return Limit(scope, meter, window.kind, limit, hard, window.width_ms, window.keep, window.calendar)


def of_limit(limit: RateLimit) -> Iterator[Limit]:
    """The limits of a rate limit: one for each thing it limits."""
    if limit.requests_per_minute is not None:
        yield _limit_on(limit.scope, "requests", limit.requests_per_minute)
    if limit.tokens_per_minute is not None:
        yield _limit_on(limit.scope, "tokens", limit.tokens_per_minute)
    if limit.concurrent is not None:
        yield _limit_on(limit.scope, "concurrent", limit.concurrent)


def limits_of(principal: Principal, offer: Offer) -> tuple[Limit, ...]:
    """Every limit a request of this principal to this offer must pass.

    A principal's budget or limit whose scope ends in "|model:NAME" holds for that model only, and for programs that
    may call it.
    """
    mark, models = "|model:", (offer.model, *offer.members)
    found = []
    for budgets in (principal.budgets, offer.budgets):
        found += [of_budget(b) for b in budgets if mark not in b.scope or b.scope.partition(mark)[2] in models]
    for limits in (principal.limits, offer.limits):
        for limit in limits:
            if mark not in limit.scope or limit.scope.partition(mark)[2] in models:
                found += of_limit(limit)
    return tuple(found)


class Shown(msgspec.Struct, frozen=True, gc=False):
    """Which of some limits, by their place, a caller is told of: in headers, or by a warning where they are soft."""

    requests: tuple[int, ...]
    tokens: tuple[int, ...]
    soft: tuple[int, ...]


def shown_of(limits: tuple[Limit, ...]) -> Shown:
    """What to tell of these; the same object for all that are alike."""
    return _shown(tuple([limit.kind if limit.hard else "soft" for limit in limits]))


@lru_cache(maxsize=1024)
def _shown(kinds: tuple[str, ...]) -> Shown:
    def places(kind: str) -> tuple[int, ...]:
        return tuple(place for place, found in enumerate(kinds) if found == kind)

    return Shown(places("requests"), places("tokens"), places("soft"))


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
    if a.members != b.members:
        return False
    return (a.budgets is b.budgets or a.budgets == b.budgets) and (a.limits is b.limits or a.limits == b.limits)
