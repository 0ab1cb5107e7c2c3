"""What only the SQLite ledger does: plain tables, groups of requests, one file and whatever happens to it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from router.errors import BudgetExceeded, StoreUnavailable
from router.stores.open import Stores, open_stores
from router.stores.sqlite import database as sqlite
from router.types import Hold, NanoUsd, RateLimit, Spend
from tests.stores import hammering
from tests.stores.conftest import Clock, replicas
from tests.stores.making import budget, buy, offer, principal, reservation, spend, spent_and_held

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pointsman.db"


@contextmanager
def shell(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as an operator opens it."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection:
        yield connection


async def test_gateways_that_take_turns_see_each_others_every_hold(path: Path, clock: Clock) -> None:
    b = budget(100)
    async with replicas(f"sqlite:///{path}", clock) as both:
        for i in range(10):
            await asyncio.sleep(0)
            await buy(both[i % 2], principal(b), 10, now_ms=clock())
        for gateway in both:
            await asyncio.sleep(0)
            with pytest.raises(BudgetExceeded):
                await buy(gateway, principal(b), 1, now_ms=clock())


@pytest.mark.parametrize(
    ("how", "expected", "after_its_lease"),
    [("has settled", (20, 0), (20, 0)), ("holds", (0, 60), (0, 0)), ("sends", (0, 60), (60, 0))],
)
async def test_what_a_process_did_last_outlives_it(
    path: Path, clock: Clock, how: str, expected: tuple[int, int], after_its_lease: tuple[int, int]
) -> None:
    url = f"sqlite:///{path}"
    command = [sys.executable, "-m", "tests.stores.dying", url, how]
    dying = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert dying.stdout is not None
    assert dying.stdout.readline() == "held\n"
    os.kill(dying.pid, signal.SIGKILL)
    dying.communicate()
    async with open_stores(url, clock=clock) as heir:
        assert await spent_and_held(heir, budget(100), clock()) == expected
        clock.pass_s(60)
        assert await spent_and_held(heir, budget(100), clock()) == after_its_lease


async def test_a_key_that_changes_is_heard_of_by_the_other_gateway(path: Path, clock: Clock) -> None:
    b = budget(100)
    async with replicas(f"sqlite:///{path}", clock) as (one, other):
        await buy(one, principal(b), 10, now_ms=clock())
        key, _ = await other.keys.create("acme")
        await other.keys.disable(key.id)
        await buy(one, principal(b), 10, now_ms=clock())
        await buy(other, principal(b), 10, now_ms=clock())
        assert await spent_and_held(one, b, clock()) == (30, 0)


async def test_a_soft_budget_crossed_by_a_lone_settlement_is_in_the_audit_log(path: Path, clock: Clock) -> None:
    b = budget(100, hard=False)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        hold = await stores.ledger.reserve(reservation(principal(b), offer(90), now_ms=clock()))
        await asyncio.sleep(0)
        await stores.ledger.settle(hold, spend(85))
        assert [entry.kind for entry in await stores.audit.read()] == ["budget.80%"]


# plain tables


async def test_an_operator_reads_balances_holds_and_spend_in_the_shell(path: Path) -> None:
    now, b = hammering.now_ms(), budget(1000, period_s=86_400)
    async with open_stores(f"sqlite:///{path}", clock=hammering.now_ms) as stores:
        await buy(stores, principal(b), 30, now_ms=now)
        await stores.ledger.reserve(reservation(principal(b), offer(7), now_ms=now, id="under way"))
        with shell(path) as file:
            balances = file.execute("SELECT scope, meter, spent, held FROM balances").fetchall()
            holds = file.execute("SELECT decision, tenant, model, amount, sent FROM holds").fetchall()
            spent = file.execute("SELECT tenant, model, requests, cost FROM spend").fetchall()
    assert balances == [("tenant:acme", "86400", 30, 7)]
    assert holds == [("under way", "acme", "small", 7, 0)]
    assert spent == [("acme", "small", 1, 30)]


async def test_the_view_of_balances_forgets_what_has_left_the_window(path: Path) -> None:
    clock, b = Clock(hammering.now_ms() - 3_000_000), budget(1000, period_s=3600)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        for _ in range(60):
            await buy(stores, principal(b), 1, now_ms=clock())
            clock.pass_s(30)
        await buy(stores, principal(budget(9, period_s=30)), 5, now_ms=clock())
        with shell(path) as file:
            seen = dict(file.execute("SELECT meter, spent FROM balances").fetchall())
        clock.now_ms = hammering.now_ms()
        assert seen == {"3600": (await spent_and_held(stores, b, clock()))[0], "30": 0}
        assert seen["3600"] == 60


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE counters SET spent = -1, fresh = 0",
        "UPDATE counters SET held = -1",
        "UPDATE counters SET fresh = spent + 1",
        "UPDATE counters SET held = 9223372036854775807",
        "UPDATE counters SET spent = 1.5",
        "UPDATE holds SET amount = -1",
        "UPDATE spend SET cost = -1",
        "UPDATE spend SET requests = -1",
    ],
)
async def test_no_table_takes_an_amount_below_zero_or_beyond_all_bounds(path: Path, clock: Clock, change: str) -> None:
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        await buy(stores, principal(budget(100)), 10, now_ms=clock())
        await stores.ledger.reserve(reservation(principal(budget(100)), offer(7), now_ms=clock()))
        with shell(path) as file, pytest.raises(sqlite3.IntegrityError):
            file.execute(change)


async def test_an_operator_resets_a_budget_by_removing_its_counter(path: Path, clock: Clock) -> None:
    """While gateways run, and a hold of before ends afterwards."""
    who, other = principal(budget(100)), principal(budget(100, scope="tenant:bolt"), tenant="bolt")
    async with replicas(f"sqlite:///{path}", clock) as gateways:
        for gateway in gateways:
            await buy(gateway, who, 40, now_ms=clock())
        held = await gateways[0].ledger.reserve(reservation(who, offer(20), now_ms=clock()))
        with shell(path) as file:
            file.execute("DELETE FROM counters")
        await buy(gateways[1], other, 7, now_ms=clock())
        for gateway in gateways:
            await buy(gateway, who, 30, now_ms=clock())
        await gateways[0].ledger.settle(held, spend(20))
        assert await spent_and_held(gateways[0], budget(100), clock()) == (60, 0)
        assert await spent_and_held(gateways[0], budget(100, scope="tenant:bolt"), clock()) == (7, 0)


@pytest.mark.parametrize("table", ["journal", "entry", "account"])
async def test_a_file_of_another_form_stops_the_start_in_one_sentence(path: Path, clock: Clock, table: str) -> None:
    with shell(path) as file:
        file.execute(f"CREATE TABLE {table} (seq INTEGER PRIMARY KEY, body BLOB)")
    with pytest.raises(StoreUnavailable, match="holds tables of another form") as stopped:
        async with open_stores(f"sqlite:///{path}", clock=clock):
            pass
    assert stopped.value.message.count(". ") == 0
    with shell(path) as file:
        assert file.execute("SELECT name FROM sqlite_master").fetchall() == [(table,)]


# groups


def convince(honest: Spend, **lies: object) -> Spend:
    """Past the type."""
    for name, value in lies.items():
        msgspec.structs.force_setattr(honest, name, value)
    return honest


async def reserve_all(stores: Stores, count: int, *, now_ms: int) -> list[Hold]:
    asked = [reservation(principal(budget(1000)), offer(10), now_ms=now_ms) for _ in range(count)]
    return await asyncio.gather(*(stores.ledger.reserve(each) for each in asked))


async def test_requests_of_one_turn_share_a_transaction(path: Path, clock: Clock) -> None:
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        begun = 0

        def count(statement: str) -> None:
            nonlocal begun
            begun += statement.startswith("BEGIN")

        stores.ledger._db._writing.set_trace_callback(count)  # type: ignore[attr-defined]
        await reserve_all(stores, 20, now_ms=clock())
        assert begun == 1


async def test_where_one_of_a_group_fails_only_that_one_fails(path: Path, clock: Clock) -> None:
    b = budget(1000)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        good = [stores.ledger.reserve(reservation(principal(b), offer(10), now_ms=clock())) for _ in range(5)]
        bad = stores.ledger.reserve(reservation(principal(b), offer(10), now_ms=clock(), id="\ud800"))
        found = await asyncio.gather(*good[:3], bad, *good[3:], return_exceptions=True)
        assert [isinstance(each, Hold) for each in found] == [True] * 3 + [False] + [True] * 2
        assert await spent_and_held(stores, b, clock()) == (0, 50)


@pytest.mark.parametrize(("cost", "tokens"), [(2**63, 1), (2**64 - 1, 1), (10, 2**64 - 1), (1.5, 1), ("7", 1)])
async def test_a_settlement_that_is_none_is_charged_at_its_worst_case_and_said(
    path: Path, clock: Clock, cost: object, tokens: int
) -> None:
    """The engine lies; the others of the group are charged what they cost."""
    b = budget(1000)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        one, two = await reserve_all(stores, 2, now_ms=clock())
        lie = Spend(NanoUsd(1), 1, 1, "settled")
        lie = convince(lie, cost=cost, completion_tokens=tokens)
        await asyncio.gather(stores.ledger.settle(one, lie), stores.ledger.settle(two, spend(3)))
        assert await spent_and_held(stores, b, clock()) == (10 + 3, 0)
        (entry,) = await stores.audit.read()
        assert (entry.kind, entry.subject, entry.detail["charged"]) == ("settlement.refused", one.decision_id, 10)
        await stores.ledger.settle(one, lie)
        assert await spent_and_held(stores, b, clock()) == (13, 0)


async def test_sums_beyond_all_bounds_stop_at_the_bound(path: Path, clock: Clock) -> None:
    """A table that takes no more must not keep a hold from ending."""
    soft = budget(2**53, hard=False)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        await buy(stores, principal(soft), 5, now_ms=clock())
        with shell(path) as file:
            file.execute("UPDATE counters SET spent = 1 << 62, fresh = 1 << 62")
        await buy(stores, principal(soft), 7, now_ms=clock())
        assert await spent_and_held(stores, soft, clock()) == (1 << 62, 0)


# a file that is away


@contextmanager
def held_by_another(path: Path) -> Iterator[None]:
    """Somebody's shell has begun to write and does not end."""
    with shell(path) as file:
        file.execute("BEGIN IMMEDIATE")
        yield


async def test_the_loop_goes_on_while_another_process_writes(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.3)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        with held_by_another(path):
            asked = asyncio.ensure_future(buy(stores, principal(budget(100)), 1, now_ms=clock()))
            turns = 0
            while not asked.done():
                await asyncio.sleep(0.001)
                turns += 1
            with pytest.raises(StoreUnavailable, match="another process has been writing"):
                await asked
        assert turns > 20
        await buy(stores, principal(budget(100)), 1, now_ms=clock())


async def test_what_was_sent_while_the_file_is_away_is_charged_when_it_is_back(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
    b = budget(1000)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        sent, unsent = await reserve_all(stores, 2, now_ms=clock())
        await stores.ledger.mark(sent)
        with held_by_another(path):
            await stores.ledger.settle(sent, spend(4))
            with pytest.raises(StoreUnavailable):
                await stores.ledger.settle(unsent, spend(5))
            with pytest.raises(StoreUnavailable):
                await stores.ledger.mark(unsent)
        await stores.ledger.tend()
        assert await spent_and_held(stores, b, clock()) == (4, 0)


async def test_a_full_disk_reserves_nothing_and_what_was_there_stays(path: Path, clock: Clock) -> None:
    b = budget(10**6)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        await buy(stores, principal(b), 10, now_ms=clock())
        execute = stores.ledger._db.execute  # type: ignore[attr-defined]
        pages = execute("PRAGMA page_count").fetchone()[0]
        execute(f"PRAGMA max_page_count = {pages}")
        refused = 0
        for i in range(300):
            who = principal(b, RateLimit(f"key:{i}{'x' * 200}", 9), tenant="acme")
            try:
                await stores.ledger.reserve(reservation(who, offer(1), now_ms=clock()))
            except StoreUnavailable:
                refused += 1
        execute(f"PRAGMA max_page_count = {1 << 30}")
        assert refused > 0
        assert await spent_and_held(stores, b, clock()) == (10, 300 - refused)
        await buy(stores, principal(b), 10, now_ms=clock())


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


async def test_processes_killed_at_random_lose_and_double_no_settlement(path: Path, tmp_path: Path) -> None:
    """What they were told is settled is charged; at most what each was settling when it died is charged beyond."""
    url, draw = f"sqlite:///{path}", random.Random(7)
    b = budget(hammering.LIMIT)
    reported: list[Path] = []

    def start() -> subprocess.Popen[bytes]:
        reported.append(tmp_path / f"told{len(reported)}")
        command = [sys.executable, "-m", "tests.stores.hammering", url, str(len(reported))]
        with reported[-1].open("wb") as out:
            return subprocess.Popen(command, stdout=out)

    def said(line: int) -> int:
        """The sum over all processes of this number of their last whole line."""
        lines = [path.read_text().rpartition("\n")[0].rpartition("\n")[2] for path in reported]
        return sum(int(text.split()[line]) for text in lines if text)

    async with open_stores(url, clock=hammering.now_ms) as watching:
        processes = [start() for _ in range(4)]
        says = list(reported)  # of each
        for _ in range(12):
            dies = draw.randrange(4)
            while not says[dies].stat().st_size:  # until it has begun
                await asyncio.sleep(0.01)
            await asyncio.sleep(draw.random() * 0.3)
            processes[dies].kill()
            processes[dies].wait()
            spent, held = await spent_and_held(watching, b, hammering.now_ms())
            assert 0 <= spent + held <= hammering.LIMIT
            processes[dies], says[dies] = start(), reported[-1]
        for process in processes:
            process.kill()
            process.wait()
        while (await spent_and_held(watching, b, hammering.now_ms()))[1]:
            await asyncio.sleep(0.05)
        spent, _ = await spent_and_held(watching, b, hammering.now_ms())
    assert 0 < said(0) <= spent <= said(1)
    async with open_stores(url, clock=hammering.now_ms) as stores:
        assert await spent_and_held(stores, b, hammering.now_ms()) == (spent, 0)


@pytest.mark.parametrize("part", ["", "-wal", "-shm"])
@pytest.mark.parametrize("how", ["taken away", "replaced"])
async def test_a_file_taken_from_under_a_gateway_reserves_nothing_until_it_is_back(
    path: Path, clock: Clock, part: str, how: str
) -> None:
    b, place, elsewhere = budget(1000), path.with_name(path.name + part), path.with_name("elsewhere")
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        await buy(stores, principal(b), 10, now_ms=clock())
        (sent,) = await reserve_all(stores, 1, now_ms=clock())
        await stores.ledger.mark(sent)
        place.rename(elsewhere)
        if how == "replaced":
            place.write_bytes(elsewhere.read_bytes())
        with pytest.raises(StoreUnavailable, match=f"{place.name} is not the file that was opened"):
            await buy(stores, principal(b), 10, now_ms=clock())
        with pytest.raises(StoreUnavailable, match="is not the file that was opened"):
            await stores.spend.lines(since="2000-01-01", until="2100-01-01")
        await stores.ledger.settle(sent, spend(4))
        assert place.exists() == (how == "replaced")  # nothing was put in its place
        elsewhere.replace(place)
        await stores.ledger.tend()
        assert await spent_and_held(stores, b, clock()) == (14, 0)
        await buy(stores, principal(b), 10, now_ms=clock())
