"""The ledger in Redis: one script reserves, one settles, whatever they touch; exact over any number of hosts.

Redis's own clock orders the money; a gateway whose clock differs by more than 5 s reserves nothing.

Fails closed: what cannot be asked is StoreUnavailable and nothing was reserved. Nothing of an answer may be sent before
Redis has said that it knows, by a mark or by the settlement itself: whatever Redis gives free again was not sent. A
settlement of what was sent that cannot be written is kept and written as soon as Redis is back. A settlement that is
refused is never repeated: the worst case is charged instead, once. After a restart of Redis or the promotion of a
replica every gateway puts its holds back, and all settlements that may have been lost, while reservations wait. With an
outbox, what a killed gateway had sent or settled is taken over from its disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence

from router.errors import Conflict, SettingsError, StoreUnavailable
from router.stores.bounds import check_offers, why_refused, worst_case
from router.stores.keys import RevocationCheck, keep_if_good
from router.stores.limits import PlanCache, of_budget
from router.stores.redis.condition import Condition, skewed
from router.stores.redis.connection import Link, ScriptRejected
from router.stores.redis.outbox import Outbox
from router.stores.redis.records import RedisAudit
from router.stores.redis.replication import replication_of
from router.stores.redis.settlement import (
    HELD,
    Lease,
    Settlement,
    WirePlan,
    as_lost,
    limits_text,
    plan_of,
    release,
    settlement,
)
from router.stores.redis.settling import Settling
from router.stores.redis.wire import Argument, Unanswered
from router.stores.refusals import Refusal, ScriptAnswer, hold_of, refuse
from router.types import (
    RELEASED,
    Balance,
    Budget,
    Hold,
    NanoUsd,
    Reservation,
    Spend,
)

LOG = logging.getLogger("pointsman.ledger")
FORM = b"3"  # of what the scripts write; as in the scripts
TICK_S = 0.5  # how often leases are renewed and expired and Redis is looked at
AGAIN_S = 0.05  # between two tries to tell Redis what must be known before anything is sent
FORGOTTEN_AT_ONCE = 1000


class RedisLedger:
    """A Ledger and its Leases on one Redis."""

    def __init__(
        self,
        link: Link,
        *,
        clock: Callable[[], int],
        audit: RedisAudit,
        outbox: Outbox | None = None,
        accepts_eviction: bool = False,
    ) -> None:
        self._link, self._clock, self._audit = link, clock, audit
        self.revocations: RevocationCheck | None = None
        self.repeat_records: Callable[[], Awaitable[None]] = _nothing
        self._owner = secrets.token_hex(8)
        self._condition = Condition(accepts_eviction=accepts_eviction)
        self._settling = Settling(link, clock=clock, audit=audit, outbox=outbox)
        self._plans: PlanCache[WirePlan] = PlanCache(plan_of)
        self._mine: dict[str, Lease] = {}
        self._run: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._tending = asyncio.Lock()

    @property
    def refused(self) -> Counter[str]:
        """Settlements that were charged at their worst case because they could not be charged as they were."""
        return self._settling.refused

    async def open(self) -> None:
        """Ask Redis once, and begin to look after leases.

        Keys have a version from now on, so that a Redis that was emptied is told by having none.
        Raises: SettingsError (it evicts, or holds a ledger of another form), StoreUnavailable.
        """
        meta = f"{self._link.prefix}:meta"
        run, form = await self._link.command("HMGET", meta, "run", "form")
        if run is not None and form != FORM:
            raise SettingsError(
                f"Redis holds a ledger of another form under {self._link.prefix}; choose another store.prefix.",
                param="store.prefix",
            )
        await self._link.command("HSETNX", meta, "keys", self._clock())
        try:
            policy = await self._tend(heed_policy=False)
        except StoreUnavailable as error:
            if isinstance(error, ScriptRejected) or "can't run" in error.message or "NOPERM" in error.message:
                needed = "scripts, INFO, and hashes, sorted sets and streams under its prefix"
                raise SettingsError(
                    f"Redis forbids what the ledger needs ({needed}): {error}", param="store.redis"
                ) from error
            raise
        self._condition.check_start(policy or await self._configured_policy())
        await self._check_disk()
        self._start(self._tick())

    async def aclose(self) -> None:
        """Settle what still waits."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await self._tend(age_s=0.0)
        self._settling.close()

    async def reserve(self, reservation: Reservation) -> Hold:
        """Take a hold on the first offer that fits every budget and limit, atomically.

        Raises: BudgetExceeded, RateLimited, Conflict (the id has a hold), InvalidRequest (a worst case that nobody can
        hold), Unauthenticated (the key has been disabled since it was looked up), StoreUnavailable.
        """
        r, who = reservation, reservation.principal
        offers = tuple(r.offers)  # the script sees all, to choose in one step
        check_offers(offers)
        plans = [self._plans.of(who, offer) for offer in offers]
        name = f"{who.tenant}\x1f{who.team or ''}\x1f{who.key_id}"
        words: list[Argument] = [r.decision_id, self._owner, r.ttl_ms, r.longest_ms, name]
        for offer, plan in zip(offers, plans, strict=True):
            words += (offer.model, offer.worst, offer.tokens, plan.text)
        try:
            answer = await self._link.call("reserve", self._clock(), *words)
        except (asyncio.CancelledError, Unanswered):  # nobody will use it: give back what may have been taken
            self._settling.later(release(r, self._owner, name))
            raise
        chosen = answer[0]
        if chosen <= 0:
            raise _refusal(answer, plans, r)
        offer, plan, now_ms = offers[chosen - 1], plans[chosen - 1], answer[2]
        expires, ends = now_ms + r.ttl_ms, now_ms + max(r.ttl_ms, r.longest_ms)
        size = (offer.worst, offer.tokens)
        lease = Lease(r.decision_id, f"{name}\x1f{offer.model}", *size, now_ms, r.ttl_ms, plan.text, expires, ends)
        self._settling.held_again(r.decision_id)
        self._mine[r.decision_id] = lease
        found = ScriptAnswer(r.decision_id, offer.model, offer.worst, expires, plan.limits, plan.shown, answer[3:])
        hold = hold_of(found, lease)
        if self.revocations is not None:
            self.revocations.heard(answer[1])
            if not self.revocations.knows(who):
                await keep_if_good(self.revocations, self, r, hold)
        return hold

    async def settle(self, hold: Hold, spend: Spend) -> None:
        """End a hold. Settling twice changes nothing; a spend out of all bounds is charged as the worst case.

        Where Redis is away, the settlement of what was marked is kept for later. Else nothing has been sent yet, and
        nothing is charged unless Redis says so before the lease ends. Raises: StoreUnavailable: nothing may be sent.
        """
        lease = _lease_of(hold)
        if lease.ended:
            return
        if (why := why_refused(spend)) is not None:
            await self._settling.note_refusal(lease.decision_id, lease.who, lease.amount, why, where="usage")
            spend = worst_case(hold.amount)
        now_ms = self._now()
        if lease.sent or spend.outcome == "released":
            await self._settle_sent(settlement(lease, self._owner, spend, now_ms=now_ms))
        else:
            await self._settle_unsent(lease, settlement(lease, self._owner, spend, now_ms=now_ms, charges=HELD))
        lease.ended = True
        self._mine.pop(lease.decision_id, None)

    async def _settle_sent(self, end: Settlement) -> None:
        self._settling.promise(end)
        try:
            await self._settling.end(end)
        except ScriptRejected:
            LOG.exception(
                "The settlement of %s could not be charged; the end of its lease charges it.", end.decision_id
            )
        except StoreUnavailable:
            self._settling.later(end)

    async def _settle_unsent(self, lease: Lease, end: Settlement) -> None:
        try:
            await self._surely(lease, lambda: self._settling.end(end))
        except BaseException:  # it may have been done all the same: then it stays so
            self._settling.later(settlement(lease, self._owner, RELEASED, now_ms=self._now()))
            raise

    async def balances(self, budgets: Sequence[Budget], now_ms: int) -> list[Balance]:
        """What is left of each budget now, by Redis's clock. Raises: StoreUnavailable."""
        text = limits_text([of_budget(b) for b in budgets])
        status, *found = await self._link.call("balance", self._clock(), text)
        if status < 0:
            raise skewed(found[0])
        return [
            Balance(budget, NanoUsd(found[3 * i]), NanoUsd(found[3 * i + 1]), found[3 * i + 2])
            for i, budget in enumerate(budgets)
        ]

    async def mark(self, hold: Hold) -> None:
        """Bytes are about to be relayed: whatever becomes of this process, they are paid.

        Raises: StoreUnavailable: the lease has ended, or Redis was away until then; nothing may be sent.
        """
        lease = _lease_of(hold)
        await self._surely(lease, lambda: self._link.call("mark", lease.decision_id))
        lease.sent = True
        self._settling.promise(settlement(lease, self._owner, worst_case(hold.amount), now_ms=self._now()))

    async def _surely(self, lease: Lease, tell: Callable[[], Coroutine[None, None, int]]) -> None:
        """Tell Redis something of a hold, again while it is away and the lease lasts.

        Raises: StoreUnavailable: the lease has ended, or what is told is refused.
        """
        while True:
            try:
                if await tell() >= 0:
                    return
                await self._link.call("restore", self._clock(), *as_lost(lease, self._owner, self._now()))
                if await tell() >= 0:
                    return
            except ScriptRejected:
                raise
            except StoreUnavailable:
                if self._now() >= lease.expires_ms:
                    raise
            else:
                raise StoreUnavailable("The lease ended before the answer was there. Nothing was sent.")
            await asyncio.sleep(AGAIN_S)

    async def tend(self) -> None:
        """Renew and end leases, settle what was kept, restore what Redis has lost. Raises: StoreUnavailable."""
        await self._tend()

    async def check(self) -> None:
        """As `tend`, which writes, by a clock that agrees. Raises: StoreUnavailable: nothing can be reserved now."""
        await self.balances([], 0)
        await self._tend()

    async def _tend(self, *, heed_policy: bool = True, age_s: float | None = None) -> str:
        """As `tend`; returns the maxmemory-policy, "" where it cannot be read."""
        async with self._tending:
            asked_s = asyncio.get_running_loop().time()
            renewed, forgotten = self._renewals(self._now()), self._settling.forgettable(FORGOTTEN_AT_ONCE)
            pairs = [word for decision_id, ms in renewed.items() for word in (decision_id, ms)]
            words = (self._owner, len(forgotten), *forgotten, *pairs)
            run, keys_version, skew_ms, policy, reported, lately, missing = await self._link.call(
                "tend", self._clock(), *words
            )
            self._condition.heard_skew(skew_ms)
            if (why := self._condition.heard_keys_version(keys_version)) is not None:
                await self._audit.note("store.emptied", self._link.prefix, {"reason": why})
            if self.revocations is not None:
                self.revocations.heard(keys_version)
            self._settling.forgotten(forgotten)
            self._renewed(renewed)
            replication = replication_of(reported.decode())
            if self._run not in (None, run):
                await self._put_back()
                await self._settling.repeat_lost(replication)
                await self.repeat_records()
            else:
                for decision_id in missing:
                    self._mine.pop(decision_id.decode(), None)
            self._run = run
            await self._settling.settle_waiting()
            await self._settling.take_over()
            self._settling.heard(replication, [each.decode() for each in lately], asked_s=asked_s, age_s=age_s)
            if heed_policy and (changed := self._condition.heard_policy(policy.decode())) is not None:
                await self._audit.note("store.evicts", self._link.prefix, {"reason": changed})
            return str(policy.decode())

    def _now(self) -> int:
        """By Redis's clock."""
        return self._clock() - self._condition.skew_ms

    def _renewals(self, now_ms: int) -> dict[str, int]:
        """Leases with less than two thirds left, and the milliseconds they shall last from now."""
        return {
            decision_id: lease.lease_ms
            for decision_id, lease in self._mine.items()
            if lease.expires_ms - now_ms < lease.lease_ms * 2 // 3 and lease.ends_ms > lease.expires_ms
        }

    def _renewed(self, renewed: dict[str, int]) -> None:
        now_ms = self._now()
        for decision_id, ms in renewed.items():
            if (lease := self._mine.get(decision_id)) is not None:
                lease.expires_ms = min(now_ms + ms, lease.ends_ms)

    async def _put_back(self) -> None:
        """Redis has restarted or was promoted: say again which holds this process has."""
        now_ms = self._now()
        calls = [as_lost(lease, self._owner, now_ms) for lease in self._mine.values()]
        for i in range(0, len(calls), FORGOTTEN_AT_ONCE):
            some = calls[i : i + FORGOTTEN_AT_ONCE]
            await asyncio.gather(*(self._link.call("restore", self._clock(), *words) for words in some))

    async def _check_disk(self) -> None:
        """Say so where a restart of Redis would forget everything."""
        with contextlib.suppress(StoreUnavailable):
            reported = await self._link.command("INFO", "persistence")
            if isinstance(reported, bytes) and b"aof_enabled:0" in reported:
                LOG.warning("Redis keeps no append-only file: without a replica a restart forgets what was spent.")

    async def _configured_policy(self) -> str:
        try:
            found = await self._link.command("CONFIG", "GET", "maxmemory-policy")
        except StoreUnavailable:  # a managed Redis may forbid it
            return ""
        values = found.values() if isinstance(found, dict) else found[1::2]
        return next((value.decode() for value in values), "")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                with contextlib.suppress(StoreUnavailable):
                    await self.tend()
            except Exception:  # leases must be renewed whatever else went wrong
                LOG.exception("The holds could not be tended; it is tried again in %s s.", TICK_S)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _nothing() -> None:
    """No records are kept beside the ledger."""


def _refusal(answer: list[int], plans: list[WirePlan], r: Reservation) -> Exception:
    if answer[0] == -3:
        return skewed(answer[1])
    if answer[0] == -2:
        return Conflict(f"Decision {r.decision_id} has a hold already.")
    if answer[0] == -1:
        return StoreUnavailable("Redis has restarted and holds are being restored.", retry_after_s=answer[1] / 1000)
    _, offer, place, used, need, wait_ms = answer
    return refuse(Refusal(plans[offer - 1].limits[place - 1], used, need, wait_ms))


def _lease_of(hold: Hold) -> Lease:
    if not isinstance(hold.record, Lease):
        raise TypeError("name the hold that reserve returned, not a copy")
    return hold.record
