"""What only the SQLite ledger does: rows that are whole transactions, and a journal that is stored and forgotten."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest

from router.errors import BudgetExceeded
from router.stores.book import Book
from router.stores.open import open_stores
from router.stores.ring import Ring
from router.stores.sqlite import database as sqlite
from router.stores.sqlite import ledger as sqlite_ledger
from tests.stores.conftest import T0, Clock, replicas
from tests.stores.making import budget, buy, offer, principal, reservation, spend, spent_and_held

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pointsman.db"


async def test_gateways_that_take_turns_see_each_others_every_hold(path: Path, clock: Clock) -> None:
    """Each decides on its own memory first; the file refuses what was decided on stale memory."""
    b = budget(100)
    async with replicas(f"sqlite:///{path}", clock) as both:
        for i in range(10):
            await asyncio.sleep(0)
            await buy(both[i % 2], principal(b), 10, now_ms=clock())
        for gateway in both:
            await asyncio.sleep(0)
            with pytest.raises(BudgetExceeded):
                await buy(gateway, principal(b), 1, now_ms=clock())


async def test_a_gateway_that_slept_while_the_journal_was_forgotten_decides_on_what_happened(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_ledger, "JOURNAL_KEPT", 5)
    monkeypatch.setattr(sqlite_ledger, "STORE_EVERY", 10)
    monkeypatch.setattr(sqlite_ledger, "LAG", 20)
    monkeypatch.setattr(sqlite_ledger, "TICK_S", 3600)
    b = budget(100)
    async with replicas(f"sqlite:///{path}", clock) as (asleep, awake):
        await buy(asleep, principal(b), 1, now_ms=clock())
        for _ in range(99):
            await asyncio.sleep(0)
            await buy(awake, principal(b), 1, now_ms=clock())
        with sqlite3.connect(path) as file:
            oldest = file.execute("SELECT min(seq) FROM journal").fetchone()[0]
        file.close()
        assert oldest > 3  # the entries that `asleep` has not read are gone
        with pytest.raises(BudgetExceeded):
            await buy(asleep, principal(b), 1, now_ms=clock())


def stored(path: Path) -> int:
    """The position up to which balances are stored."""
    with sqlite3.connect(path) as file:
        row = file.execute("SELECT value FROM fact WHERE name = ?", (sqlite_ledger.STORED,)).fetchone()
    file.close()
    return int(row[0]) if row else 0


@pytest.mark.parametrize(("tenants", "is_stored"), [(1, True), (100, False)])
async def test_balances_of_many_tenants_are_stored_less_often(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, tenants: int, is_stored: bool
) -> None:
    monkeypatch.setattr(sqlite_ledger, "STORE_EVERY", 10)
    monkeypatch.setattr(sqlite_ledger, "LAG", 20)
    monkeypatch.setattr(sqlite_ledger, "LAG_MOST", 400)
    monkeypatch.setattr(sqlite_ledger, "TICK_S", 3600)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:

        async def buy_of_each(count: int) -> None:
            for i in range(count):
                name = f"t{i % tenants}"
                await buy(stores, principal(budget(1000, scope=f"tenant:{name}"), tenant=name), 1, now_ms=clock())

        await buy_of_each(100)
        assert (stored(path) > 0) == is_stored
        await buy_of_each(400)
        assert stored(path) > 0
        assert await spent_and_held(stores, budget(1000, scope="tenant:t0"), clock()) == (500 // tenants, 0)


async def test_who_starts_reads_the_journal_while_others_go_on_writing(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, b = f"sqlite:///{path}", budget(10_000)
    could_write: dict[int, bool] = {}
    read = sqlite_ledger._read

    async with open_stores(url, clock=clock) as running:
        for _ in range(300):
            await buy(running, principal(b), 1, now_ms=clock())
        ring = Ring(Path(f"{path}-ring"), mode=0o600)

        def reading(book: Book, rows: list[tuple[int, bytes]]) -> bool:
            for seq, _ in rows:
                could_write.setdefault(seq, ring.lock())
                ring.unlock()
            return read(book, rows)

        monkeypatch.setattr(sqlite_ledger, "_read", reading)
        async with open_stores(url, clock=clock) as started:
            assert await spent_and_held(started, b, clock()) == (300, 0)
        ring.close()
    first = min(could_write)
    assert first >= 256  # one row for all entries of the ring
    assert could_write[first]


async def test_a_soft_budget_crossed_by_a_lone_settlement_is_in_the_audit_log(path: Path, clock: Clock) -> None:
    b = budget(100, hard=False)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        hold = await stores.ledger.reserve(reservation(principal(b), offer(90), now_ms=clock()))
        await asyncio.sleep(0)
        await stores.ledger.settle(hold, spend(85))
        assert [entry.kind for entry in await stores.audit.read()] == ["budget.80%"]


def as_earlier_versions_stored_it(path: Path, body: object) -> None:
    """Balances after the second entry in a row for each scope, and no pages."""
    line = ("2027-01-15", "acme", "", "k_acme", "small", 2, 1, 3, 4, 60)
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE account (scope TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID")
        file.execute("INSERT INTO account VALUES ('tenant:acme', ?)", (msgspec.msgpack.encode(body),))
        file.execute("INSERT INTO spend VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", line)
        file.execute("DELETE FROM page")
        file.execute("DELETE FROM fact WHERE name = ?", (sqlite_ledger.STORED,))
    file.close()


SLOT_NOW = T0 // 60_000  # an hour has 60
EARLIER = {
    "maps": {"3600": (2, SLOT_NOW, 60, 0, {SLOT_NOW - 1: 20}, 40)},
    "maps whose last slot is among the others": {"3600": (2, SLOT_NOW, 60, 0, {SLOT_NOW - 1: 20, SLOT_NOW: 40})},
    "rows": [("3600", 2, SLOT_NOW, 60, 0, [(SLOT_NOW - 1, 20), (SLOT_NOW, 40)])],
}


@pytest.mark.parametrize("form", EARLIER)
async def test_balances_stored_by_an_earlier_version_are_read_and_what_the_journal_says_of_later(
    path: Path, clock: Clock, form: str
) -> None:
    b = budget(100)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        for cost in (60, 10):
            await buy(stores, principal(b), cost, now_ms=clock())
        hold = await stores.ledger.reserve(reservation(principal(b), offer(5), now_ms=clock()))
    as_earlier_versions_stored_it(path, EARLIER[form])
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        assert await spent_and_held(stores, b, clock()) == (70, 5)
        await stores.ledger.settle(hold, spend(4))
        assert await spent_and_held(stores, b, clock()) == (74, 0)
        lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
        assert [(line.requests, line.cost_nanousd) for line in lines] == [(3, 74)]
    with sqlite3.connect(path) as earlier, pytest.raises(sqlite3.OperationalError, match="view"):
        earlier.execute("INSERT OR REPLACE INTO account VALUES ('tenant:acme', x'80')")
    earlier.close()


async def test_a_load_that_never_pauses_does_not_make_the_write_ahead_log_grow_for_ever(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved into the file only while others write, it never is all there, and is never begun anew."""
    monkeypatch.setattr(sqlite, "CHECKPOINT_S", 0.001)
    monkeypatch.setattr(sqlite, "WAL_PAGES", 10)
    monkeypatch.setattr(sqlite, "WAL_LONG", 20)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        for written in range(1, 4000):
            await stores.audit.note("test", "", {"text": "x" * 4000})  # a page and more
            await asyncio.sleep(0.0002)
            if written > 200 and Path(f"{path}-wal").stat().st_size < written * 4096 / 2:
                return
        pytest.fail("every page that was ever written is in the log")
