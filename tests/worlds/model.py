"""What a ledger promises, in plain Python: no store, no counters, sums by their definition over all that was counted.

A step of the model gives every answer that is allowed, with what is true afterwards: a lease that has run out may be
ended by whoever comes next, or a moment later. A history is right where some order of what ran at once explains it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from router.types import Budget, Offer, Principal, RateLimit, Spend

DAY_MS, SLOTS = 86_400_000, 60
Answer = tuple[object, ...]


class CounterKey(NamedTuple):
    """What is counted together."""

    scope: str
    kind: str  # "budget", "requests", "tokens", "concurrent"
    period: int | str  # milliseconds, or a calendar's name


class Limit(NamedTuple):
    """One limit on a counter."""

    key: CounterKey
    most: int
    hard: bool


def slot_of(key: CounterKey, at_ms: int) -> int:
    """The slot of a moment: a sixtieth of a rolling period, or a whole calendar period."""
    if isinstance(key.period, int):
        return at_ms // (key.period // SLOTS)
    date = dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).date()
    if key.period == "day":
        return date.toordinal()
    if key.period == "week":
        year, week, _ = date.isocalendar()
        return year * 100 + week
    return date.year if key.period == "year" else date.year * 12 + date.month


def counts(key: CounterKey, slot: int, now_ms: int) -> bool:
    """Whether what was counted in a slot still counts."""
    now = slot_of(key, now_ms)
    return now - SLOTS <= slot <= now if isinstance(key.period, int) else slot == now


def limits_of(principal: Principal, offer: Offer) -> list[Limit]:
    """What a request of this principal to this offer must fit."""
    found: list[Limit] = []
    for budget in (*principal.budgets, *offer.budgets):
        if _concerns(budget.scope, offer.model):
            found.append(Limit(_of_budget(budget), budget.limit, budget.hard))
    for limit in (*principal.limits, *offer.limits):
        if _concerns(limit.scope, offer.model):
            found += _of_rate(limit)
    return found


def _concerns(scope: str, model: str) -> bool:
    _, mark, name = scope.partition("|model:")
    return not mark or name == model


def _of_budget(budget: Budget) -> CounterKey:
    return CounterKey(budget.scope, "budget", budget.calendar or budget.period_s * 1000)


def _of_rate(limit: RateLimit) -> Iterator[Limit]:
    for kind, most in (
        ("requests", limit.requests_per_minute),
        ("tokens", limit.tokens_per_minute),
        ("concurrent", limit.concurrent),
    ):
        if most is not None:
            yield Limit(CounterKey(limit.scope, kind, 60_000), most, True)


@dataclass(frozen=True)
class Held:
    """A hold."""

    gateway: int
    who: Principal
    offer: Offer
    at_ms: int
    expires_ms: int
    ends_ms: int
    lease_ms: int
    sent: bool = False

    def requirements(self) -> dict[CounterKey, int]:
        """The counters it is on, and how much it takes there."""
        need = {"budget": int(self.offer.worst), "tokens": self.offer.tokens}
        return {limit.key: need.get(limit.key.kind, 1) for limit in limits_of(self.who, self.offer)}


@dataclass(frozen=True)
class Ended:
    """A hold that is none any more. `swept_ms`: when its lease had run out, and `charged` what that cost."""

    held: Held
    charged: int = 0
    swept_ms: int | None = None
    is_released: bool = False  # and its gateway has said since that nothing was sent


@dataclass
class State:
    """All that is true at one moment."""

    now_ms: int
    holds: dict[str, Held] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)
    counted: dict[tuple[CounterKey, int], int] = field(default_factory=dict)  # by slot
    spend: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)  # day, who … -> requests, nano-USD

    def copy(self) -> State:
        """Another one, to go on from."""
        return State(self.now_ms, dict(self.holds), dict(self.ended), dict(self.counted), dict(self.spend))

    def identity(self) -> object:
        """Equal for states in which the same is true."""
        counted = frozenset((key, amount) for key, amount in self.counted.items() if amount)
        holds = frozenset((name, held.expires_ms, held.sent, held.offer.model) for name, held in self.holds.items())
        ended = frozenset((name, end.charged, end.swept_ms, end.is_released) for name, end in self.ended.items())
        return counted, holds, ended, frozenset(self.spend.items())

    def used(self, key: CounterKey) -> tuple[int, int]:
        """What is counted and held on a counter."""
        total = sum(n for (each, slot), n in self.counted.items() if each == key and counts(key, slot, self.now_ms))
        held = 0
        if key.kind in ("budget", "concurrent"):
            held = sum(each.requirements().get(key, 0) for each in self.holds.values())
        return total, held

    def add(self, key: CounterKey, at_ms: int, amount: int) -> None:
        """Count more or less, in the slot of a moment."""
        place = key, slot_of(key, at_ms)
        self.counted[place] = self.counted.get(place, 0) + amount

    def charge(self, held: Held, at_ms: int, requests: int, cost: int) -> None:
        """Charge the budgets of a hold and its line of spend, at a moment."""
        for key in held.requirements():
            if key.kind == "budget":
                self.add(key, at_ms, cost)
        day = dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).date().isoformat()
        line = (day, held.who.tenant, held.who.key_id, held.offer.model)
        known = self.spend.get(line, (0, 0))
        self.spend[line] = known[0] + requests, known[1] + cost

    def give_back(self, held: Held, tokens: int | None) -> None:
        """Correct the rates of a hold: everything where `tokens` is None, else to so many tokens."""
        for key, need in held.requirements().items():
            if key.kind == "tokens":
                self.add(key, held.at_ms, (tokens or 0) - need)
            elif key.kind == "requests" and tokens is None:
                self.add(key, held.at_ms, -1)

    def sweep(self, spare: frozenset[str] = frozenset()) -> State:
        """After every lease that has run out has ended, but those of `spare`."""
        after = self.copy()
        for name, held in self.holds.items():
            if held.expires_ms <= self.now_ms and name not in spare:
                del after.holds[name]
                charged = int(held.offer.worst) if held.sent else 0
                after.ended[name] = Ended(held, charged, self.now_ms)
                if held.sent:
                    after.charge(held, self.now_ms, 1, charged)
                else:
                    after.give_back(held, None)
        return after


class Outcome(NamedTuple):
    """An answer that is allowed, and what is true afterwards."""

    answer: Answer
    state: State


@dataclass(frozen=True)
class Reserve:
    """Take a hold."""

    gateway: int
    name: str
    who: Principal
    offers: tuple[Offer, ...]
    lease_ms: int
    longest_ms: int
    spares: frozenset[str] = (
        frozenset()
    )  # holds that a store may end with what they cost although their lease has ended

    def outcomes(self, state: State) -> Iterator[Outcome]:
        """One, but where leases that have run out may be spared."""
        yield from self._after(state.sweep())
        if any(name in state.holds and state.holds[name].expires_ms <= state.now_ms for name in self.spares):
            yield from self._after(state.sweep(self.spares))

    def _after(self, after: State) -> Iterator[Outcome]:
        is_held = self.name in after.holds
        if is_held:
            yield Outcome(("conflict",), after)
        blocked: set[str] = set()
        for offer in self.offers:
            tight = [limit for limit in limits_of(self.who, offer) if not _fits(after, limit, offer)]
            if not tight:
                if not is_held:
                    yield self._held(after, offer)
                return
            blocked |= {"BudgetExceeded" if limit.key.kind == "budget" else "RateLimited" for limit in tight}
        for name in blocked:
            yield Outcome(("refused", name), after)

    def _held(self, state: State, offer: Offer) -> Outcome:
        now = state.now_ms
        ends = now + max(self.lease_ms, self.longest_ms)
        held = Held(self.gateway, self.who, offer, now, now + self.lease_ms, ends, self.lease_ms)
        state.holds[self.name] = held
        state.ended.pop(self.name, None)
        for key, need in held.requirements().items():
            if key.kind in ("requests", "tokens"):
                state.add(key, now, need)
        limits = limits_of(self.who, offer)
        left = {kind: _left(state, limits, kind) for kind in ("requests", "tokens")}
        return Outcome(("held", offer.model, left["requests"], left["tokens"], _warnings(state, limits)), state)


def _fits(state: State, limit: Limit, offer: Offer) -> bool:
    need = {"budget": int(offer.worst), "tokens": offer.tokens}.get(limit.key.kind, 1)
    return not limit.hard or sum(state.used(limit.key)) + need <= limit.most


def fits(state: State, step: Reserve, after_ms: int) -> bool:
    """Whether an offer fits so much later, where nothing comes meanwhile and holds last."""
    later = state.copy()
    later.now_ms += after_ms
    return any(all(_fits(later, each, offer) for each in limits_of(step.who, offer)) for offer in step.offers)


def fits_in_the_end(state: State, step: Reserve) -> bool:
    """Whether every limit leaves room for every offer once all that was spent has left its window."""
    later = state.copy()
    later.counted = {}
    concurrent = [each for offer in step.offers for each in limits_of(step.who, offer) if each.key.kind == "concurrent"]
    ends = all(all(_fits(later, each, offer) for each in limits_of(step.who, offer)) for offer in step.offers)
    return ends and all(_fits(state, each, step.offers[0]) for each in concurrent)


def _left(state: State, limits: Sequence[Limit], kind: str) -> int | None:
    left = [limit.most - sum(state.used(limit.key)) for limit in limits if limit.key.kind == kind]
    return max(0, min(left)) if left else None


def _warnings(state: State, limits: Sequence[Limit]) -> tuple[str, ...]:
    found = []
    for limit in limits:
        share = sum(state.used(limit.key)) * 100
        percent = next((percent for percent in (100, 80) if share >= limit.most * percent), None)
        if not limit.hard and percent is not None:
            found.append(f"{limit.key.scope} {percent}%")
    return tuple(found)


@dataclass(frozen=True)
class Mark:
    """Bytes are about to be sent."""

    gateway: int
    name: str

    def outcomes(self, state: State) -> Iterator[Outcome]:
        """Whether a lease that has run out is ended before is the store's business."""
        for after in _maybe_swept(state):
            held = after.holds.get(self.name)
            if held is None:
                yield Outcome(("gone",), after)
            else:
                after.holds[self.name] = replace(held, sent=True)
                yield Outcome(("ok",), after)


@dataclass(frozen=True)
class Settle:
    """End a hold."""

    gateway: int
    name: str
    spend: Spend

    def outcomes(self, state: State) -> Iterator[Outcome]:
        """As for Mark."""
        for after in _maybe_swept(state):
            end = after.ended.get(self.name)
            if end is not None and end.is_released:  # whether the second word is heard does not matter
                yield Outcome(("gone",), after.copy())
            yield self._end(after)

    def _end(self, state: State) -> Outcome:
        released, cost = self.spend.outcome == "released", int(self.spend.cost)
        held = state.holds.pop(self.name, None)
        if held is not None:
            state.ended[self.name] = Ended(held)
            state.give_back(held, None if released else self.spend.prompt_tokens + self.spend.completion_tokens)
            if not released:
                state.charge(held, state.now_ms, 1, cost)
            return Outcome(("ok",), state)
        end = state.ended[self.name]
        if end.swept_ms is None:
            return Outcome(("ok",), state)
        if not end.held.sent:
            state.ended[self.name] = replace(end, is_released=end.is_released or released)
            return Outcome(("ok",) if released or end.is_released else ("gone",), state)
        state.ended[self.name] = Ended(end.held)
        at_ms = state.now_ms if cost > end.charged else end.swept_ms
        for key in end.held.requirements():
            if key.kind == "budget":
                state.add(key, at_ms, cost - end.charged)
        day = dt.datetime.fromtimestamp(end.swept_ms / 1000, dt.UTC).date().isoformat()
        line = (day, end.held.who.tenant, end.held.who.key_id, end.held.offer.model)
        known = state.spend.get(line, (0, 0))
        state.spend[line] = known[0] - released, known[1] + cost - end.charged
        return Outcome(("ok",), state)


@dataclass(frozen=True)
class Tend:
    """A gateway renews its leases and ends those that have run out."""

    gateway: int

    def outcomes(self, state: State) -> Iterator[Outcome]:
        """Its own that have run out live on where nobody has ended them yet."""
        for after in _maybe_swept(state):
            for name, held in list(after.holds.items()):
                left, expires = held.expires_ms - state.now_ms, min(state.now_ms + held.lease_ms, held.ends_ms)
                if held.gateway == self.gateway and left < held.lease_ms * 2 // 3 and expires > held.expires_ms:
                    after.holds[name] = replace(held, expires_ms=expires)
            yield Outcome(("ok",), after.sweep())


Step = Reserve | Mark | Settle | Tend


def _maybe_swept(state: State) -> Iterator[State]:
    yield state.copy()
    if any(held.expires_ms <= state.now_ms for held in state.holds.values()):
        yield state.sweep()


def explained(states: Sequence[State], seen: Sequence[tuple[Step, Answer]]) -> list[State]:
    """The states that some order of these steps, with these answers, leads to; none where no order explains them."""
    found: dict[object, State] = {}

    def go_on(state: State, left: tuple[tuple[Step, Answer], ...]) -> None:
        if not left:
            found.setdefault(state.identity(), state)
        for i, (step, answer) in enumerate(left):
            for outcome in step.outcomes(state):
                if outcome.answer == answer:
                    go_on(outcome.state, left[:i] + left[i + 1 :])

    for state in states:
        go_on(state, tuple(seen))
    return list(found.values())
