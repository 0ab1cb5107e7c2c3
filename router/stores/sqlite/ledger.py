"""The ledger in SQLite: a journal of holds and settlements, and a book that every process keeps by following it.

A reservation appends one entry and a settlement another, however many budgets they touch, decided on the book with all
that others have written. Usually the entry goes into the ring beside the file, which keeps it through the death of any
process, and with a few hundred more into the file; what needs more than an entry is a transaction of its own.
Any number of processes on one machine may share the file. Fails closed: what cannot be written is StoreUnavailable and
nothing was reserved, and nothing of an answer may be sent before a mark, or the settlement itself, is written. A
settlement of what was sent that cannot be written is kept and written as soon as the file is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Protocol, cast

import msgspec

from router.errors import Conflict, StoreUnavailable
from router.stores.book import (
    Book,
    Event,
    Expired,
    Found,
    KeysChanged,
    Late,
    Marked,
    Opened,
    Refusal,
    Renewed,
    Settled,
)
from router.stores.earlier import account_of
from router.stores.keys import Guard, keep_if_good
from router.stores.limits import DAY_MS, Gauge, Ticket, day_of, of_budget, wait_ms
from router.stores.pages import Line, LineKey, Page, Stored, as_read, as_stored, take_old_lines
from router.stores.refusals import Answer, hold_of, refuse
from router.stores.retention import SPEND_DAYS
from router.stores.ring import entries_in
from router.stores.sqlite.database import Database
from router.stores.waiting import Waiting
from router.types import Balance, Budget, Hold, NanoUsd, Reservation, Spend

LOG = logging.getLogger("pointsman.ledger")
TICK_S = 0.5  # how often leases are renewed and expired
TOO_LATE = "The lease ended before the answer was there. Nothing was sent."
STORE_EVERY = 256  # journal entries between two looks at whether the book should be stored
LAG = 49_152  # journal entries not yet stored in the book before it is, over a third as many more …
LAG_MOST = 196_608  # … or as many as this where more scopes have counted something, each at long intervals
ROWS = 1_000  # pages stored in one transaction, when everything is
PAGE = 64  # rows of the journal read at once, before the ledger is open
JOURNAL_KEPT = 50_000  # entries kept for processes that lag
KEPT = 600_000  # accounts and spend lines beyond which stored ones are dropped from memory
FOREVER = 1 << 62
STORED = "paged"  # the fact up to which position every page has the journal; earlier versions called theirs "stored"

UNREAD = "SELECT seq, body FROM entry WHERE seq > ? ORDER BY seq"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Event).decode


class Noting(Protocol):
    """An audit log that may be written within a transaction."""

    def append(self, at_ms: int, kind: str, subject: str, detail: Mapping[str, object]) -> None:
        """Append."""


class SqliteLedger:
    """A Ledger and its Leases on one database."""

    def __init__(self, database: Database, *, clock: Callable[[], int], audit: Noting) -> None:
        self._db, self._clock, self._audit = database, clock, audit
        self.guard: Guard | None = None
        self._book: Book | None = None
        self._read_in = -1  # the transaction in which the book was brought up to date
        self._mine: dict[str, Ticket] = {}  # holds this process keeps alive
        self._unsettled: list[tuple[Ticket, Settled]] = []
        self._ticker: asyncio.Task[None] | None = None
        self._stored_at = 0
        self._to_store: Waiting[Page] = Waiting(_number)
        self._instalments = 1
        self._oldest_hold = FOREVER  # where the oldest hold began that a page of this round of storing may have
        self._changed_in = -1  # the transaction in which the book was changed
        database.on_failure.append(self._forget)

    async def open(self) -> None:
        """Read the book and begin to look after leases.

        Most of it is read while others go on writing: what they have written meanwhile is little.
        """
        if self._is_of_earlier_version():
            await self._db.transact(self._upgrade)
        with _no_collector(), contextlib.suppress(sqlite3.Error, StoreUnavailable):  # the transaction reads the rest
            self._read_first()
        await self._db.transact(self._caught_up)
        self._ticker = asyncio.create_task(self._tick())

    async def aclose(self) -> None:
        """Settle what still waits and store the book."""
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        with contextlib.suppress(StoreUnavailable):
            await self._settle_kept()
            await self.store()

    async def reserve(self, reservation: Reservation) -> Hold:
        """Take a hold on the first offer that fits every budget and limit, atomically.

        Raises: BudgetExceeded, RateLimited, Conflict (the id has a hold), Unauthenticated (the key has been disabled
        since it was looked up), StoreUnavailable.
        """
        hold = self._reserve_alone(reservation)
        if hold is None:
            hold = await self._reserve_in_turn(reservation)
        elif isinstance(hold, Refusal):
            raise refuse(hold)
        assert isinstance(hold.ticket, Ticket)
        self._mine[hold.decision_id] = hold.ticket
        if self.guard is not None:
            self.guard.heard(0 if self._book is None else self._book.edition)
            if not self.guard.knows(reservation.principal):
                await keep_if_good(self.guard, self, reservation, hold)
        return hold

    async def settle(self, hold: Hold, spend: Spend) -> None:
        """End a hold. Settling twice changes nothing.

        Where the file is away, the settlement of what was marked is kept for later. Else nothing has been sent yet, and
        nothing is charged. Raises: StoreUnavailable: nothing may be sent.
        """
        ticket = _ticket_of(hold)
        self._mine.pop(hold.decision_id, None)
        end = Settled(
            hold.decision_id, self._clock(), spend.cost, spend.prompt_tokens, spend.completion_tokens, spend.outcome
        )
        if self._settle_alone(ticket, end):
            return
        try:
            in_time = await self._db.together(lambda: self._settle(ticket, end))
        except StoreUnavailable:
            if not ticket.sent:
                end = msgspec.structs.replace(end, cost=0, prompt_tokens=0, completion_tokens=0, outcome="released")
            self._unsettled.append((ticket, end))
            if not ticket.sent and spend.outcome != "released":
                raise
        else:
            if not in_time:
                raise StoreUnavailable(TOO_LATE)

    async def balances(self, budgets: Sequence[Budget], now_ms: int) -> list[Balance]:
        """What is left of each budget. Raises: StoreUnavailable."""
        book = self._book_now()
        if book is None or now_ms >= book.earliest_ms:
            book = await self._db.transact(lambda: self._swept(now_ms))
        return [self._balance(book, budget, now_ms) for budget in budgets]

    async def mark(self, hold: Hold) -> None:
        """Bytes are about to be relayed: whatever becomes of this process, they are paid.

        Raises: StoreUnavailable: the lease has ended, or the file is away; nothing may be sent.
        """
        ticket = _ticket_of(hold)
        if not self._mark_alone(ticket) and not await self._db.together(lambda: self._mark(ticket)):
            raise StoreUnavailable(TOO_LATE)
        ticket.sent = True

    async def tend(self) -> None:
        """Renew and expire leases, and settle what was kept. Raises: StoreUnavailable."""
        await self._settle_kept()
        now_ms = self._clock()
        if self._needs_care(now_ms):
            await self._db.transact(lambda: self._renew(now_ms))
        if self.guard is not None and self._book is not None:
            self.guard.heard(self._book.edition)

    async def store(self) -> None:
        """Store the whole book, so that its tables can be read. Raises: StoreUnavailable."""
        await self._db.transact(lambda: self._store_all(self._caught_up()))
        while self._to_store:
            await self._db.transact(lambda: self._store(self._caught_up()))

    # one entry in the ring

    def _reserve_alone(self, reservation: Reservation) -> Hold | Refusal | None:
        """A hold, or why there is none; None where only a transaction can tell, and nothing has happened."""
        ring = self._db.ring
        if not ring.lock():
            return None
        try:
            book = self._followed()
            if book is None or reservation.now_ms >= book.earliest_ms or reservation.decision_id in book.holds:
                return None
            found = book.consider(reservation)
            if isinstance(found, Refusal):
                return found
            seq = book.position + 1
            if not ring.append(seq, _encode(Opened(found.ticket))):
                return None
            book.open(seq, found.ticket, found.plan)
            return _hold_of(found)
        finally:
            ring.unlock()

    def _settle_alone(self, ticket: Ticket, end: Settled) -> bool:
        ring = self._db.ring
        if not ring.lock():
            return False
        try:
            book = self._followed()
            if book is None or ticket.decision_id not in book.holds or book.may_note(ticket, end):
                return False
            seq = book.position + 1
            if not ring.append(seq, _encode(end)):
                return False
            book.settle(seq, end)
            return True
        finally:
            ring.unlock()

    def _mark_alone(self, ticket: Ticket) -> bool:
        ring = self._db.ring
        if not ring.lock():
            return False
        try:
            book = self._followed()
            if book is None or ticket.decision_id not in book.holds:
                return False
            seq, event = book.position + 1, Marked((ticket.decision_id,))
            if not ring.append(seq, _encode(event)):
                return False
            book.apply(seq, event)
            return True
        finally:
            ring.unlock()

    def _book_now(self) -> Book | None:
        """As `_followed`, without the lock."""
        book, ring = self._book, self._db.ring
        if book is not None and ring.is_read(book.position):
            return book
        if not ring.lock():
            return None
        try:
            return self._followed()
        finally:
            ring.unlock()

    def _followed(self) -> Book | None:
        """The book with everything other processes have written; None where only a transaction can tell."""
        book, ring = self._book, self._db.ring
        if book is None or book.position - self._stored_at >= STORE_EVERY:
            return None
        if ring.is_read(book.position):
            return book
        return book if not ring.in_doubt and self._follow(book) else None

    def _follow(self, book: Book) -> bool:
        ring = self._db.ring
        if not ring.is_followed or ring.last != book.position:
            try:
                rows = self._db.execute(UNREAD, (book.position,)).fetchall()
            except sqlite3.Error:
                return False
            if not _read(book, rows) or book.position != ring.base:
                return False
            ring.follow()
        for seq, body in ring.unread():
            book.apply(seq, _decode(body))
        book.notes.clear()
        return True

    # inside a transaction

    async def _reserve_in_turn(self, reservation: Reservation) -> Hold:
        def work() -> Hold | Refusal | Conflict | None:
            if left:
                return None
            book = self._caught_up()
            if reservation.now_ms >= book.earliest_ms:
                self._expire(book, reservation.now_ms)
            if reservation.decision_id in book.holds:
                return Conflict(f"Decision {reservation.decision_id} has a hold already.")
            found = book.consider(reservation)
            if isinstance(found, Refusal):
                self._store_if_due(book)
                return found
            self._append(book, Opened(found.ticket))
            taken.append(found.ticket)
            return _hold_of(found)

        left = False
        taken: list[Ticket] = []
        try:
            hold = await self._db.together(work)
        except asyncio.CancelledError:  # the client has gone: nothing was sent
            left = True
            self._unsettled += [(t, Settled(t.decision_id, self._clock(), 0, 0, 0, "released")) for t in taken]
            raise
        if isinstance(hold, Refusal):
            raise refuse(hold)
        if isinstance(hold, Conflict):
            raise hold
        assert hold is not None
        return hold

    def _caught_up(self) -> Book:
        """The book with everything other processes have written. Only inside a transaction: nobody else writes then."""
        book = self._book
        if book is not None and self._read_in == self._db.transactions:
            return book
        self._read_in = self._db.transactions
        if book is None:
            book = self._book = self._load_book()
        if not _read(book, self._db.execute(UNREAD, (book.position,)).fetchall()):
            book = self._book = self._load_book()  # what lies between has been stored and forgotten
            _read(book, self._db.execute(UNREAD, (book.position,)).fetchall())
        return book

    def _append(self, book: Book, event: Event) -> None:
        seq = book.position + 1
        self._changed_in = self._db.transactions
        self._db.append(seq, _encode(event))
        book.apply(seq, event)
        if book.notes:
            for note in book.notes:
                self._audit.append(note.at_ms, note.kind, note.decision_id, note.detail)
            book.notes.clear()
        self._store_if_due(book)

    def _store_if_due(self, book: Book) -> None:
        if book.position - self._stored_at >= STORE_EVERY:
            self._store(book)

    def _mark(self, ticket: Ticket) -> bool:
        """Whether it still is held."""
        book = self._caught_up()
        if ticket.decision_id not in book.holds:
            return False
        self._append(book, Marked((ticket.decision_id,)))
        return True

    def _settle(self, ticket: Ticket, end: Settled) -> bool:
        """False, and nothing is charged, where the lease ended before anything was sent."""
        book = self._caught_up()
        if ticket.decision_id in book.holds:
            self._append(book, end)
        elif ticket.decision_id in book.expired:
            known, expired_ms, charged = book.expired[ticket.decision_id]
            if known.sent:
                self._append(book, Late(known, expired_ms, charged, end))
            return known.sent or end.outcome == "released"
        return True

    def _expire(self, book: Book, now_ms: int) -> None:
        for decision_id in book.due(now_ms):
            self._append(book, Expired(decision_id, now_ms))
        book.due(now_ms)

    def _swept(self, now_ms: int) -> Book:
        book = self._caught_up()
        self._expire(book, now_ms)
        self._store_if_due(book)
        return book

    def _renew(self, now_ms: int) -> None:
        book = self._swept(now_ms)
        for decision_id, mine in list(self._mine.items()):
            ticket = book.holds.get(decision_id)
            if ticket is None:
                del self._mine[decision_id]
                continue
            lease = mine.expires_ms - mine.at_ms
            expires = min(now_ms + lease, ticket.ends_ms)
            if ticket.expires_ms - now_ms < lease * 2 // 3 and expires > ticket.expires_ms:
                self._append(book, Renewed(msgspec.structs.replace(ticket, expires_ms=expires)))

    # storing the book piece by piece

    def _load_book(self) -> Book:
        book = Book(load=self._load_page, load_line=self._load_line)
        book.position, book.edition = self._fact(STORED), self._fact("keys")
        self._stored_at = book.position
        self._to_store, self._oldest_hold = Waiting(_number), FOREVER
        return book

    def _read_first(self) -> None:
        """The book as far as it can be known without a transaction. Raises: StoreUnavailable."""
        self._book = book = self._load_book()
        while rows := self._db.read(f"{UNREAD} LIMIT {PAGE}", book.position):
            if not _read(book, cast(list[tuple[int, bytes]], rows)):
                return  # others have stored and forgotten what lies between: begin anew in the transaction

    def _load_page(self, number: int) -> Page | None:
        sql = "SELECT number, at, accounts, lines FROM page WHERE number = ?"
        row = self._db.execute(sql, (number,)).fetchone()
        return None if row is None else as_read(Stored(*row))

    def _load_line(self, key: LineKey) -> tuple[Line, int] | None:
        sql = (
            "SELECT requests, prompt_tokens, completion_tokens, cost, seq FROM spend"
            " WHERE day = ? AND tenant = ? AND team = ? AND key = ? AND model = ?"
        )
        row = self._db.execute(sql, key).fetchone()
        return None if row is None else (list(row[:4]), row[4])

    def _store(self, book: Book) -> None:
        """Store what changed longest ago, an instalment at a time, and forget the journal nobody needs any more."""
        self._stored_at = book.position
        self._changed_in = self._db.transactions
        stored = self._fact(STORED)
        self._forget_journal(stored - JOURNAL_KEPT)
        if self._to_store:
            self._instalment(book)
            if not self._to_store:
                self._advance(book, stored)
                if book.size > KEPT:
                    book.shrink()
        elif book.position - stored >= (lag := _lag(book)):
            self._store_all(book, instalments=1 + lag // 3 // STORE_EVERY)

    def _store_all(self, book: Book, *, instalments: int | None = None) -> None:
        """Begin to store whatever is not stored as it is now; None: in as few instalments as may be."""
        self._note_holds(book)
        self._to_store.add(book.dirty)
        book.dirty.clear()
        self._instalments = instalments or 1 + len(self._to_store) // ROWS
        if not self._to_store:
            self._advance(book, self._fact(STORED))

    def _instalment(self, book: Book) -> None:
        """One of `_instalments` equal parts of what is left, once all is sorted."""
        if self._to_store.sort_some():
            return
        pages = self._to_store.take(self._instalments)
        self._instalments = max(1, self._instalments - 1)
        for page in pages:
            page.since = 0
        self._note_holds(book)
        self._write(pages, book.position)

    def _note_holds(self, book: Book) -> None:
        """A page that is stored with a hold needs the entry of the hold, once it has ended, to know of the end."""
        self._oldest_hold = min(self._oldest_hold, min((t.seq for t in book.holds.values()), default=FOREVER))

    def _write(self, pages: list[Page], position: int) -> None:
        """Store pages as they are at this position, and what was spent on days that are over in rows of its own."""
        today = day_of(self._clock())
        old = [(*key, position, *line) for page in pages for key, line in take_old_lines(page, today)]
        if old:
            self._db.executemany("INSERT OR REPLACE INTO spend VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", old)
        rows = [as_stored(page, position) for page in pages]
        self._db.executemany("INSERT OR REPLACE INTO page VALUES (?, ?, ?, ?)", rows)

    def _advance(self, book: Book, stored: int) -> None:
        self._note_holds(book)
        oldest, self._oldest_hold = [self._oldest_hold, book.position + 1], FOREVER
        if book.dirty:
            oldest.append(book.dirty[0].since)
        safe = min(oldest) - 1
        if safe > stored:
            self._note_fact(STORED, safe)
            self._db.execute("DELETE FROM spend WHERE day < ?", (day_of(self._clock() - SPEND_DAYS * DAY_MS),))

    # a file of an earlier version

    def _is_of_earlier_version(self) -> bool:
        return bool(self._db.read("SELECT 1 FROM sqlite_master WHERE name = 'account' AND type = 'table'"))

    def _upgrade(self) -> None:
        """Rows of accounts become pages. What is left of their table keeps earlier versions from writing."""
        if not self._is_of_earlier_version():
            return
        book = Book(load=lambda _: None, load_line=self._load_line)
        book.position = self._fact("stored")
        for scope, body in self._db.execute("SELECT scope, body FROM account"):
            book.adopt(scope, *account_of(body))
        if not _read(book, self._db.execute(UNREAD, (book.position,)).fetchall()):
            raise StoreUnavailable(f"{self._db.path} lacks journal entries after {book.position}")
        self._write(list(book.pages.values()), book.position)
        book.dirty.clear()
        self._advance(book, 0)
        self._db.execute("DELETE FROM fact WHERE name = 'stored'")
        self._db.execute("DROP TABLE account")
        self._db.execute("CREATE VIEW account AS SELECT NULL AS scope, NULL AS body WHERE 0")

    def _forget_journal(self, until: int) -> None:
        """Remove the oldest entries up to this one, a few times as many as have come since the last time."""
        oldest = self._db.execute("SELECT min(seq) FROM entry").fetchone()[0]
        if oldest is not None and oldest <= until:
            self._db.execute("DELETE FROM entry WHERE seq <= ?", (min(until, oldest + 4 * STORE_EVERY),))

    def keys_changed(self) -> None:
        """To be called in the transaction that changes a key: every gateway learns of it from the journal."""
        book = self._caught_up()
        self._note_fact("keys", book.position + 1)
        self._append(book, KeysChanged())

    def _note_fact(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO fact (name, value) VALUES (?, ?)", (name, value))

    def _fact(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    # outside of a transaction

    def _forget(self) -> None:
        """A transaction failed: what it did to the book is not true."""
        if self._changed_in == self._db.transactions:
            self._book = None

    def _balance(self, book: Book, budget: Budget, now_ms: int) -> Balance:
        gauge: Gauge = of_budget(budget)
        meter = book.rolled(gauge, now_ms)
        reset = wait_ms(meter, gauge, max(1, budget.limit - meter.total - meter.held + 1), now_ms)
        return Balance(budget, NanoUsd(meter.total), NanoUsd(meter.held), reset)

    async def _settle_kept(self) -> None:
        while self._unsettled:
            ticket, end = self._unsettled[0]
            await self._db.transact(lambda t=ticket, e=end: self._settle(t, e))  # type: ignore[misc]
            del self._unsettled[0]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                with contextlib.suppress(StoreUnavailable):
                    await self.tend()
            except Exception:  # leases must be renewed whatever else went wrong
                LOG.exception("The holds could not be tended; it is tried again in %s s.", TICK_S)

    def _needs_care(self, now_ms: int) -> bool:
        book, ring = self._book, self._db.ring
        if book is None or self._mine or now_ms >= book.earliest_ms:
            return True
        return ring.has_entries or not ring.is_read(book.position)


def _lag(book: Book) -> int:
    """How much of the journal may wait: where more scopes count, more of it, so that each is stored less often."""
    return min(LAG_MOST, max(LAG, 2 * book.size))


_number = attrgetter("number")


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """What a long journal makes is here to stay: looking through it again and again frees nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _ticket_of(hold: Hold) -> Ticket:
    if not isinstance(hold.ticket, Ticket):
        raise TypeError("name the hold that reserve returned, not a copy")
    return hold.ticket


def _read(book: Book, rows: list[tuple[int, bytes]]) -> bool:
    """Take journal rows in; False, and nothing is, where entries are missing before them."""
    for last, row in rows:
        for seq, body in entries_in(last, row):
            if seq <= book.position:
                continue
            if seq != book.position + 1:
                return False
            book.apply(seq, _decode(body))
    book.notes.clear()
    return True


def _hold_of(found: Found) -> Hold:
    t, plan = found.ticket, found.plan
    gauges = plan.gauges if plan.shown.soft else plan.alike
    answer = Answer(t.decision_id, t.model, found.offer.worst, t.expires_ms, gauges, plan.shown, found.used)
    return hold_of(answer, t)
