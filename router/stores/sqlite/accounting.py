"""What happens to money within one transaction: holds are taken and ended, and counters, spend and audit follow.

A transaction reads what its requests touch at its beginning, decides in memory, and writes what has changed at its end;
nothing is kept from one to the next. Used by the writer's thread alone. Fails with sqlite3.Error, and with Conflict
where a decision has a hold already; then nothing of the transaction is true.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import msgspec

from router.errors import Conflict
from router.stores.limits import DAY_MS, Gauge, PlanCache, Shown, day_of, gauges_of, need_of, shown_of, window_of
from router.stores.refusals import Refusal
from router.stores.sqlite.counters import COLUMNS, NO_PARTS, WindowCounter
from router.stores.sqlite.database import ROWS, Database, Work, insertion, parts, places
from router.types import Offer, Principal, Spend

SWEEP_MS = 50  # how often a transaction looks for leases that have run out
SWEPT = 500  # ended in one transaction, at most
EXPIRED_MS = DAY_MS  # how long a lease that ran out is remembered
NEWEST_MS = 1000  # how often the newest time is written
PLANS = 4096  # of principals and offers, about a kilobyte each

HOLD = "decision, tenant, team, key, model, amount, tokens, at_ms, expires_ms, sent, counts"
Key = tuple[str, str]  # scope and meter
Line = tuple[str, str, str, str, str]  # day, tenant, team, key and model

_encode = msgspec.json.Encoder().encode
_counts_in = msgspec.json.Decoder(tuple[tuple[str, str, int], ...]).decode


class Noting(Protocol):
    """An audit log that may be written within a transaction."""

    def append(self, at_ms: int, kind: str, subject: str, detail: Mapping[str, object]) -> None:
        """Append."""


class CountPlan(msgspec.Struct, frozen=True, gc=False):
    """Everything a request of one principal to one offer must pass, and where it counts."""

    gauges: tuple[Gauge, ...]
    shown: Shown
    keys: tuple[Key, ...]  # of each gauge
    counted: tuple[Key, ...]  # the same, each once
    scopes: tuple[str, ...]
    counts: str  # the same as the table keeps it, with the soft limit of each or 0


def plan_of(principal: Principal, offer: Offer) -> CountPlan:
    """What stands between them."""
    gauges = gauges_of(principal, offer)
    keys = tuple([(gauge.scope, gauge.meter) for gauge in gauges])
    soft = dict.fromkeys(keys, 0)
    for key, gauge in zip(keys, gauges, strict=True):
        if not gauge.hard:
            soft[key] = gauge.limit
    counts = _encode([(*key, limit) for key, limit in soft.items()]).decode()
    return CountPlan(gauges, shown_of(gauges), keys, tuple(soft), tuple({scope: None for scope, _ in keys}), counts)


class HeldRow(NamedTuple):
    """A row of `holds` that is being ended."""

    decision: str
    tenant: str
    team: str
    key: str
    model: str
    amount: int
    tokens: int
    at_ms: int
    expires_ms: int
    sent: int
    counts: str

    @property
    def line(self) -> tuple[str, str, str, str]:
        """Whose spend it is."""
        return self.tenant, self.team, self.key, self.model


class Reserve:
    """Take a hold on the first of these offers that fits."""

    def __init__(self, accounting: Accounting, decision_id: str, principal: Principal, *, lease: LeaseTimes) -> None:
        self._accounting = accounting
        self.decision_id, self.principal, self.lease = decision_id, principal, lease
        self.offers: Sequence[Offer] = ()
        self.edition = 0  # of the keys, once it is done

    def __call__(self) -> Taken | Refusal:
        """See Accounting.reserve."""
        return self._accounting.reserve(self)


class LeaseTimes(NamedTuple):
    """From when to when a hold lasts, in milliseconds, and beyond when it is never renewed."""

    now_ms: int
    expires_ms: int
    longest_ms: int


class Taken(NamedTuple):
    """An offer that fits, and how much of each gauge is used, this request included."""

    offer: Offer
    plan: CountPlan
    used: list[int]
    expires_ms: int


class End:
    """End a hold with what it really cost; false where its lease ended before anything was sent."""

    def __init__(self, accounting: Accounting, decision_id: str, spend: Spend, *, now_ms: int) -> None:
        self._accounting = accounting
        self.decision_id, self.spend, self.now_ms = decision_id, spend, now_ms
        self.refused: str | None = None  # why it is charged at its worst case

    def __call__(self) -> bool:
        """See Accounting.end."""
        return self._accounting.end(self)


class Sweep:
    """End what has run out."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> None:
        """Every transaction does so at its beginning."""


class Accounting:
    """A participant of the database's transactions."""

    def __init__(self, database: Database, *, audit: Noting) -> None:
        self._db, self._audit = database, audit
        self._plans: PlanCache[CountPlan] = PlanCache(plan_of, size=PLANS)
        self._swept_ms = 0
        self._forget()

    def _forget(self) -> None:
        self._counters: dict[Key, WindowCounter] = {}
        self._scopes: set[str] = set()  # whose counters were read
        self._ending: dict[str, HeldRow] = {}
        self._new: list[tuple[Any, ...]] = []
        self._lines: dict[Line, list[int]] = {}
        self._edition = self._newest_ms = self._now_ms = 0

    # the course of a transaction

    def begin(self, works: Sequence[Work]) -> None:
        """Read the facts, the holds that end and the counters of all; end what has run out."""
        ends = [work.decision_id for work in works if isinstance(work, End)]
        reserves = [work for work in works if isinstance(work, Reserve)]
        times = [work.now_ms for work in works if isinstance(work, End | Sweep)]
        times += [work.lease.now_ms for work in reserves]
        if not times:
            return
        execute = self._db.execute
        facts = dict(execute("SELECT name, value FROM facts").fetchall())
        self._edition, self._newest_ms = facts["keys"], facts["newest_ms"]
        self._now_ms = max(*times, self._newest_ms)
        if ends:
            self._ending = {row.decision: row for row in self._taken_out(f"decision IN ({places(len(ends))})", ends)}
        swept = self._due()
        scopes = {scope for work in reserves for offer in work.offers[:1] for scope in self._plan(work, offer).scopes}
        for row in (*self._ending.values(), *swept):
            scopes.update([scope for scope, _, _ in _counts_in(row.counts)])
        self._read(scopes)
        for row in swept:
            self._expire(row, self._now_ms)

    def finish(self) -> None:
        """Write what has changed."""
        execute = self._db.execute
        rows = [counter.row for counter in self._counters.values() if counter.changed]
        for part in parts(rows):
            execute(_upsert(len(part)), [value for row in part for value in row])
        try:
            for part in parts(self._new):
                execute(insertion("holds", 12, len(part)), [value for row in part for value in row])
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorname == "SQLITE_CONSTRAINT_PRIMARYKEY":
                raise Conflict(f"Decision {self._new[0][0]} has a hold already.") from error
            raise
        self._write_lines()
        if self._now_ms >= self._newest_ms + NEWEST_MS:
            execute("UPDATE facts SET value = ? WHERE name = 'newest_ms'", (self._now_ms,))

    def _write_lines(self) -> None:
        more = [(*line, *sums) for line, sums in self._lines.items() if min(sums) >= 0]
        for part in parts(more):
            self._db.execute(_add(len(part)), [value for row in part for value in row])
        for line, sums in self._lines.items():
            if min(sums) < 0:  # a correction of what is there
                self._db.execute(CORRECT, (*sums, *line))

    def ended(self, *, committed: bool) -> None:
        """Nothing is kept."""
        if not committed:
            self._swept_ms = 0
        self._forget()

    # what requests do

    def reserve(self, asked: Reserve) -> Taken | Refusal:
        """Take a hold on the first offer that fits every limit, or say why none does."""
        asked.edition = self._edition
        lease = asked.lease
        late = max(0, self._newest_ms - lease.now_ms)  # time never runs backwards
        lease = LeaseTimes(lease.now_ms + late, lease.expires_ms + late, lease.longest_ms + late)
        refusal: Refusal | None = None
        for offer in asked.offers:
            plan = self._plan(asked, offer)
            used = self._used(plan, offer, lease.now_ms)
            if isinstance(used, list):
                self._open(asked, offer, plan, lease)
                return Taken(offer, plan, used, lease.expires_ms)
            if refusal is None or used.wait_ms < refusal.wait_ms:
                refusal = used
        if refusal is None:
            raise ValueError("a reservation needs at least one offer")
        return refusal

    def end(self, asked: End) -> bool:
        """False, and nothing is charged, where the lease ended before anything was sent."""
        now_ms = max(asked.now_ms, self._newest_ms)
        row = self._ending.pop(asked.decision_id, None)
        if row is not None:
            if asked.refused is not None:
                self._note("settlement.refused", now_ms, row, charged=asked.spend.cost, reason=asked.refused)
            self._close(row, asked.spend, now_ms)
            return True
        return self._end_late(asked, now_ms)

    # taking a hold

    def _plan(self, asked: Reserve, offer: Offer) -> CountPlan:
        return self._plans.of(asked.principal, offer)

    def _used(self, plan: CountPlan, offer: Offer, now_ms: int) -> list[int] | Refusal:
        """How much of each gauge would be used with this offer, or the gauge that stands in its way longest."""
        used, refusal = [], None
        for gauge, key in zip(plan.gauges, plan.keys, strict=True):
            counter = self._counter(key, now_ms)
            need = need_of(gauge.kind, worst=offer.worst, tokens=offer.tokens)
            before = counter.spent + counter.held
            used.append(before + need)
            if before + need > gauge.limit and gauge.hard:
                wait_ms = counter.wait_ms(gauge, need, now_ms)
                if refusal is None or wait_ms > refusal.wait_ms:
                    refusal = Refusal(gauge, before, need, wait_ms)
        return refusal or used

    def _open(self, asked: Reserve, offer: Offer, plan: CountPlan, lease: LeaseTimes) -> None:
        for key in plan.counted:
            counter = self._counters[key]
            kind = counter.window.kind
            if kind == "budget":
                counter.hold(offer.worst)
            elif kind == "concurrent":
                counter.hold(1)
            else:
                counter.count(lease.now_ms, offer.tokens if kind == "tokens" else 1)
        who = asked.principal
        row = (asked.decision_id, who.tenant, who.team or "", who.key_id, offer.model, offer.worst, offer.tokens)
        self._new.append((*row, *lease, 0, plan.counts))

    # ending one

    def _close(self, row: HeldRow, spend: Spend, now_ms: int) -> None:
        """Give back what was held, and charge what it cost."""
        cost = spend.cost
        for scope, meter, soft in _counts_in(row.counts):
            counter = self._counter((scope, meter), now_ms)
            kind = counter.window.kind
            if kind == "budget":
                counter.hold(-row.amount)
                self._charge(counter, cost, now_ms, soft=soft, decision=row.decision)
            elif kind == "concurrent":
                counter.hold(-1)
            elif spend.outcome == "released":
                counter.count(row.at_ms, -row.tokens if kind == "tokens" else -1)
            elif kind == "tokens" and spend.outcome == "settled":
                counter.count(row.at_ms, spend.prompt_tokens + spend.completion_tokens - row.tokens)
        if spend.outcome != "released":
            self._add(row, now_ms, (1, spend.prompt_tokens, spend.completion_tokens, cost))
        if cost > row.amount:
            reason = "the answer cost more than its worst case"
            self._note("hold.over", now_ms, row, charged=cost, reason=reason)

    def _charge(self, counter: WindowCounter, cost: int, at_ms: int, *, soft: int, decision: str) -> None:
        """Add to a budget, and note which part of a soft limit was just crossed."""
        if not cost:
            return
        before = counter.spent
        counter.count(at_ms, cost)
        for percent in crossed(before, counter.spent, soft) if soft and cost > 0 else ():
            detail = {"budget": f"{counter.scope}#{counter.meter}", "spent": counter.spent, "limit": soft}
            self._audit.append(at_ms, f"budget.{percent}%", decision, detail)

    def _add(self, row: HeldRow, at_ms: int, amounts: Iterable[int]) -> None:
        """Requests, prompt tokens, completion tokens and cost, to the spend of a day."""
        line = (day_of(at_ms), *row.line)
        known = self._lines.get(line, (0, 0, 0, 0))
        self._lines[line] = [a + b for a, b in zip(known, amounts, strict=True)]

    def _note(self, kind: str, at_ms: int, row: HeldRow, **detail: object) -> None:
        who = {"tenant": row.tenant, "key": row.key, "model": row.model, "held": row.amount}
        self._audit.append(at_ms, kind, row.decision, {**who, **detail})

    # leases that ran out

    def _due(self) -> list[HeldRow]:
        """Holds whose lease has run out, taken out of the table; looked for every SWEEP_MS."""
        now_ms = self._now_ms
        if 0 <= now_ms - self._swept_ms < SWEEP_MS:
            return []
        self._swept_ms = now_ms
        if self._db.execute("SELECT 1 FROM holds WHERE expires_ms <= ? LIMIT 1", (now_ms,)).fetchone() is None:
            return []
        self._swept_ms = 0  # there may be more
        return self._taken_out(
            f"decision IN (SELECT decision FROM holds WHERE expires_ms <= ? ORDER BY expires_ms LIMIT {SWEPT})",
            (now_ms,),
        )

    def _taken_out(self, where: str, values: Sequence[object]) -> list[HeldRow]:
        sql = f"DELETE FROM holds WHERE {where} RETURNING {HOLD}"
        return [HeldRow(*row) for row in self._db.execute(sql, values).fetchall()]

    def _expire(self, row: HeldRow, now_ms: int) -> None:
        """The worst case is charged if bytes may have been sent, nothing otherwise."""
        cost, outcome = (row.amount, "expired") if row.sent else (0, "released")
        self._close(row, Spend(cost, 0, 0, outcome), now_ms)  # type: ignore[arg-type]
        values = (row.decision, *row.line, row.amount, cost, now_ms, row.sent, row.counts)
        self._db.execute(f"INSERT OR REPLACE INTO expired VALUES ({places(len(values))})", values)
        self._db.execute("DELETE FROM expired WHERE ended_ms <= ?", (now_ms - EXPIRED_MS,))
        overdue = now_ms - row.expires_ms
        self._note(f"hold.{outcome}", now_ms, row, charged=cost, reason="the lease ran out", overdue_ms=overdue)

    def _end_late(self, asked: End, now_ms: int) -> bool:
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
        for scope, meter, soft in _counts_in(row.counts):
            if window_of(meter).kind == "budget":
                counter = self._counter((scope, meter), now_ms)
                at_ms = row.at_ms if delta < 0 else now_ms  # where the end of the lease was charged
                self._charge(counter, delta, at_ms, soft=soft, decision=row.decision)
        requests = -1 if spend.outcome == "released" else 0
        self._add(row, row.at_ms, (requests, spend.prompt_tokens, spend.completion_tokens, delta))
        self._note("hold.late", now_ms, row, charged=spend.cost, was_charged=charged)
        return True

    # counters

    def _counter(self, key: Key, now_ms: int) -> WindowCounter:
        """The counter as of now; new at first sight."""
        counter = self._counters.get(key)
        if counter is None:
            if key[0] not in self._scopes:
                self._read({key[0]})
                return self._counter(key, now_ms)
            counter = self._counters[key] = WindowCounter((*key, 0, 0, 0, 0, NO_PARTS))
        counter.roll(now_ms)
        return counter

    def _read(self, scopes: set[str]) -> None:
        """All counters of these."""
        self._scopes |= scopes
        for part in parts(list(scopes)):
            for row in self._db.execute(_select(len(part)), part).fetchall():
                self._counters[row[0], row[1]] = WindowCounter(row)


def crossed(before: int, after: int, limit: int) -> Iterator[int]:
    """Which of 80 and 100 percent of a limit lie in (before, after]."""
    for percent in (80, 100):
        if before * 100 < limit * percent <= after * 100:
            yield percent


def read_counters(read: Callable[..., list[Any]], scopes: Sequence[str]) -> dict[Key, WindowCounter]:
    """All counters of these scopes as they are stored, in one moment."""
    return {(row[0], row[1]): WindowCounter(row) for row in read(_select(len(scopes)), *scopes)}


@lru_cache(maxsize=ROWS)
def _select(count: int) -> str:
    return f"SELECT {COLUMNS} FROM counters WHERE scope IN ({places(count)})"


@lru_cache(maxsize=ROWS)
def _upsert(count: int) -> str:
    names = COLUMNS.split(", ")
    changed = ", ".join(f"{name} = excluded.{name}" for name in names[2:])
    return f"{insertion('counters', len(names), count)} ON CONFLICT DO UPDATE SET {changed}"


SUMS = ("requests", "prompt_tokens", "completion_tokens", "cost")
CORRECT = (
    f"UPDATE spend SET {', '.join(f'{name} = max(0, {name} + ?)' for name in SUMS)}"
    " WHERE day = ? AND tenant = ? AND team = ? AND key = ? AND model = ?"
)


@lru_cache(maxsize=ROWS)
def _add(count: int) -> str:
    added = ", ".join(f"{name} = spend.{name} + excluded.{name}" for name in SUMS)
    return f"{insertion('spend', 9, count)} ON CONFLICT DO UPDATE SET {added}"
