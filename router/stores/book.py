"""The book: budgets, limits and holds as a state machine over an ordered journal. Pure: no clock, no disk.

Every process that follows the same journal has the same book. A meter or spend line that was stored at position `seq`
ignores what the journal says up to `seq`, so the book can be stored piece by piece while it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from router.stores.meters import Charge, Gauge, GaugeCache, Meter, Ticket, need_of, slot_of, wait_ms
from router.types import Offer, Reservation

FOREVER_MS = 1 << 62
EXPIRED_REMEMBERED = 10_000


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


Event = Opened | Settled | Expired | Late | Marked | Renewed
LineKey = tuple[str, str, str, str, str]  # day, tenant, team, key, model


class Line:
    """What one tenant, team, key and model spent on one day."""

    __slots__ = ("completion_tokens", "cost", "prompt_tokens", "requests", "seq")

    def __init__(self) -> None:
        self.seq = self.requests = self.prompt_tokens = self.completion_tokens = self.cost = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no offer fits, and when the first one would."""

    gauge: Gauge
    used: int
    need: int
    wait_ms: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something the audit log should show."""

    kind: str
    at_ms: int
    decision_id: str
    detail: dict[str, object]


class Book:
    """State after a prefix of the journal. `load` and `load_line` fetch stored pieces, or None where there is none."""

    def __init__(
        self,
        *,
        load: Callable[[str], Meter | None],
        load_line: Callable[[LineKey], Line | None],
        day: Callable[[int], str],
    ) -> None:
        self.position = 0
        self.holds: dict[str, Ticket] = {}
        self.expired: dict[str, tuple[Ticket, int, int]] = {}
        self.earliest_ms = FOREVER_MS  # no hold expires before this
        self.meters: dict[str, Meter] = {}
        self.lines: dict[LineKey, Line] = {}
        self.dirty_meters: dict[str, int] = {}  # name -> first position not yet stored, ascending
        self.dirty_lines: dict[LineKey, int] = {}
        self.notes: list[Note] = []
        self._load, self._load_line, self._day = load, load_line, day
        self._gauges = GaugeCache()

    # reading

    def meter(self, name: str) -> Meter:
        """The meter of this name; fetched or new at first sight."""
        meter = self.meters.get(name)
        if meter is None:
            meter = self.meters[name] = self._load(name) or Meter()
        return meter

    def line(self, key: LineKey) -> Line:
        """The spend line of this key; fetched or new at first sight."""
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = self._load_line(key) or Line()
        return line

    def rolled(self, gauge: Gauge, now_ms: int) -> Meter:
        """The gauge's meter as of now."""
        meter = self.meter(gauge.meter)
        slot = now_ms // gauge.width_ms if gauge.calendar is None else gauge.slot(now_ms)
        if slot > meter.slot:
            meter.roll(slot, gauge.keep)
        return meter

    def due(self, now_ms: int) -> list[str]:
        """Decision ids of the holds whose lease has run out."""
        if now_ms < self.earliest_ms:
            return []
        due = [i for i, ticket in self.holds.items() if ticket.expires_ms <= now_ms]
        if not due:
            self.earliest_ms = min((t.expires_ms for t in self.holds.values()), default=FOREVER_MS)
        return due

    # deciding

    def consider(self, reservation: Reservation) -> tuple[Ticket, Offer, tuple[Gauge, ...]] | Refusal:
        """The first offer that fits every gauge as a ticket to be opened, or why none does. Changes nothing."""
        refusal: Refusal | None = None
        for offer in reservation.offers:
            gauges = self._gauges.of(reservation.principal, offer)
            blocked = self._blocked(gauges, offer, reservation.now_ms)
            if blocked is None:
                return self._ticket(reservation, offer, gauges), offer, gauges
            if refusal is None or blocked.wait_ms < refusal.wait_ms:
                refusal = blocked
        if refusal is None:
            raise ValueError("a reservation needs at least one offer")
        return refusal

    def _blocked(self, gauges: Iterable[Gauge], offer: Offer, now_ms: int) -> Refusal | None:
        worst: Refusal | None = None
        for gauge in gauges:
            meter = self.rolled(gauge, now_ms)
            need = need_of(gauge.kind, offer)
            used = meter.total + meter.held
            if used + need > gauge.limit and gauge.hard:
                wait = wait_ms(meter, gauge, need, now_ms)
                if worst is None or wait > worst.wait_ms:
                    worst = Refusal(gauge, used, need, wait)
        return worst

    def _ticket(self, reservation: Reservation, offer: Offer, gauges: tuple[Gauge, ...]) -> Ticket:
        now, who = reservation.now_ms, reservation.principal
        expires = now + reservation.ttl_ms
        return Ticket(
            reservation.decision_id,
            offer.model,
            who.tenant,
            who.team or "",
            who.key_id,
            offer.worst,
            now,
            expires,
            max(expires, now + reservation.longest_ms),
            False,
            charges_of(gauges, offer, now),
        )

    # following the journal

    def apply(self, seq: int, event: Event) -> None:
        """Take one journal entry in; `seq` grows by one each time."""
        self.position = seq
        if isinstance(event, Opened):
            self._open(seq, event.ticket)
        elif isinstance(event, Settled):
            ticket = self.holds.pop(event.decision_id, None)
            if ticket is not None:
                self._close(seq, ticket, event)
        elif isinstance(event, Expired):
            self._expire(seq, event)
        elif isinstance(event, Renewed):
            self._renew(seq, event.ticket)
        elif isinstance(event, Marked):
            for decision_id in event.decision_ids:
                if decision_id in self.holds:
                    self.holds[decision_id].sent = True
        else:
            self._late(seq, event)

    def _open(self, seq: int, ticket: Ticket) -> None:
        ticket.seq = seq
        self.holds[ticket.decision_id] = ticket
        self.earliest_ms = min(self.earliest_ms, ticket.expires_ms)
        for charge, meter in self._fresh(seq, ticket.charges):
            if charge.kind in ("budget", "concurrent"):
                meter.held += charge.amount
            else:
                meter.count(charge.slot, charge.keep, charge.amount)

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
        self._note("hold." + outcome, event.at_ms, ticket, charged=cost, reason="the lease ran out")

    def _close(self, seq: int, ticket: Ticket, end: Settled) -> None:
        tokens = end.prompt_tokens + end.completion_tokens
        for charge, meter in self._fresh(seq, ticket.charges):
            kind = charge.kind
            if kind == "budget":
                meter.held -= charge.amount
                if end.cost:
                    self._spend(meter, charge, end)
            elif kind == "concurrent":
                meter.held -= charge.amount
            elif end.outcome == "released":
                meter.correct(charge.slot, -charge.amount)
            elif kind == "tokens" and end.outcome == "settled":
                meter.correct(charge.slot, tokens - charge.amount)
        if end.outcome != "released":
            self._add_to_line(seq, ticket, end, requests=1, cost=end.cost)
        if end.cost > ticket.amount:
            self._note(
                "hold.over", end.at_ms, ticket, charged=end.cost, reason="the answer cost more than its worst case"
            )

    def _spend(self, meter: Meter, charge: Charge, end: Settled) -> None:
        before = meter.total
        meter.count(slot_of(end.at_ms, width_ms=charge.width_ms, calendar=charge.calendar), charge.keep, end.cost)
        for percent in crossed(before, meter.total, charge.soft):
            detail: dict[str, object] = {"budget": charge.meter, "spent": meter.total, "limit": charge.soft}
            self.notes.append(Note(f"budget.{percent}%", end.at_ms, end.decision_id, detail))

    def _late(self, seq: int, event: Late) -> None:
        end, delta = event.settled, event.settled.cost - event.charged
        self.expired.pop(end.decision_id, None)
        for charge, meter in self._fresh(seq, event.ticket.charges):
            if charge.kind != "budget":
                continue
            slot = slot_of(event.expired_ms, width_ms=charge.width_ms, calendar=charge.calendar)
            if delta < 0:
                meter.correct(slot, delta)
            elif delta:
                self._spend(meter, charge, msgspec.structs.replace(end, cost=delta))
        self._add_to_line(seq, event.ticket, end, requests=0 if event.charged else 1, cost=delta)
        self._note("hold.late", end.at_ms, event.ticket, charged=end.cost, was_charged=event.charged)

    def _fresh(self, seq: int, charges: Iterable[Charge]) -> Iterator[tuple[Charge, Meter]]:
        """Charges whose meter does not know this entry yet."""
        for charge in charges:
            meter = self.meter(charge.meter)
            if seq > meter.seq:
                meter.seq = seq
                self.dirty_meters.setdefault(charge.meter, seq)
                yield charge, meter

    def _add_to_line(self, seq: int, ticket: Ticket, end: Settled, *, requests: int, cost: int) -> None:
        key = (self._day(end.at_ms), ticket.tenant, ticket.team, ticket.key_id, ticket.model)
        line = self.line(key)
        if seq <= line.seq:
            return
        line.seq = seq
        line.requests += requests
        line.prompt_tokens += end.prompt_tokens
        line.completion_tokens += end.completion_tokens
        line.cost += cost
        self.dirty_lines.setdefault(key, seq)

    def _note(self, kind: str, at_ms: int, ticket: Ticket, **detail: object) -> None:
        who = {"tenant": ticket.tenant, "key": ticket.key_id, "model": ticket.model, "held": ticket.amount}
        self.notes.append(Note(kind, at_ms, ticket.decision_id, {**who, **detail}))


def charges_of(gauges: tuple[Gauge, ...], offer: Offer, now_ms: int) -> tuple[Charge, ...]:
    """One charge for each meter among the gauges."""
    charges: dict[str, Charge] = {}
    for g in gauges:
        name, known = g.meter, charges.get(g.meter)
        if known is not None and (g.hard or known.soft):
            continue
        slot = now_ms // g.width_ms if g.calendar is None else g.slot(now_ms)
        soft = 0 if g.hard else g.limit
        charges[name] = Charge(name, g.kind, need_of(g.kind, offer), slot, g.width_ms, g.keep, g.calendar, soft)
    return tuple(charges.values())


def crossed(before: int, after: int, limit: int) -> Iterator[int]:
    """Which of 80 and 100 percent of a limit lie in (before, after]; none where the limit is 0."""
    for percent in (80, 100):
        if limit and before * 100 < limit * percent <= after * 100:
            yield percent
