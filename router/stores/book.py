"""The book: budgets, limits and holds as a state machine over an ordered journal. Pure: no clock, no disk.

Every process that follows the same journal has the same book. A page of balances that was stored at some position
ignores what the journal says up to there, so the book can be stored piece by piece while it goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import compress

import msgspec

from router.stores.limits import (
    DAY_MS,
    Charge,
    Charges,
    Gauge,
    Plan,
    PlanCache,
    Ticket,
    calendar_slots,
    day_of,
    need_of,
    plan_of,
    scopes_and_terms,
    wait_ms,
)
from router.stores.pages import Account, Line, LineKey, Meter, Page, page_of
from router.types import Offer, Reservation

FOREVER_MS = 1 << 62
EXPIRED_REMEMBERED = 10_000
BOUND = 120_000  # charges whose meters are known


class Opened(msgspec.Struct, array_like=True, tag="o"):
    """A hold was taken."""

    ticket: Ticket


class Settled(msgspec.Struct, array_like=True, tag="s"):
    """A hold ended with what it really cost. `outcome` "released": nothing was sent, everything is given back."""

    decision_id: str
    at_ms: int
    cost: int
    prompt_tokens: int
    completion_tokens: int
    outcome: str


class Expired(msgspec.Struct, array_like=True, tag="x"):
    """A lease ran out: the worst case is charged if bytes had been sent, nothing otherwise."""

    decision_id: str
    at_ms: int


class Late(msgspec.Struct, array_like=True, tag="l"):
    """A hold was settled after its lease had run out: the charge becomes the real one."""

    ticket: Ticket
    expired_ms: int
    charged: int
    settled: Settled


class Marked(msgspec.Struct, array_like=True, tag="m"):
    """Bytes of these answers were relayed."""

    decision_ids: tuple[str, ...]


class Renewed(msgspec.Struct, array_like=True, tag="n"):
    """A lease goes on; the ticket is repeated so that older journal may be forgotten."""

    ticket: Ticket


class KeysChanged(msgspec.Struct, array_like=True, tag="k"):
    """A tenant, a team or a key is not what it was. The entry's position is the new edition of the keys."""


Event = Opened | Settled | Expired | Late | Marked | Renewed | KeysChanged
NO_KEY: LineKey = ("", "", "", "", "")


class Bound:
    """Where holds of the same charges count: meters and pages, and the spend line they ended on last."""

    __slots__ = ("home", "is_apart", "key", "line", "meters", "pages", "scopes", "soft", "terms")

    def __init__(
        self, terms: Charges, scopes: tuple[str, ...], meters: tuple[Meter, ...], pages: tuple[Page, ...]
    ) -> None:
        self.terms, self.scopes, self.meters = terms, scopes, meters  # of each charge
        self.pages = pages
        self.soft = any(charge.soft for charge in terms)
        self.key, self.home, self.is_apart = NO_KEY, NOWHERE, True
        self.line: Line = []


NOWHERE = Page(-1, 0, {}, {})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no offer fits, and when the first one would."""

    gauge: Gauge
    used: int
    need: int
    wait_ms: int


class Found(msgspec.Struct, frozen=True, gc=False):
    """An offer that fits."""

    ticket: Ticket
    offer: Offer
    plan: Plan
    used: list[int]  # of each gauge, this request included


@dataclass(frozen=True, slots=True)
class Note:
    """Something the audit log should show."""

    kind: str
    at_ms: int
    decision_id: str
    detail: dict[str, object]


class Book:
    """State after a prefix of the journal.

    `load` fetches a stored page, and `load_line` a spend line that has left its page, with the position up to which it
    knows; None where there is none.
    """

    def __init__(
        self, *, load: Callable[[int], Page | None], load_line: Callable[[LineKey], tuple[Line, int] | None]
    ) -> None:
        self.position = 0
        self.holds: dict[str, Ticket] = {}
        self.expired: dict[str, tuple[Ticket, int, int]] = {}
        self.edition = 0  # of the keys
        self.earliest_ms = FOREVER_MS  # no hold expires before this
        self.pages: dict[int, Page] = {}
        self.size = 0  # accounts and spend lines on these pages
        self.dirty: deque[Page] = deque()  # not stored as they are, by `since`
        self.notes: list[Note] = []
        self._load, self._load_line = load, load_line
        self._stored_at = 0  # what comes after this is on no page yet
        self._known: dict[str | LineKey, int] = {}  # accounts and lines that are newer than their pages
        self._plans = PlanCache(plan_of)
        self._bound: dict[bytes, Bound] = {}
        self._counting: dict[str, Bound] = {}  # what the holds of this process were decided on
        self._generation = object()
        self._day, self._date = -1, ""
        self._slots: dict[str, int] = {}  # of each calendar on that day

    # reading

    def page(self, scope: str) -> Page:
        """The page of a scope; fetched or new at first sight."""
        number = page_of(scope)
        page = self.pages.get(number)
        if page is None:
            page = self.pages[number] = self._load(number) or Page(number, 0, {}, {})
            self.size += len(page.accounts) + len(page.lines)
            self._stored_at = max(self._stored_at, page.at)
        return page

    def _account(self, page: Page, scope: str) -> Account:
        account = page.accounts.get(scope)
        if account is None:
            account = page.accounts[scope] = {}
            self.size += 1
        return account

    def adopt(self, scope: str, account: Account, seq: int) -> None:
        """An account from elsewhere, which knows what the journal says up to `seq`."""
        self.page(scope).accounts[scope] = account
        self._known[scope] = seq
        self._stored_at = max(self._stored_at, seq)

    def _line(self, page: Page, key: LineKey) -> Line:
        """The spend line of this key; fetched or new at first sight."""
        line = page.lines.get(key)
        if line is None:
            line, seq = self._load_line(key) or ([0, 0, 0, 0], 0)
            page.lines[key] = line
            self.size += 1
            if seq > page.at:
                self._known[key] = seq
                self._stored_at = max(self._stored_at, seq)
        return line

    def rolled(self, gauge: Gauge, now_ms: int) -> Meter:
        """The gauge's meter as of now."""
        meter = self.page(gauge.scope).accounts.get(gauge.scope, {}).get(gauge.meter) or Meter()
        meter.roll(gauge.slot(now_ms), gauge.keep)
        return meter

    def shrink(self) -> None:
        """Keep only what is not stored yet; the rest is fetched again when it is asked for."""
        self.pages = {number: page for number, page in self.pages.items() if page.since}
        self.size = sum(len(page.accounts) + len(page.lines) for page in self.pages.values())
        self._bound.clear()
        self._counting.clear()
        self._generation = object()

    def _bind_plan(self, plan: Plan) -> None:
        """Find where the plan's gauges count."""
        scopes = tuple([gauge.scope for gauge in plan.gauges])
        bound = self._bind(scopes, plan.alike)
        plan.meters, plan.owner = bound.meters, self._generation
        plan.bound = bound if plan.charged is plan.gauges else None

    def _charged(self, charges: bytes) -> Bound:
        return self._bound.get(charges) or self._bind_anew(charges)

    def _bind_anew(self, charges: bytes) -> Bound:
        if len(self._bound) >= BOUND:
            self._bound.clear()
        bound = self._bound[charges] = self._bind(*scopes_and_terms(charges))
        return bound

    def _bind(self, scopes: tuple[str, ...], terms: Charges) -> Bound:
        account: Account = {}
        pages: list[Page] = []
        meters, last = [], None
        for scope, term in zip(scopes, terms, strict=True):
            if scope != last:  # charges of one scope follow each other
                last, page = scope, self.page(scope)
                account = self._account(page, scope)
                if page not in pages:
                    pages.append(page)
            name = term.meter
            meter = account.get(name)
            if meter is None:
                meter = account[name] = Meter()
            meters.append(meter)
        return Bound(terms, scopes, tuple(meters), tuple(pages))

    def _uncounted(self, seq: int, bound: Bound) -> Iterable[tuple[Charge | Gauge, Meter]]:
        """The charges that do not know this entry yet."""
        fresh = [not self._knows(self.page(scope), scope, seq) for scope in bound.scopes]
        return compress(zip(bound.terms, bound.meters, strict=True), fresh)

    def _knows(self, page: Page, what: str | LineKey, seq: int) -> bool:
        return seq <= page.at or seq <= self._known.get(what, 0)

    def _slot(self, calendar: str, at_ms: int) -> int:
        day = at_ms // DAY_MS
        if day != self._day:
            self._day, self._date, self._slots = day, day_of(at_ms), calendar_slots(day)
        return self._slots[calendar]

    def may_note(self, ticket: Ticket, end: Settled) -> bool:
        """Whether ending this hold may give the audit log something to show."""
        bound = self._counting.get(ticket.decision_id) or self._charged(ticket.charges)
        return end.cost > ticket.amount or bound.soft

    def due(self, now_ms: int) -> list[str]:
        """Decision ids of the holds whose lease has run out."""
        if now_ms < self.earliest_ms:
            return []
        due = [i for i, ticket in self.holds.items() if ticket.expires_ms <= now_ms]
        if not due:
            self.earliest_ms = min((t.expires_ms for t in self.holds.values()), default=FOREVER_MS)
        return due

    # deciding

    def consider(self, reservation: Reservation) -> Found | Refusal:
        """The first offer that fits every gauge, or why none does. Changes nothing."""
        refusal: Refusal | None = None
        for offer in reservation.offers:
            plan = self._plans.of(reservation.principal, offer)
            used = self._used(plan, offer, reservation.now_ms)
            if used is not None:
                return Found(ticket_of(reservation, offer, plan), offer, plan, used)
            found = self._refusal(plan, offer, reservation.now_ms)
            if refusal is None or found.wait_ms < refusal.wait_ms:
                refusal = found
        if refusal is None:
            raise ValueError("a reservation needs at least one offer")
        return refusal

    def _used(self, plan: Plan, offer: Offer, now_ms: int) -> list[int] | None:
        """How much of each gauge would be used with this offer; None where one of them stands in the way.

        Long and flat, as `open` and `_close` are: on six meters, calls would cost more than what they do.
        """
        after = []
        worst, tokens = offer.worst, offer.tokens
        if plan.owner is not self._generation:
            self._bind_plan(plan)
        for gauge, meter in zip(plan.alike, plan.meters, strict=True):
            kind = gauge.kind
            if kind == "concurrent":
                used = meter.held + 1
            else:
                calendar = gauge.calendar
                slot = now_ms // gauge.width_ms if calendar is None else self._slot(calendar, now_ms)
                if slot > meter.slot:
                    meter.roll(slot, gauge.keep)
                used = meter.total + meter.held + (worst if kind == "budget" else tokens if kind == "tokens" else 1)
            if used > gauge.limit and gauge.hard:
                return None
            after.append(used)
        return after

    def _refusal(self, plan: Plan, offer: Offer, now_ms: int) -> Refusal:
        """The gauge that stands in the way longest."""
        refusals = []
        for gauge in plan.gauges:
            meter = self.rolled(gauge, now_ms)
            need = need_of(gauge.kind, worst=offer.worst, tokens=offer.tokens)
            used = meter.total + meter.held
            if used + need > gauge.limit and gauge.hard:
                refusals.append(Refusal(gauge, used, need, wait_ms(meter, gauge, need, now_ms)))
        return max(refusals, key=lambda refusal: refusal.wait_ms)

    # following the journal

    def apply(self, seq: int, event: Event) -> None:
        """Take one journal entry in; `seq` grows by one each time."""
        if isinstance(event, Opened):
            self.open(seq, event.ticket)
        elif isinstance(event, Settled):
            self.settle(seq, event)
        elif isinstance(event, Expired):
            self._expire(seq, event)
        elif isinstance(event, Renewed):
            self._renew(seq, event.ticket)
        elif isinstance(event, Marked):
            for decision_id in event.decision_ids:
                if decision_id in self.holds:
                    self.holds[decision_id].sent = True
        elif isinstance(event, KeysChanged):
            self.edition = seq
        else:
            self._late(seq, event)
        self.position = seq

    def open(self, seq: int, ticket: Ticket, plan: Plan | None = None) -> None:
        """As `apply` of Opened. `plan`: what it was decided on, if here."""
        self.position = seq
        ticket.seq = seq
        self.holds[ticket.decision_id] = ticket
        self.earliest_ms = min(self.earliest_ms, ticket.expires_ms)
        bound: Bound | None = None if plan is None else plan.bound
        if bound is None:
            bound = self._charged(ticket.charges)
        else:
            self._counting[ticket.decision_id] = bound
        every = zip(bound.terms, bound.meters, strict=True)
        for charge, meter in every if seq > self._stored_at else self._uncounted(seq, bound):
            kind = charge.kind
            if kind == "budget":
                meter.held += ticket.amount
            elif kind == "concurrent":
                meter.held += 1
            else:
                amount = ticket.tokens if kind == "tokens" else 1
                slot = ticket.at_ms // charge.width_ms
                if slot == meter.slot:
                    meter.now += amount
                    meter.total += amount
                else:
                    meter.count(slot, charge.keep, amount)
        self._soil(seq, bound.pages)

    def _soil(self, seq: int, pages: tuple[Page, ...]) -> None:
        """These pages are not what was stored."""
        for page in pages:
            if not page.since and seq > page.at:
                page.since = seq
                self.dirty.append(page)

    def settle(self, seq: int, end: Settled) -> None:
        """As `apply` of Settled."""
        self.position = seq
        ticket = self.holds.pop(end.decision_id, None)
        if ticket is not None:
            self._close(seq, ticket, end)

    def _renew(self, seq: int, ticket: Ticket) -> None:
        ticket.seq = seq
        known = self.holds.get(ticket.decision_id)
        ticket.sent = ticket.sent or (known is not None and known.sent)
        self.holds[ticket.decision_id] = ticket
        self.earliest_ms = min(self.earliest_ms, ticket.expires_ms)

    def _expire(self, seq: int, event: Expired) -> None:
        ticket = self.holds.pop(event.decision_id, None)
        if ticket is None:
            return
        cost = ticket.amount if ticket.sent else 0
        outcome = "expired" if ticket.sent else "released"
        self._close(seq, ticket, Settled(ticket.decision_id, event.at_ms, cost, 0, 0, outcome))
        while len(self.expired) >= EXPIRED_REMEMBERED:
            self.expired.pop(next(iter(self.expired)))
        self.expired[ticket.decision_id] = (ticket, event.at_ms, cost)
        overdue = event.at_ms - ticket.expires_ms
        self._note("hold." + outcome, event.at_ms, ticket, charged=cost, reason="the lease ran out", overdue_ms=overdue)

    def _close(self, seq: int, ticket: Ticket, end: Settled) -> None:
        cost, at_ms = end.cost, end.at_ms
        bound = self._counting.pop(ticket.decision_id, None) or self._charged(ticket.charges)
        every = zip(bound.terms, bound.meters, strict=True)
        for charge, meter in every if seq > self._stored_at else self._uncounted(seq, bound):
            kind = charge.kind
            if kind == "budget":
                meter.held -= ticket.amount
                if cost:
                    calendar = charge.calendar
                    slot = at_ms // charge.width_ms if calendar is None else self._slot(calendar, at_ms)
                    if slot == meter.slot:
                        meter.now += cost
                        meter.total += cost
                    else:
                        meter.count(slot, charge.keep, cost)
            elif kind == "concurrent":
                meter.held -= 1
            elif end.outcome == "released":
                meter.correct(ticket.at_ms // charge.width_ms, -ticket.tokens if kind == "tokens" else -1)
            elif kind == "tokens" and end.outcome == "settled":
                excess = ticket.tokens - end.prompt_tokens - end.completion_tokens
                meter.correct(ticket.at_ms // charge.width_ms, -excess)
        self._soil(seq, bound.pages)
        if bound.soft and cost:
            self._cross(bound, end, cost)
        if end.outcome != "released":
            self._add_to_line(seq, ticket, end, bound, requests=1, cost=cost)
        if cost > ticket.amount:
            reason = "the answer cost more than its worst case"
            self._note("hold.over", end.at_ms, ticket, charged=cost, reason=reason)

    def _cross(self, bound: Bound, end: Settled, cost: int) -> None:
        """Note which soft limits were just crossed by this cost."""
        for charge, scope, meter in zip(bound.terms, bound.scopes, bound.meters, strict=True):
            spent = meter.total
            detail: dict[str, object] = {"budget": f"{scope}#{charge.meter}", "spent": spent, "limit": charge.soft}
            for percent in crossed(spent - cost, spent, charge.soft):
                self.notes.append(Note(f"budget.{percent}%", end.at_ms, end.decision_id, detail))

    def _late(self, seq: int, event: Late) -> None:
        end, delta = event.settled, event.settled.cost - event.charged
        self.expired.pop(end.decision_id, None)
        bound = self._charged(event.ticket.charges)
        for charge, meter in self._uncounted(seq, bound):
            if charge.kind != "budget":
                continue
            if delta < 0:
                meter.correct(charge.slot(event.expired_ms), delta)
            elif delta:
                meter.count(charge.slot(end.at_ms), charge.keep, delta)
        self._soil(seq, bound.pages)
        if delta > 0:
            self._cross(bound, end, delta)
        requests = -1 if end.outcome == "released" else 0 if event.charged else 1
        self._add_to_line(seq, event.ticket, end, bound, requests=requests, cost=delta)
        self._note("hold.late", end.at_ms, event.ticket, charged=end.cost, was_charged=event.charged)

    def _add_to_line(self, seq: int, ticket: Ticket, end: Settled, bound: Bound, *, requests: int, cost: int) -> None:
        if end.at_ms // DAY_MS != self._day:
            self._slot("day", end.at_ms)
        key = (self._date, ticket.tenant, ticket.team, ticket.key_id, ticket.model)
        if bound.key != key or not bound.line:
            bound.key, bound.home = key, self.page(f"key:{ticket.key_id}")
            bound.line, bound.is_apart = self._line(bound.home, key), bound.home not in bound.pages
        if seq <= self._stored_at and self._knows(bound.home, key, seq):
            return
        line = bound.line
        line[0] += requests
        line[1] += end.prompt_tokens
        line[2] += end.completion_tokens
        line[3] += cost
        if bound.is_apart:
            self._soil(seq, (bound.home,))

    def _note(self, kind: str, at_ms: int, ticket: Ticket, **detail: object) -> None:
        who = {"tenant": ticket.tenant, "key": ticket.key_id, "model": ticket.model, "held": ticket.amount}
        self.notes.append(Note(kind, at_ms, ticket.decision_id, {**who, **detail}))


def ticket_of(reservation: Reservation, offer: Offer, plan: Plan) -> Ticket:
    """The ticket of a hold about to be taken."""
    now, who = reservation.now_ms, reservation.principal
    expires = now + reservation.ttl_ms
    return Ticket(
        reservation.decision_id,
        offer.model,
        who.tenant,
        who.team or "",
        who.key_id,
        offer.worst,
        offer.tokens,
        now,
        expires,
        max(expires, now + reservation.longest_ms),
        False,
        plan.charges,
    )


def crossed(before: int, after: int, limit: int) -> Iterator[int]:
    """Which of 80 and 100 percent of a limit lie in (before, after]; none where the limit is 0."""
    for percent in (80, 100):
        if limit and before * 100 < limit * percent <= after * 100:
            yield percent
