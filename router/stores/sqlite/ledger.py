"""The ledger in SQLite: plain tables, a transaction for what is asked within one turn of the event loop.

Any number of processes on one machine may share the file. Fails closed: what cannot be written is StoreUnavailable and
nothing was reserved, and nothing of an answer may be sent before a mark, or the settlement itself, is written. A
settlement of what was sent is kept while the file is away and written as soon as it is back. One that is no
settlement, by its numbers, is not tried again: the worst case is charged, and the audit log says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Sequence

import msgspec

from router.errors import StoreUnavailable
from router.stores.bounds import check_offers, why_refused, worst_case
from router.stores.keys import RevocationCheck, keep_if_good
from router.stores.limits import DAY_MS, PlanCache, day_of, of_budget, window_of
from router.stores.refusals import Refusal, ScriptAnswer, hold_of, refuse
from router.stores.retention import SPEND_DAYS
from router.stores.sqlite.accounting import Accounting, Noting
from router.stores.sqlite.counters import WindowCounter
from router.stores.sqlite.database import BAD_VALUE, Database
from router.stores.sqlite.requests import CountPlan, End, Reserve, Sweep, Taken, plan_of
from router.stores.sqlite.statements import FACTS, by_scope
from router.stores.sqlite.timekeeping import JUMP_MS, Facts, Timekeeper, why_stopped
from router.types import (
    RELEASED,
    Balance,
    Budget,
    Hold,
    NanoUsd,
    Offer,
    Reservation,
    Spend,
)

LOG = logging.getLogger("pointsman.ledger")
TICK_S = 0.5  # how often leases are renewed and expired
PLANS = 4096  # of principals and offers, about a kilobyte each
SWEEPS = 20  # at most, one after another
TOO_LATE = "The lease ended before the answer was there. Nothing was sent."


class HoldRecord(msgspec.Struct, gc=False):
    """A hold of this process."""

    decision_id: str
    amount: NanoUsd
    lease_ms: int
    expires_ms: int
    longest_ms: int
    sent: bool = False


class SqliteLedger:
    """A Ledger and its Leases on one database."""

    def __init__(self, database: Database, *, time: Timekeeper, audit: Noting) -> None:
        self._db, self._time, self._audit = database, time, audit
        self.revocations: RevocationCheck | None = None
        self.refused: Counter[str] = Counter()  # settlements charged at their worst case, by where they were refused
        self._accounting = Accounting(database, time=time, audit=audit)
        self._plans: PlanCache[CountPlan] = PlanCache(plan_of, size=PLANS)
        self._mine: dict[str, HoldRecord] = {}  # holds this process keeps alive
        self._unsettled: list[tuple[HoldRecord, Spend]] = []
        self._ticker: asyncio.Task[None] | None = None
        self._day = ""
        self._reported_ms = 0  # the jump of the clock that was told
        database.participants.insert(0, self._accounting)

    async def open(self) -> None:
        """Begin to look after leases; a clock that has moved ahead while nobody ran is accepted, and noted."""
        self._learn()
        self._time.begin()
        newest_ms, now_ms = self._time.facts.newest_ms, self._time.now_ms()
        if self._time.idle_ms() > JUMP_MS:
            detail = {"newest_ms": newest_ms, "now_ms": now_ms, "reason": "the newest row is older than this start"}
            await self._db.transact(lambda: self._audit.append(now_ms, "clock.ahead", "", detail))
        await self.tend()
        self._ticker = asyncio.create_task(self._tick())

    async def aclose(self) -> None:
        """Settle what still waits."""
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        with contextlib.suppress(StoreUnavailable):
            await self._settle_kept()

    async def reserve(self, reservation: Reservation) -> Hold:
        """Take a hold on the first offer that fits every budget and limit, atomically.

        Raises: BudgetExceeded, RateLimited, Conflict (the id has a hold), InvalidRequest (a worst case that nobody can
        hold), Unauthenticated (the key has been disabled since it was looked up), StoreUnavailable.
        """
        offers = iter(reservation.offers)
        found = await self._reserve(reservation, (next(offers),))
        if isinstance(found, Refusal) and (others := tuple(offers)):
            others_found = await self._reserve(reservation, others)
            if isinstance(others_found, Taken) or others_found.wait_ms < found.wait_ms:
                found = others_found
        if isinstance(found, Refusal):
            raise refuse(found)
        offer, plan, used, now_ms = found
        ttl_ms, expires_ms = reservation.ttl_ms, now_ms + reservation.ttl_ms
        longest_ms = max(expires_ms, now_ms + reservation.longest_ms)
        record = HoldRecord(reservation.decision_id, offer.worst, ttl_ms, expires_ms, longest_ms)
        self._mine[reservation.decision_id] = record
        answer = ScriptAnswer(
            reservation.decision_id, offer.model, offer.worst, expires_ms, plan.limits, plan.shown, used
        )
        hold = hold_of(answer, record)
        if self.revocations is not None and not self.revocations.knows(reservation.principal):
            await keep_if_good(self.revocations, self, reservation, hold)
        return hold

    async def _reserve(self, r: Reservation, offers: Sequence[Offer]) -> Taken | Refusal:
        check_offers(offers)
        who = r.principal
        asked = Reserve(self._accounting.reserve, r.decision_id, who, ttl_ms=r.ttl_ms, longest_ms=r.longest_ms)
        asked.choices = [(offer, self._plans.of(who, offer)) for offer in offers]
        try:
            found = await self._db.transact(asked)
        except asyncio.CancelledError:  # the client has gone: give back what may have been taken
            self._unsettled.append((HoldRecord(r.decision_id, NanoUsd(0), 0, 0, 0), RELEASED))
            raise
        if isinstance(found, StoreUnavailable):
            raise found
        if self.revocations is not None:
            self.revocations.heard(asked.keys_version)
        return found

    async def settle(self, hold: Hold, spend: Spend) -> None:
        """End a hold. Settling twice changes nothing.

        Where the file is away, the settlement of what was marked is kept for later. Else nothing has been sent yet, and
        nothing is charged. Raises: StoreUnavailable: nothing may be sent.
        """
        record = _record_of(hold)
        self._mine.pop(hold.decision_id, None)
        try:
            in_time = await self._end(record, spend)
        except StoreUnavailable:
            self._unsettled.append((record, spend if record.sent else RELEASED))
            if not record.sent and spend.outcome != "released":
                raise
        else:
            if not in_time:
                raise StoreUnavailable(TOO_LATE)

    async def _end(self, record: HoldRecord, spend: Spend) -> bool:
        """Whether it ended in time. What cannot be charged as it is, is charged at the worst case, and said."""
        if (why := why_refused(spend)) is not None:
            return await self._end_refused(record, why, where="usage")
        try:
            return await self._db.transact(End(self._accounting.end, record.decision_id, spend))
        except BAD_VALUE as error:
            return await self._end_refused(record, str(error), where="sqlite")

    async def _end_refused(self, record: HoldRecord, why: str, *, where: str) -> bool:
        LOG.error(
            "The settlement of %s is refused (%s); %d nano-USD, its worst case, are charged.",
            record.decision_id,
            why,
            record.amount,
        )
        asked = End(self._accounting.end, record.decision_id, worst_case(record.amount))
        asked.refused = why
        in_time = await self._db.transact(asked)
        self.refused[where] += 1
        return in_time

    async def balances(self, budgets: Sequence[Budget], now_ms: int) -> list[Balance]:
        """What is left of each budget, at the money's own time. Raises: StoreUnavailable."""
        now_ms = self._time.now_ms()
        if self._is_due(now_ms):
            await self._db.transact(Sweep())
        limits = [of_budget(budget) for budget in budgets]
        scopes = list({limit.scope for limit in limits})
        rows = self._db.read(by_scope(len(scopes)), *scopes) if scopes else []
        counters = {(row[1], row[2]): WindowCounter(*row) for row in rows}
        found = []
        for budget, limit in zip(budgets, limits, strict=True):
            key = limit.scope, limit.meter
            counter = counters.get(key) or WindowCounter(0, *key)
            if (ends_ms := window_of(limit.meter).ends_ms(now_ms)) > counter.ends_ms:
                counter.roll(now_ms, ends_ms)
            reset = counter.wait_ms(limit, max(1, budget.limit - counter.spent - counter.held + 1), now_ms)
            found.append(Balance(budget, NanoUsd(counter.spent), NanoUsd(counter.held), reset))
        return found

    async def mark(self, hold: Hold) -> None:
        """Bytes are about to be relayed: whatever becomes of this process, they are paid.

        Raises: StoreUnavailable: the lease has ended, or the file is away; nothing may be sent.
        """
        record = _record_of(hold)
        if not await self._db.transact(lambda: self._changed("sent = 1 WHERE decision = ?", record.decision_id)):
            raise StoreUnavailable(TOO_LATE)
        record.sent = True

    def _changed(self, change: str, *values: object) -> bool:
        """Whether a hold was there to be changed."""
        return self._db.execute(f"UPDATE holds SET {change}", values).rowcount > 0

    async def tend(self) -> None:
        """Renew and expire leases, and settle what was kept. Raises: StoreUnavailable."""
        self._learn()
        await self._tell_jump()
        await self._settle_kept()
        now_ms = self._time.now_ms()
        renewed = self._renewals(now_ms)
        if renewed:
            await self._db.transact(lambda: self._renew(renewed))
        for _ in range(SWEEPS):
            if not self._is_due(now_ms):
                break
            await self._db.transact(Sweep())
        if self._day != (day := day_of(now_ms)):
            oldest, self._day = day_of(now_ms - SPEND_DAYS * DAY_MS), day
            await self._db.transact(lambda: self._db.execute("DELETE FROM spend WHERE day < ?", (oldest,)))
        if self.revocations is not None:
            self.revocations.heard(self._time.facts.keys)

    async def check(self) -> None:
        """Write the time. Raises: StoreUnavailable: nothing can be reserved now."""
        if jump_ms := self._time.jump_ms():
            raise StoreUnavailable(why_stopped(jump_ms))
        await self._db.transact(self._write_time)

    def _write_time(self) -> None:
        self._db.execute("UPDATE facts SET newest_ms = max(newest_ms, ?)", (self._time.now_ms(),))

    def jump_ms(self) -> int:
        """By how much the clock has jumped; while this is not 0, nothing is reserved."""
        return self._time.jump_ms()

    async def confirm_clock(self, by: str) -> None:
        """Believe the clock as it is, in every process of the machine. Raises: StoreUnavailable."""
        self._learn()
        jump_ms, now_ms, facts = self._time.jump_ms(), self._time.now_ms(), self._time.confirmed()

        def work() -> None:
            self._db.execute("UPDATE facts SET ahead_ms = ?, confirmed_ms = ?", (facts.ahead_ms, facts.confirmed_ms))
            detail = {"jump_ms": jump_ms, "ahead_ms": facts.ahead_ms, "by": by}
            self._audit.append(now_ms, "clock.confirmed", "", detail)

        await self._db.transact(work)
        self._learn()

    def _learn(self) -> None:
        self._time.facts = Facts._make(self._db.read(FACTS)[0])

    async def _tell_jump(self) -> None:
        """Once for each."""
        jump_ms = self._time.jump_ms()
        if abs(jump_ms - self._reported_ms) <= JUMP_MS:
            return
        self._reported_ms = jump_ms
        if jump_ms:
            LOG.error(why_stopped(jump_ms))
            at_ms, detail = self._time.now_ms(), {"jump_ms": jump_ms}
            await self._db.transact(lambda: self._audit.append(at_ms, "clock.jumped", "", detail))

    def keys_changed(self) -> None:
        """To be called in the transaction that changes a key: every gateway learns of it with its next hold."""
        self._db.execute("UPDATE facts SET keys = keys + 1")

    def _is_due(self, now_ms: int) -> bool:
        return bool(self._db.read("SELECT 1 FROM holds WHERE expires_ms <= ? LIMIT 1", now_ms))

    def _renewals(self, now_ms: int) -> list[tuple[HoldRecord, int]]:
        """Leases with less than two thirds left, and when they shall end."""
        found = []
        for record in self._mine.values():
            expires_ms = min(now_ms + record.lease_ms, record.longest_ms)
            if record.expires_ms - now_ms < record.lease_ms * 2 // 3 and expires_ms > record.expires_ms:
                found.append((record, expires_ms))
        return found

    def _renew(self, renewed: list[tuple[HoldRecord, int]]) -> None:
        """In the writer's thread; a hold that is no longer there has ended."""
        for record, expires_ms in renewed:
            if self._changed("expires_ms = ? WHERE decision = ?", expires_ms, record.decision_id):
                record.expires_ms = expires_ms
            else:
                self._mine.pop(record.decision_id, None)
        self._write_time()

    async def _settle_kept(self) -> None:
        while self._unsettled:
            await self._end(*self._unsettled[0])
            del self._unsettled[0]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                with contextlib.suppress(StoreUnavailable):
                    await self.tend()
            except Exception:  # leases must be renewed whatever else went wrong
                LOG.exception("The holds could not be tended; it is tried again in %s s.", TICK_S)


def _record_of(hold: Hold) -> HoldRecord:
    if not isinstance(hold.record, HoldRecord):
        raise TypeError("name the hold that reserve returned, not a copy")
    return hold.record
