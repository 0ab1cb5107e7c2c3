"""Random histories of several gateways on one ledger, each answer held against the model."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from router.errors import BudgetExceeded, Conflict, RateLimited, StoreUnavailable
from router.stores.open import open_stores
from router.types import Budget, Hold, NanoUsd, Offer, Principal, RateLimit, Reservation, Spend
from tests.stores.conftest import Clock
from tests.stores.making import budget
from tests.worlds.model import (
    Answer,
    CounterKey,
    Mark,
    Reserve,
    Settle,
    State,
    Step,
    Tend,
    explained,
    fits,
    fits_in_the_end,
    limits_of,
)

BEGINS = ("2027-02-28", "2027-03-03", "2027-03-07", "2027-12-31", "2028-02-28")  # all end thirty seconds later
LEASES_MS = (2_000, 6_000, 20_000)
LONGEST_MS = (0, 0, 9_000, 40_000)
PAUSES_S = (0.0, 0.0, 0.1, 0.5, 1.0, 2.5, 7.0, 31.0, 62.0)

SHARED = budget(500, scope="team:shared", period_s=30)
ROLLING, DAILY = (
    budget(300, scope="tenant:a", period_s=60),
    budget(900, scope="tenant:a", calendar="day", period_s=86_400),
)
SOFT, MONTHLY = budget(200, scope="tenant:b", period_s=60, hard=False), budget(330, scope="key:b", calendar="month")
TIGHTER = budget(240, scope="tenant:b", period_s=60)
LARGE_ONLY = budget(150, scope="key:c|model:large", period_s=60)
CAPACITY = budget(400, scope="model:large", period_s=60)
PEOPLE = (
    Principal("ka", "a", "t", budgets=(SHARED, ROLLING, DAILY)),
    Principal("kb", "b", "t", budgets=(SHARED, SOFT, TIGHTER, MONTHLY), limits=(RateLimit("key:b", 9, None, 3),)),
    Principal("kc", "c", budgets=(LARGE_ONLY,), limits=(RateLimit("key:c", None, 120, 4), RateLimit("tenant:c", 6))),
)
BUDGETS = (SHARED, ROLLING, DAILY, SOFT, MONTHLY, LARGE_ONLY, CAPACITY)


class WrongError(AssertionError):
    """The store did what no order of the steps explains."""


@dataclass
class World:
    """One seed: what is asked, in which order and by whom; `run` raises WrongError where an answer cannot be right."""

    url: str
    seed: int
    gateways: int = 3
    batches: int = 40
    pauses_s: tuple[float, ...] = PAUSES_S
    leases_ms: tuple[int, ...] = LEASES_MS
    reuses: bool = True  # ids of holds that have ended
    in_groups: bool = False  # what is asked at once may share a transaction, which ends holds by their settlement first
    holds: dict[str, Hold] = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        day = dt.datetime.fromisoformat(BEGINS[self.seed % len(BEGINS)]).replace(tzinfo=dt.UTC)
        self.clock = Clock(int(day.timestamp() * 1000) + 86_370_000)
        self.states = [State(self.clock())]
        self.names = self.back_ms = 0

    async def run(self) -> None:
        """The whole history."""
        async with AsyncExitStack() as stack:
            self.stores = [
                await stack.enter_async_context(open_stores(self.url, clock=self.clock)) for _ in range(self.gateways)
            ]
            for _ in range(self.batches):
                await self._batch(_sensible([self._step() for _ in range(self.draw.choice((1, 1, 2, 3)))]))
                await self._look()
                await self.between()
                self._wait(self.draw.choice(self.pauses_s))
            self._wait(700.0)
            await self._look()
            await self._look_at_spend()
            if any(state.holds for state in self.states):
                raise WrongError("a hold outlived its lease in the model")

    async def between(self) -> None:
        """What else happens after a batch."""

    async def _batch(self, steps: Sequence[Step]) -> None:
        """All at once."""
        if self.in_groups:
            ending = frozenset(step.name for step in steps if isinstance(step, Settle | Mark))
            steps = [replace(step, spares=ending) if isinstance(step, Reserve) else step for step in steps]
        answers = await asyncio.gather(*(self._ask(step) for step in steps))
        seen = list(zip(steps, answers, strict=True))
        states = explained(self.states, seen)
        if not states:
            raise WrongError(f"seed {self.seed}: no order explains {seen}")
        if len(steps) == 1 and isinstance(steps[0], Reserve) and answers[0][0] == "refused":
            self._check_wait(steps[0])
        self.states = states

    def _check_wait(self, step: Reserve) -> None:
        """Where nothing else comes the request fits when the refusal said, and not a moment before."""
        states = [state.sweep() for state in self.states]
        if not any(fits_in_the_end(state, step) for state in states):
            return
        if not any(fits(state, step, self.back_ms) and not fits(state, step, self.back_ms - 1) for state in states):
            raise WrongError(f"seed {self.seed}: {step} does not fit after {self.back_ms} ms, or before")

    async def _ask(self, step: Step) -> Answer:
        ledger = self.stores[step.gateway].ledger
        match step:
            case Reserve():
                return await self._reserve(step)
            case Tend():
                await ledger.tend()
                return ("ok",)
            case Mark():
                work = ledger.mark(self.holds[step.name])
            case Settle():
                work = ledger.settle(self.holds[step.name], step.spend)
        try:
            await work
        except StoreUnavailable:
            return ("gone",)
        return ("ok",)

    async def _reserve(self, step: Reserve) -> Answer:
        now = self.clock()
        asked = Reservation(step.name, step.who, step.offers, step.lease_ms, now, step.longest_ms)
        try:
            hold = await self.stores[step.gateway].ledger.reserve(asked)
        except Conflict:
            return ("conflict",)
        except (BudgetExceeded, RateLimited) as refused:
            self.back_ms = round((refused.retry_after_s or 0) * 1000)
            if self.back_ms <= 0:
                raise WrongError(f"seed {self.seed}: a refusal says to come back in {self.back_ms} ms") from None
            return ("refused", type(refused).__name__)
        self.holds[step.name], self.owners[step.name] = hold, step.gateway
        left = [None if each is None else each.remaining for each in (hold.requests, hold.tokens)]
        return ("held", hold.model, *left, hold.warnings)

    async def _look(self) -> None:
        """What every gateway says of the balances is true."""
        stores = self.draw.choice(self.stores)
        found = await stores.ledger.balances(BUDGETS, self.clock())
        reported = [(int(each.spent), int(each.held)) for each in found]
        states = [state.sweep() for state in self.states]
        fitting = [state for state in states if [state.used(_key(each)) for each in BUDGETS] == reported]
        if not fitting:
            wanted = [[state.used(_key(each)) for each in BUDGETS] for state in states]
            raise WrongError(f"seed {self.seed}: balances are {reported}; {wanted} would be right")
        self.states = fitting

    async def _look_at_spend(self) -> None:
        lines = await self.stores[0].spend.lines(since="2027-02-01", until="2028-03-01")
        reported = {(x.day, x.tenant, x.key, x.model): (x.requests, x.cost_nanousd) for x in lines}
        reported = {line: sums for line, sums in reported.items() if sums != (0, 0)}
        wanted = [{line: sums for line, sums in state.spend.items() if sums != (0, 0)} for state in self.states]
        if reported not in wanted:
            raise WrongError(f"seed {self.seed}: spend is {reported}; {wanted} would be right")

    def _wait(self, seconds: float) -> None:
        self.clock.pass_s(seconds)
        for state in self.states:
            state.now_ms = self.clock()

    def _step(self) -> Step:
        draw = self.draw
        name = draw.choice(sorted(self.holds)[-8:]) if self.holds else ""
        kind = draw.choices(("reserve", "mark", "settle", "release", "tend"), (6, 2, 3, 1, 2))[0]
        if kind == "tend":
            return Tend(draw.randrange(self.gateways))
        if kind == "reserve" or not name:
            return self._asking()
        if kind == "mark":
            return Mark(self.owners[name], name)
        hold = self.holds[name]
        cost = (
            0
            if kind == "release"
            else draw.choice((0, 1, int(hold.amount) // 2, int(hold.amount), int(hold.amount) + 7))
        )
        tokens = (0, 0) if kind == "release" else (draw.randrange(9), draw.randrange(9))
        outcome = "released" if kind == "release" else "settled"
        return Settle(self.owners[name], name, Spend(NanoUsd(cost), *tokens, outcome))  # type: ignore[arg-type]

    def _asking(self) -> Reserve:
        draw = self.draw
        self.names += 1
        name = f"{self.names:05d}"
        known = [each for each in sorted(self.holds)[-3:] if not self._was_swept(each)]
        if known and self.reuses and draw.random() < 0.1:
            name = draw.choice(known)  # twice the same
        sizes = draw.sample((5, 20, 40, 90, 160), 2)
        large = Offer("large", NanoUsd(max(sizes)), draw.randrange(1, 40), (CAPACITY,), (RateLimit("model:large", 20),))
        small = Offer("small", NanoUsd(min(sizes)), draw.randrange(1, 40))
        offers = draw.choice(((large, small), (small,), (large,)))
        lease = draw.choice(LEASES_MS)
        return Reserve(
            draw.randrange(self.gateways), name, draw.choice(PEOPLE), offers, lease, draw.choice((0, 0, 40_000))
        )

    def _was_swept(self, name: str) -> bool:
        """A gateway tries again under the same id only what it has released, in time."""
        now = self.clock()
        ended = [state.ended.get(name) for state in self.states]
        lapsed = any(name in state.holds and state.holds[name].expires_ms <= now for state in self.states)
        return lapsed or any(end is not None and end.swept_ms is not None for end in ended)


def _sensible(steps: Sequence[Step]) -> list[Step]:
    """Nobody ends a hold of a decision while the next one is being taken."""
    taken = {step.name for step in steps if isinstance(step, Reserve)}
    return [step for step in steps if isinstance(step, Reserve | Tend) or step.name not in taken]


def _key(budget: Budget) -> CounterKey:
    """The counter of a budget."""
    model = budget.scope.partition("|model:")[2] or "any"
    return limits_of(Principal("", "", budgets=(budget,)), Offer(model, NanoUsd(0), 0))[0].key
