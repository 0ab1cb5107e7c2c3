"""The ring beside an SQLite file: whatever dies and whenever, each entry of the journal counts once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from router.errors import StoreUnavailable
from router.stores import ring as ring_module
from router.stores.open import open_stores
from router.stores.ring import START, Ring, entries_in
from tests.stores import hammering
from tests.stores.conftest import Clock, replicas
from tests.stores.making import RELEASED, budget, buy, offer, principal, reservation, spend, spent_and_held

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pointsman.db"


def ring_of(path: Path) -> Ring:
    """A ring like another process's, begun if it is new."""
    ring = Ring(path, mode=0o600)
    assert ring.lock()
    if ring.in_doubt:
        ring.begin(0)
    ring.follow()
    ring.unlock()
    return ring


def test_what_one_process_writes_another_reads_in_order(tmp_path: Path) -> None:
    one, other = ring_of(tmp_path / "ring"), ring_of(tmp_path / "ring")
    assert one.append(1, b"a")
    assert list(other.unread()) == [(1, b"a")]
    assert other.append(2, b"bc")
    assert list(one.unread()) == [(2, b"bc")]
    assert list(entries_in(*one.run())) == [(1, b"a"), (2, b"bc")]


def test_two_processes_never_have_the_lock_at_once(tmp_path: Path) -> None:
    one, other = ring_of(tmp_path / "ring"), ring_of(tmp_path / "ring")
    assert one.lock()
    assert not other.lock()
    one.unlock()
    assert other.lock()


def test_an_entry_whose_process_died_while_writing_it_is_none_and_is_written_over(tmp_path: Path) -> None:
    one = ring_of(tmp_path / "ring")
    assert one.append(1, b"whole")
    end = one._end
    assert one.append(2, b"torn")
    with (tmp_path / "ring").open("r+b") as file:
        file.seek(end + 18)
        file.write(b"\0\0")
    other = ring_of(tmp_path / "ring")
    assert list(other.unread()) == [(1, b"whole")]
    assert other.append(2, b"next")
    assert list(entries_in(*other.run())) == [(1, b"whole"), (2, b"next")]


def test_what_an_earlier_generation_left_behind_is_not_read(tmp_path: Path) -> None:
    one, other = ring_of(tmp_path / "ring"), ring_of(tmp_path / "ring")
    for seq in (1, 2, 3):
        assert one.append(seq, b"same length")
    one.begin(3)
    assert one.append(4, b"same length")
    assert not other.is_followed
    assert list(entries_in(*other.run())) == [(4, b"same length")]


def test_a_full_ring_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_module, "SIZE", START + 100)
    one = ring_of(tmp_path / "ring")
    assert one.append(1, bytes(60))
    assert not one.append(2, bytes(60))
    assert one.run()[0] == 1


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


@pytest.mark.parametrize("dies_at", ["COMMIT", "begin"])
async def test_a_death_around_a_commit_neither_loses_nor_doubles_an_entry(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    """The ring has been taken over, or has not: only the file can tell."""

    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    b = budget(100)
    async with replicas(f"sqlite:///{path}", clock) as (dying, heir):
        await buy(dying, principal(b), 10, now_ms=clock())
        database = dying.ledger._db  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            if dies_at == "begin":
                patch.setattr(database.ring, "begin", die)
            else:
                run = database.execute
                patch.setattr(database, "execute", lambda sql, *v: die() if sql == dies_at else run(sql, *v))
            with pytest.raises(Died):
                await dying.ledger.store()
            assert database.ring.in_doubt
        for gateway, spent in ((heir, 10), (dying, 20)):
            assert await spent_and_held(gateway, b, clock()) == (spent, 0)
            await buy(gateway, principal(b), 10, now_ms=clock())
        for gateway in (heir, dying):
            assert await spent_and_held(gateway, b, clock()) == (30, 0)


async def test_an_idle_gateway_leaves_nothing_in_the_ring(path: Path, clock: Clock) -> None:
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        await buy(stores, principal(budget(100)), 10, now_ms=clock())
        await stores.ledger.tend()
        with sqlite3.connect(path) as file:
            assert file.execute("SELECT max(seq) FROM entry").fetchone()[0] == 2
        file.close()


async def test_a_key_that_changes_is_heard_of_between_entries_of_the_ring(path: Path, clock: Clock) -> None:
    b = budget(100)
    async with replicas(f"sqlite:///{path}", clock) as (one, other):
        await buy(one, principal(b), 10, now_ms=clock())
        key, _ = await other.keys.create("acme")
        await other.keys.disable(key.id)
        await buy(one, principal(b), 10, now_ms=clock())
        await buy(other, principal(b), 10, now_ms=clock())
        assert await spent_and_held(one, b, clock()) == (30, 0)


async def test_a_file_of_an_earlier_version_is_read_and_no_longer_written_by_it(path: Path, clock: Clock) -> None:
    b = budget(100)
    url = f"sqlite:///{path}"
    async with open_stores(url, clock=clock) as stores:
        hold = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock()))
        await stores.ledger.store()
        with sqlite3.connect(path) as file:  # as earlier versions kept it: one row for each entry
            entries = [e for row in file.execute("SELECT seq, body FROM entry") for e in entries_in(*row)]
            file.execute("DROP VIEW journal")
            file.execute("DELETE FROM entry")
            file.executemany("INSERT INTO entry VALUES (?, ?)", entries)
            file.execute("ALTER TABLE entry RENAME TO journal")
            file.execute("DELETE FROM page")
            file.execute("CREATE TABLE account (scope TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID")
            file.execute("DELETE FROM fact WHERE name = 'paged'")
        file.close()
        async with open_stores(url, clock=clock) as upgraded:
            assert await spent_and_held(upgraded, b, clock()) == (0, 60)
            await upgraded.ledger.settle(hold, spend(20))
            assert await spent_and_held(upgraded, b, clock()) == (20, 0)
            with sqlite3.connect(path) as earlier, pytest.raises(sqlite3.OperationalError, match="view"):
                earlier.execute("INSERT INTO journal (seq, body) VALUES (9, x'00')")
            earlier.close()


async def test_a_ring_beside_another_file_stops_the_start(path: Path, clock: Clock) -> None:
    """An older copy of the file was put back, its ring was left."""
    url = f"sqlite:///{path}"
    async with open_stores(url, clock=clock) as stores:
        await buy(stores, principal(budget(100)), 10, now_ms=clock())
    path.unlink()
    ring = ring_of(Path(f"{path}-ring"))
    ring.doubt()
    with pytest.raises(StoreUnavailable, match="is not of the database beside it"):
        async with open_stores(url, clock=clock):
            pass


async def test_after_a_power_cut_the_file_is_what_counts(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has started anew and the file has lost what the ring followed."""
    b = budget(100)
    url = f"sqlite:///{path}"
    async with open_stores(url, clock=clock) as stores:
        await buy(stores, principal(b), 10, now_ms=clock())
    path.unlink()
    monkeypatch.setattr(ring_module, "boot_id", lambda: b"another".ljust(36))
    async with open_stores(url, clock=clock) as stores:
        await buy(stores, principal(b), 20, now_ms=clock())
        assert await spent_and_held(stores, b, clock()) == (20, 0)


async def test_a_refusal_that_repeats_does_not_keep_the_ring_from_being_taken_over(path: Path, clock: Clock) -> None:
    b = budget(100)
    async with open_stores(f"sqlite:///{path}", clock=clock) as stores:
        for _ in range(300):
            hold = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock()))
            await stores.ledger.settle(hold, RELEASED)
        assert await spent_and_held(stores, b, clock()) == (0, 0)
        with sqlite3.connect(path) as file:
            assert file.execute("SELECT max(seq) FROM entry").fetchone()[0] > 300
        file.close()


async def test_processes_killed_at_random_lose_and_double_no_settlement(path: Path, tmp_path: Path) -> None:
    """What they were told is settled is charged; at most what each was settling when it died is charged beyond."""
    url, draw = f"sqlite:///{path}", random.Random(7)
    b = budget(hammering.LIMIT)
    told: list[Path] = []

    def start() -> subprocess.Popen[bytes]:
        told.append(tmp_path / f"told{len(told)}")
        command = [sys.executable, "-m", "tests.stores.hammering", url, str(len(told))]
        with told[-1].open("wb") as out:
            return subprocess.Popen(command, stdout=out)

    def said(line: int) -> int:
        """The sum over all processes of this number of their last whole line."""
        lines = [path.read_text().rpartition("\n")[0].rpartition("\n")[2] for path in told]
        return sum(int(text.split()[line]) for text in lines if text)

    async with open_stores(url, clock=hammering.now_ms) as watching:
        processes = [start() for _ in range(3)]
        until = time.monotonic() + 8
        while time.monotonic() < until:
            await asyncio.sleep(draw.random() * 0.6)
            dies = draw.randrange(3)
            processes[dies].kill()
            processes[dies].wait()
            spent, held = await spent_and_held(watching, b, hammering.now_ms())
            assert 0 <= spent + held <= hammering.LIMIT
            processes[dies] = start()
        for process in processes:
            process.kill()
            process.wait()
        while (await spent_and_held(watching, b, hammering.now_ms()))[1]:
            await asyncio.sleep(0.05)
        spent, _ = await spent_and_held(watching, b, hammering.now_ms())
    assert 0 < said(0) <= spent <= said(1)
    async with open_stores(url, clock=hammering.now_ms) as stores:
        assert await spent_and_held(stores, b, hammering.now_ms()) == (spent, 0)
