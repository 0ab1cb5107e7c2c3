"""The ledger in Redis: one script reserves, one settles, whatever they touch; exact over any number of hosts.

Fails closed: what cannot be asked is StoreUnavailable and nothing was reserved. Nothing of an answer may be sent before
Redis has said that it knows, by a mark or by the settlement itself: whatever Redis gives free again was not sent. A
settlement of what was sent that cannot be written is kept and written as soon as Redis is back. After a restart of
Redis, which may have lost its last second, every gateway puts its own holds and settlements back while reservations
wait for GRACE_MS. With a journal, what a killed gateway had sent, or had settled so lately that Redis may yet lose it,
is taken over from its disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence

import msgspec

from router.errors import Conflict, StoreUnavailable
from router.stores.book import Refusal
from router.stores.keys import Guard, keep_if_good
from router.stores.limits import Gauge, PlanCache, Shown, gauges_of, of_budget, shown_of
from router.stores.outbox import Outbox
from router.stores.redis.connection import Link, calendar
from router.stores.redis.wire import Argument, Unanswered
from router.stores.refusals import Answer, hold_of, refuse
from router.types import Balance, Budget, Hold, NanoUsd, Offer, Principal, Reservation, Spend

LOG = logging.getLogger("pointsman.ledger")
TICK_S = 0.5  # how often leases are renewed and expired and Redis is looked at
AGAIN_S = 0.05  # between two tries to tell Redis what must be known before anything is sent
GRACE_MS = 2000  # how long reservations wait after a restart of Redis; four times TICK_S
DONE_MS = 120_000  # how long Redis remembers that a hold has ended; as in settle
REPEATED_S = 5.0  # settlements repeated after a restart of Redis, which loses a second or two at most
HELD, KNOWN, ANY = -1, 0, 1  # what a settlement charges: only what is held; or was, and its lease ran out; or whatever
NOTHING = Spend(NanoUsd(0), 0, 0, "released")


class WirePlan(msgspec.Struct, frozen=True, gc=False):
    """The gauges of one principal and offer, and the same as the scripts read them."""

    gauges: tuple[Gauge, ...]
    shown: Shown
    text: bytes


class Lease(msgspec.Struct, gc=False):
    """A hold of this process."""

    decision_id: str
    who: str
    amount: int
    tokens: int
    at_ms: int
    expires_ms: int
    ends_ms: int
    lease_ms: int
    plan: bytes
    sent: bool = False  # bytes of the answer may have been relayed, and Redis knows
    ended: bool = False


def wire(gauges: Sequence[Gauge]) -> bytes:
    """Gauges as the scripts read them."""
    return msgspec.json.encode(
        [(f"{g.scope}#{g.meter}", g.kind, g.limit, int(g.hard), g.width_ms, g.keep, g.calendar or "") for g in gauges]
    )


def _plan(principal: Principal, offer: Offer) -> WirePlan:
    gauges = gauges_of(principal, offer)
    return WirePlan(gauges, shown_of(gauges), wire(gauges))


class RedisLedger:
    """A Ledger and its Leases on one Redis."""

    def __init__(self, link: Link, *, clock: Callable[[], int], journal: Outbox | None = None) -> None:
        self._link, self._clock, self._journal = link, clock, journal
        self.guard: Guard | None = None
        self._plans: PlanCache[WirePlan] = PlanCache(_plan)
        self._mine: dict[str, Lease] = {}
        self._marks: dict[str, None] = {}  # that a restart of Redis may have lost
        self._settled: deque[tuple[float, tuple[Argument, ...]]] = deque()
        self._unsettled: list[tuple[Argument, ...]] = []
        self._run: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._tending = asyncio.Lock()

    async def open(self) -> None:
        """Ask Redis once, and begin to look after leases. Raises: StoreUnavailable.

        Keys have an edition from now on, so that a Redis that was emptied is told by having none.
        """
        await self._link.command("HSETNX", f"{self._link.prefix}:meta", "keys", self._clock())
        await self.tend()
        self._start(self._tick())

    async def aclose(self) -> None:
        """Settle what still waits."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await self.tend()
        self._forget_settled(older_than_s=0.0)
        if self._journal is not None:
            self._journal.close()

    async def reserve(self, reservation: Reservation) -> Hold:
        """Take a hold on the first offer that fits every budget and limit, atomically.

        Raises: BudgetExceeded, RateLimited, Conflict (the id has a hold), Unauthenticated (the key has been disabled
        since it was looked up), StoreUnavailable.
        """
        r, who = reservation, reservation.principal
        offers = tuple(r.offers)  # the script sees all, to choose in one step
        plans = [self._plans.of(who, offer) for offer in offers]
        name = f"{who.tenant}\x1f{who.team or ''}\x1f{who.key_id}"
        expires = r.now_ms + r.ttl_ms
        words: list[Argument] = [r.decision_id, r.now_ms, *calendar(r.now_ms), expires, GRACE_MS, name]
        for offer, plan in zip(offers, plans, strict=True):
            words += (offer.model, offer.worst, offer.tokens, plan.text)
        try:
            answer = await self._link.call("reserve", *words)
        except (asyncio.CancelledError, Unanswered):  # nobody will use it: give back what may have been taken
            self._unsettled.append(_release(r, name))
            raise
        chosen = answer[0]
        if chosen <= 0:
            raise self._refusal(answer, plans, r)
        offer, plan = offers[chosen - 1], plans[chosen - 1]
        ends = max(expires, r.now_ms + r.longest_ms)
        owner = f"{name}\x1f{offer.model}"
        size = (offer.worst, offer.tokens)
        lease = Lease(r.decision_id, owner, *size, r.now_ms, expires, ends, r.ttl_ms, plan.text)
        self._mine[r.decision_id] = lease
        found = Answer(r.decision_id, offer.model, offer.worst, expires, plan.gauges, plan.shown, answer[2:])
        hold = hold_of(found, lease)
        if self.guard is not None:
            self.guard.heard(answer[1])
            if not self.guard.knows(who):
                await keep_if_good(self.guard, self, r, hold)
        return hold

    async def settle(self, hold: Hold, spend: Spend) -> None:
        """End a hold. Settling twice changes nothing.

        Where Redis is away, the settlement of what was marked is kept for later. Else nothing has been sent yet, and
        nothing is charged unless Redis says so before the lease ends. Raises: StoreUnavailable: nothing may be sent.
        """
        lease = _lease_of(hold)
        if lease.ended:
            return
        words = _settlement(lease, self._clock(), spend)
        if lease.sent or spend.outcome == "released":
            await self._settle_sent(lease, words)
        else:
            await self._settle_unsent(lease, words)
        lease.ended = True
        self._mine.pop(lease.decision_id, None)

    async def _settle_sent(self, lease: Lease, words: tuple[Argument, ...]) -> None:
        self._marks.pop(lease.decision_id, None)
        self._remember_settled(words)
        self._owe(lease.decision_id, words)
        try:
            await self._link.call("settle", *words)
        except StoreUnavailable:
            self._unsettled.append(words)

    async def _settle_unsent(self, lease: Lease, words: tuple[Argument, ...]) -> None:
        try:
            await self._surely(lease, "settle", *words[:-1], HELD)
        except BaseException:  # it may have been done all the same: then it stays so
            self._unsettled.append(_settlement(lease, self._clock(), NOTHING))
            raise
        self._remember_settled(words)
        self._owe(lease.decision_id, words)

    async def balances(self, budgets: Sequence[Budget], now_ms: int) -> list[Balance]:
        """What is left of each budget. Raises: StoreUnavailable."""
        text = wire([of_budget(b) for b in budgets])
        found: list[int] = await self._link.call("balance", now_ms, *calendar(now_ms), text)
        return [
            Balance(budget, NanoUsd(found[3 * i]), NanoUsd(found[3 * i + 1]), found[3 * i + 2])
            for i, budget in enumerate(budgets)
        ]

    async def mark(self, hold: Hold) -> None:
        """Bytes are about to be relayed: whatever becomes of this process, they are paid.

        Raises: StoreUnavailable: the lease has ended, or Redis was away until then; nothing may be sent.
        """
        lease = _lease_of(hold)
        await self._surely(lease, "mark", lease.decision_id)
        lease.sent = True
        self._owe(lease.decision_id, _settlement(lease, self._clock(), Spend(hold.amount, 0, 0, "expired")))

    async def _surely(self, lease: Lease, name: str, *words: Argument) -> None:
        """Tell Redis something of a hold, again while it is away and the lease lasts.

        Raises: StoreUnavailable: the lease has ended.
        """
        while True:
            try:
                if await self._link.call(name, *words) >= 0:
                    return
                await self._link.call("restore", *_as_lost(lease, self._clock()))
                if await self._link.call(name, *words) >= 0:
                    return
            except StoreUnavailable:
                if self._clock() >= lease.expires_ms:
                    raise
            else:
                raise StoreUnavailable("The lease ended before the answer was there. Nothing was sent.")
            await asyncio.sleep(AGAIN_S)

    async def tend(self) -> None:
        """Mark, renew and end leases, settle what was kept, restore what Redis has lost. Raises: StoreUnavailable."""
        async with self._tending:
            now_ms = self._clock()
            marks = list(self._marks)
            renewed = self._renewals(now_ms)
            pairs = [word for i, expires in renewed.items() for word in (i, expires)]
            run, edition, *missing = await self._link.call(
                "tend", now_ms, *calendar(now_ms), len(marks), *marks, *pairs
            )
            if self.guard is not None:
                self.guard.heard(edition)
            for decision_id in marks:
                self._marks.pop(decision_id, None)
            for decision_id, expires in renewed.items():
                if decision_id in self._mine:
                    self._mine[decision_id].expires_ms = expires
            if self._run not in (None, run):
                await self._restore(now_ms)
                missing = []
            self._run = run
            for decision_id in missing:
                self._mine.pop(decision_id.decode(), None)
            await self._settle_kept()
            await self._take_over(now_ms)
            self._forget_settled()

    def _renewals(self, now_ms: int) -> dict[str, int]:
        """Leases with less than two thirds left, and when they shall end."""
        renewed = {}
        for decision_id, lease in self._mine.items():
            expires = min(now_ms + lease.lease_ms, lease.ends_ms)
            if lease.expires_ms - now_ms < lease.lease_ms * 2 // 3 and expires > lease.expires_ms:
                renewed[decision_id] = expires
        return renewed

    async def _restore(self, now_ms: int) -> None:
        """Redis has restarted and may have lost its last second: say again what this process said in it."""
        self._marks.update((i, None) for i, lease in self._mine.items() if lease.sent)
        calls = [self._link.call("restore", *_as_lost(lease, now_ms)) for lease in self._mine.values()]
        calls += [self._link.call("settle", *words) for _, words in self._settled]
        await asyncio.gather(*calls)

    async def _settle_kept(self) -> None:
        while self._unsettled:
            words = self._unsettled[0]
            await self._link.call("settle", *words)
            self._remember_settled(words)
            del self._unsettled[0]

    async def _take_over(self, now_ms: int) -> None:
        """Settle what dead processes of this machine owed: their last word, or the worst case of what they had sent."""
        for _, owed in self._journal.orphans() if self._journal is not None else ():
            calls = [_as_heir(words, now_ms) for words in owed.values()]
            await asyncio.gather(*(self._link.call("settle", *words) for words in calls))
            for words in calls:
                self._owe(str(words[0]), words)
                self._remember_settled(words)

    def _owe(self, decision_id: str, words: tuple[Argument, ...]) -> None:
        if self._journal is not None:
            with contextlib.suppress(StoreUnavailable):  # a full disk must not keep Redis from hearing of it
                self._journal.owe(decision_id, words)

    def _remember_settled(self, words: tuple[Argument, ...]) -> None:
        self._settled.append((asyncio.get_running_loop().time(), words))

    def _forget_settled(self, *, older_than_s: float = REPEATED_S) -> None:
        """What Redis cannot lose any more is owed no more."""
        oldest = asyncio.get_running_loop().time() - older_than_s
        waiting, paid = {words[0] for words in self._unsettled}, []
        while self._settled and self._settled[0][0] <= oldest:
            _, words = self._settled.popleft()
            if words[0] not in waiting:
                paid.append(str(words[0]))
        if self._journal is not None:
            with contextlib.suppress(StoreUnavailable):
                self._journal.paid(paid)

    def _refusal(self, answer: list[int], plans: list[WirePlan], r: Reservation) -> Exception:
        if answer[0] == -2:
            return Conflict(f"Decision {r.decision_id} has a hold already.")
        if answer[0] == -1:
            return StoreUnavailable("Redis has restarted and holds are being restored.", retry_after_s=answer[1] / 1000)
        _, offer, gauge, used, need, wait_ms = answer
        return refuse(Refusal(plans[offer - 1].gauges[gauge - 1], used, need, wait_ms))

    async def _tend_quietly(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self.tend()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self._tend_quietly()
            except Exception:  # leases must be renewed whatever else went wrong
                LOG.exception("The holds could not be tended; it is tried again in %s s.", TICK_S)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _lease_of(hold: Hold) -> Lease:
    if not isinstance(hold.ticket, Lease):
        raise TypeError("name the hold that reserve returned, not a copy")
    return hold.ticket


def _settlement(lease: Lease, now_ms: int, spend: Spend) -> tuple[Argument, ...]:
    """The arguments of the settle script."""
    tokens = (spend.prompt_tokens, spend.completion_tokens)
    held = (lease.who, lease.amount, lease.tokens, lease.at_ms, lease.plan)
    return (lease.decision_id, now_ms, *calendar(now_ms), spend.cost, *tokens, spend.outcome, *held, ANY)


def _as_lost(lease: Lease, now_ms: int) -> tuple[Argument, ...]:
    """The arguments of the restore script."""
    held = (lease.who, lease.amount, lease.tokens, lease.at_ms, int(lease.sent), lease.plan)
    return (lease.decision_id, now_ms, calendar(now_ms)[0], lease.expires_ms, *held)


def _release(r: Reservation, name: str) -> tuple[Argument, ...]:
    """The arguments of the settle script for a hold that may exist, of which nothing was sent."""
    return (r.decision_id, r.now_ms, *calendar(r.now_ms), 0, 0, 0, "released", name, 0, 0, r.now_ms, b"[]", KNOWN)


def _as_heir(words: tuple[Argument, ...], now_ms: int) -> tuple[Argument, ...]:
    """The same settlement now; so old that Redis may have forgotten it was done, it only ends a hold that is known."""
    known_only = now_ms - int(words[1]) > DONE_MS // 2
    return (words[0], now_ms, *calendar(now_ms), *words[4:-1], KNOWN if known_only else ANY)
