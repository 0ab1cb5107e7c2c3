"""What only the SQLite ledger does: rows that are whole transactions, and a journal that is stored and forgotten."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest

from router.errors import BudgetExceeded
from router.stores import sqlite, sqlite_ledger
from router.stores.open import open_stores
from tests.stores.conftest import Clock, replicas
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


async def test_a_soft_budget_crossed_by_a_lone_settlement_is_in_the_audit_log(path: Path, clock: Clock) -> None:
    b = budget(100, hard=False)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        hold = await stores.ledger.reserve(reservation(principal(b), offer(90), now_ms=clock()))
        await asyncio.sleep(0)
        await stores.ledger.settle(hold, spend(85))
        assert [entry.kind for entry in await stores.audit.read()] == ["budget.80%"]


async def test_accounts_stored_by_an_earlier_version_are_read(path: Path, clock: Clock) -> None:
    b = budget(100)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        await buy(stores, principal(b), 60, now_ms=clock())
    with sqlite3.connect(path) as file:
        for scope, body in file.execute("SELECT scope, body FROM account").fetchall():
            of = msgspec.msgpack.decode(body)
            rows = [
                (name, seq, slot, total, held, [*ring.items(), (slot, now)])
                for name, (seq, slot, total, held, ring, now) in of.items()
            ]
            file.execute("UPDATE account SET body = ? WHERE scope = ?", (msgspec.msgpack.encode(rows), scope))
    file.close()
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        assert await spent_and_held(stores, b, clock()) == (60, 0)


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
