"""What happens to money within one transaction: holds are taken and ended, and counters, spend and audit follow.

A transaction reads what its requests touch at its beginning, decides in memory, and writes what has changed at its end;
nothing is kept from one to the next. Used by the writer's thread alone. Fails with sqlite3.Error, and with Conflict
where a decision has a hold already; then nothing of the transaction is true.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from router.errors import Conflict, StoreUnavailable
from router.stores.limits import DAY_MS, window_of
from router.stores.refusals import Refusal
from router.stores.sqlite.counters import WindowCounter
from router.stores.sqlite.database import ROWS, Database, Work, parts, places
from router.stores.sqlite.requests import CounterKey, CountPlan, Counts, End, HeldRow, Reserve, Sweep, Taken, counts_of
from router.stores.sqlite.spending import SpendChanges
from router.stores.sqlite.statements import (
    EXPIRING,
    FACTS,
    by_id,
    by_scope,
    changed_counters,
    ending,
    new_holds,
)
from router.stores.sqlite.timekeeping import Facts, Timekeeper, why_stopped
from router.types import Offer, Spend

SWEEP_MS = 50  # how often a transaction looks for leases that have run out
EXPIRED_MS = DAY_MS  # how long a lease that ran out is remembered
NEWEST_MS = 1000  # how often the newest time is written


_counts_in = msgspec.json.Decoder(Counts).decode


class Noting(Protocol):
    """An audit log that may be written within a transaction."""

    def append(self, at_ms: int, kind: str, subject: str, detail: Mapping[str, object]) -> None:
        """Append."""


class Accounting:
    """A participant of the database's transactions. All that one does is done at one time."""

    def __init__(self, database: Database, *, time: Timekeeper, audit: Noting) -> None:
        self._db, self._time, self._audit = database, time, audit
        self._swept_ms = 0
        self._forget()

    def _forget(self) -> None:
        self._counters: dict[int, WindowCounter] = {}
        self._ids: dict[CounterKey, int] = {}  # of counters that were looked for by name
        self._new_id = 0  # of the next counter that is not in the table yet
        self._scopes: set[str] = set()  # whose counters were read
        self._ends: dict[str, int] = {}  # when what is counted now stops counting, by meter
        self._ending: dict[str, tuple[HeldRow, Counts]] = {}
        self._new: list[tuple[Any, ...]] = []
        self._spending = SpendChanges()
        self._now_ms = 0

    # the course of a transaction

    def begin(self, works: Sequence[Work]) -> None:
        """Read the facts, the holds that end and the counters of all; end what has run out."""
        ids: set[int] = set()
        scopes: set[str] = set()
        ends, is_money, reserves = [], False, False
        for work in works:
            if isinstance(work, Reserve):
                reserves = True
                plan = work.choices[0][1]
                if plan.ids is None:
                    scopes.update(plan.scopes)
                else:
                    ids.update(plan.ids)
            elif isinstance(work, End):
                ends.append(work.decision_id)
            elif not isinstance(work, Sweep):
                continue
            is_money = True
        if not is_money:
            return
        if reserves or not self._time.facts.newest_ms:
            self._time.facts = Facts._make(self._db.execute(FACTS).fetchone())
        self._now_ms = self._time.now_ms()
        if ends:
            self._ending = {row.decision: (row, counts) for row, counts in self._taken_out(ending(len(ends)), ends)}
            for _, counts in self._ending.values():
                ids.update([each for each, _ in counts])
        swept = self._due()
        for _, counts in swept:
            ids.update([each for each, _ in counts])
        self._read(by_id, ids)
        self._read_scopes(scopes)
        for row, counts in swept:
            self._expire(row, counts)

    def finish(self) -> None:
        """Write what has changed."""
        rows = [
            (c.id, c.scope, c.meter, c.spent, c.held, c.fresh, c.ends_ms, c.past)
            for c in self._counters.values()
            if c.changed
        ]
        self._write(changed_counters, rows)
        try:
            self._write(new_holds, self._new)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorname == "SQLITE_CONSTRAINT_PRIMARYKEY":
                raise Conflict(f"Decision {self._new[0][0]} has a hold already.") from error
            raise
        self._spending.write(self._db, self._write)
        if self._now_ms >= self._time.facts.newest_ms + NEWEST_MS:
            self._db.execute("UPDATE facts SET newest_ms = ?", (self._now_ms,))

    def _write(self, sql: Callable[[int], str], rows: Sequence[tuple[Any, ...]]) -> None:
        for part in parts(rows) if len(rows) > ROWS else (rows,) if rows else ():
            self._db.execute(sql(len(part)), [value for row in part for value in row])

    def ended(self, *, committed: bool) -> None:
        """Nothing is kept."""
        if not committed:
            self._swept_ms = 0
        if self._now_ms:
            self._forget()

    # what requests do

    def reserve(self, asked: Reserve) -> Taken | Refusal | StoreUnavailable:
        """Take a hold on the first offer that fits every limit, or say why none does."""
        if jump_ms := self._time.jump_ms():
            return StoreUnavailable(why_stopped(jump_ms))
        asked.keys_version = self._time.facts.keys
        refusal: Refusal | None = None
        for offer, plan in asked.choices:
            used = self._used(plan, offer)
            if isinstance(used, list):
                self._open(asked, offer, plan)
                return Taken(offer, plan, used, self._now_ms)
            if refusal is None or used.wait_ms < refusal.wait_ms:
                refusal = used
        if refusal is None:
            raise ValueError("a reservation needs at least one offer")
        return refusal

    def end(self, asked: End) -> bool:
        """False, and nothing is charged, where the lease ended before anything was sent."""
        found = self._ending.pop(asked.decision_id, None)
        if found is None:
            return self._end_late(asked)
        row, counts = found
        if asked.refused is not None:
            self._note("settlement.refused", row, charged=asked.spend.cost, reason=asked.refused)
        self._close(row, counts, asked.spend)
        return True

    # taking a hold

    def _used(self, plan: CountPlan, offer: Offer) -> list[int] | Refusal:
        """How much of each limit would be used with this offer, or the limit that stands in its way longest."""
        try:
            return self._weighed(plan, offer)
        except KeyError:  # somebody has removed a counter from the table
            plan.ids, plan.counts = None, ""
            return self._weighed(plan, offer)

    def _weighed(self, plan: CountPlan, offer: Offer) -> list[int] | Refusal:
        """As `_used`, while the counters of the plan are there.

        Long and flat, as `_open` and `_close` are: on six limits, calls would cost more than what they do.
        """
        used, refusal = [], None
        worst, tokens, counters = offer.worst, offer.tokens, self._counters
        for limit, each in zip(plan.limits, self._ids_of(plan), strict=True):
            counter = counters.get(each) or self._counter(each)
            kind = limit.kind
            need = worst if kind == "budget" else tokens if kind == "tokens" else 1
            after = counter.spent + counter.held + need
            used.append(after)
            if after > limit.limit and limit.hard:
                wait_ms = counter.wait_ms(limit, need, self._now_ms)
                if refusal is None or wait_ms > refusal.wait_ms:
                    refusal = Refusal(limit, after - need, need, wait_ms)
        return refusal or used

    def _open(self, asked: Reserve, offer: Offer, plan: CountPlan) -> None:
        worst, tokens, now_ms, counters = offer.worst, offer.tokens, self._now_ms, self._counters
        ids = self._ids_of(plan)
        for each in ids if len(plan.soft) == len(ids) else dict.fromkeys(ids):
            counter = counters[each]
            meter = counter.meter
            counter.changed = True
            if meter == "concurrent":
                counter.held += 1
            elif meter == "requests":
                counter.count(1)
            elif meter == "tokens":
                counter.count(tokens)
            else:
                counter.held += worst
        who, expires_ms = asked.principal, now_ms + asked.ttl_ms
        row = (
            asked.decision_id,
            who.tenant,
            who.team or "",
            who.key_id,
            offer.model,
            worst,
            tokens,
            now_ms,
            expires_ms,
        )
        self._new.append((*row, max(expires_ms, now_ms + asked.longest_ms), 0, plan.counts or counts_of(plan, ids)))

    # ending one

    def _close(self, row: HeldRow, counts: Counts, spend: Spend) -> None:
        """Give back what was held, and charge what it cost."""
        cost, outcome, counters = spend.cost, spend.outcome, self._counters
        for each, soft in counts:
            counter = counters.get(each)
            if counter is None:  # somebody has removed it from the table
                continue
            meter = counter.meter
            if meter == "concurrent":
                counter.held, counter.changed = max(0, counter.held - 1), True
            elif meter == "requests":
                if outcome == "released":
                    counter.correct(window_of(meter).ends_ms(row.at_ms), -1)
            elif meter == "tokens":
                if outcome != "expired":
                    used = spend.prompt_tokens + spend.completion_tokens
                    counter.correct(window_of(meter).ends_ms(row.at_ms), used - row.tokens)
            else:
                counter.held, counter.changed = max(0, counter.held - row.amount), True
                if cost:
                    self._charge(counter, cost, soft=soft, row=row)
        if outcome != "released":
            self._spending.add(row.who, self._now_ms, spend, requests=1, cost=cost)
        if cost > row.amount:
            self._note("hold.over", row, charged=cost, reason="the answer cost more than its worst case")

    def _charge(self, counter: WindowCounter, cost: int, *, soft: int, row: HeldRow) -> None:
        """Add to a budget; note what did not fit, and which part of a soft limit was just crossed."""
        before, counted = counter.spent, counter.count(cost)
        if counted < cost:
            self._note("counter.full", row, cost=cost, counted=counted, budget=f"{counter.scope}#{counter.meter}")
        if soft:
            for percent in crossed(before, counter.spent, soft):
                detail = {"budget": f"{counter.scope}#{counter.meter}", "spent": counter.spent, "limit": soft}
                self._audit.append(self._now_ms, f"budget.{percent}%", row.decision, detail)

    def _note(self, kind: str, row: HeldRow, **detail: object) -> None:
        who = {"tenant": row.tenant, "key": row.key, "model": row.model, "held": row.amount}
        self._audit.append(self._now_ms, kind, row.decision, {**who, **detail})

    # leases that ran out

    def _due(self) -> list[tuple[HeldRow, Counts]]:
        """Holds whose lease has run out, taken out of the table; looked for every SWEEP_MS."""
        now_ms = self._now_ms
        if 0 <= now_ms - self._swept_ms < SWEEP_MS:
            return []
        self._swept_ms = now_ms
        if self._db.execute("SELECT 1 FROM holds WHERE expires_ms <= ? LIMIT 1", (now_ms,)).fetchone() is None:
            return []
        self._swept_ms = 0  # there may be more
        return self._taken_out(EXPIRING, (now_ms,))

    def _taken_out(self, sql: str, values: Sequence[object]) -> list[tuple[HeldRow, Counts]]:
        return [(HeldRow._make(row), _counts_in(row[-1])) for row in self._db.execute(sql, values).fetchall()]

    def _expire(self, row: HeldRow, counts: Counts) -> None:
        """The worst case is charged if bytes may have been sent, nothing otherwise."""
        now_ms = self._now_ms
        cost, outcome = (row.amount, "expired") if row.sent else (0, "released")
        self._close(row, counts, Spend(cost, 0, 0, outcome))  # type: ignore[arg-type]
        values = (row.decision, *row.who, row.amount, cost, now_ms, row.sent, row.counts)
        self._db.execute(f"INSERT OR REPLACE INTO expired VALUES ({places(len(values))})", values)
        self._db.execute("DELETE FROM expired WHERE ended_ms <= ?", (now_ms - EXPIRED_MS,))
        overdue = now_ms - row.expires_ms
        self._note(f"hold.{outcome}", row, charged=cost, reason="the lease ran out", overdue_ms=overdue)

    def _end_late(self, asked: End) -> bool:
        """A lease that ran out with something sent: the charge becomes the real one."""
        spend = asked.spend
        sql = (
            "SELECT decision, tenant, team, key, model, amount, 0, ended_ms, ended_ms, sent, counts, charged"
            " FROM expired WHERE decision = ?"
        )
        found = self._db.execute(sql, (asked.decision_id,)).fetchone()
        if found is None:
            return True
        row, charged = HeldRow(*found[:-1]), found[-1]
        if not row.sent:
            return spend.outcome == "released"
        self._db.execute("DELETE FROM expired WHERE decision = ?", (row.decision,))
        delta = spend.cost - charged
        counts = _counts_in(row.counts)
        self._read(by_id, {each for each, _ in counts} - self._counters.keys())
        for counter, soft in [(self._counters[each], soft) for each, soft in counts if each in self._counters]:
            window = window_of(counter.meter)
            if window.kind != "budget":
                continue
            if delta > 0:
                self._charge(counter, delta, soft=soft, row=row)
            else:
                counter.correct(window.ends_ms(row.at_ms), delta)
        requests = -1 if spend.outcome == "released" else 0
        self._spending.add(row.who, row.at_ms, spend, requests=requests, cost=delta)
        self._note("hold.late", row, charged=spend.cost, was_charged=charged)
        return True

    # counters

    def _ids_of(self, plan: CountPlan) -> tuple[int, ...]:
        """Its counters; new ones at first sight."""
        if plan.ids is not None:
            return plan.ids
        self._read_scopes(set(plan.scopes) - self._scopes)
        known = self._ids
        if not self._new_id and known.keys() >= plan.soft.keys():  # all are in the table
            plan.ids = tuple([known[key] for key in plan.keys])
            plan.counts = counts_of(plan, plan.ids)
            return plan.ids
        return tuple([known.get(key) or self._made(key) for key in plan.keys])

    def _made(self, key: CounterKey) -> int:
        """A counter that is not in the table yet, and whose number never was."""
        if not self._new_id:
            newest = self._db.execute("SELECT ifnull(max(id), 0) FROM counters").fetchone()[0]
            self._new_id = max(newest + 1, (self._now_ms << 12) + random.randrange(1 << 12))
        counter = WindowCounter(self._new_id, *key, ends_ms=window_of(key[1]).ends_ms(self._now_ms), changed=True)
        self._new_id += 1
        self._counters[counter.id], self._ids[key] = counter, counter.id
        return counter.id

    def _counter(self, each: int) -> WindowCounter:
        if each not in self._counters:
            self._read(by_id, {each})
        return self._counters[each]

    def _read_scopes(self, scopes: set[str]) -> None:
        if not scopes:
            return
        self._scopes |= scopes
        self._read(by_scope, scopes)
        self._ids = {(counter.scope, counter.meter): each for each, counter in self._counters.items()}

    def _read(self, sql: Callable[[int], str], which: set[int] | set[str]) -> None:
        """These counters as of now."""
        ends, counters, now_ms = self._ends, self._counters, self._now_ms
        for part in parts(list(which)):
            for row in self._db.execute(sql(len(part)), part).fetchall():
                counter = WindowCounter(*row)
                ends_ms = ends.get(counter.meter)
                if ends_ms is None:
                    ends_ms = ends[counter.meter] = window_of(counter.meter).ends_ms(now_ms)
                if ends_ms > counter.ends_ms:
                    counter.roll(now_ms, ends_ms)
                counters.setdefault(counter.id, counter)


def crossed(before: int, after: int, limit: int) -> Iterator[int]:
    """Which of 80 and 100 percent of a limit lie in (before, after]."""
    for percent in (80, 100):
        if before * 100 < limit * percent <= after * 100:
            yield percent
