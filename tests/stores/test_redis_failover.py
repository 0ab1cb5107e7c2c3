"""A replica that was behind is promoted: what was settled is charged once, and what cannot be known is charged too."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.errors import BudgetExceeded, StoreUnavailable
from router.stores.open import open_stores
from router.stores.redis import settling
from router.stores.redis.replication import Replication, Unreplicated, replication_of
from router.stores.redis.settlement import Settlement
from router.types import RELEASED, RateLimit
from tests.stores.conftest import Clock, RedisProcess
from tests.stores.making import budget, buy, offer, principal, reservation, spend, spent_and_held
from tests.stores.pair import Pair, back

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    """Time is too short for seconds of a disk here."""
    monkeypatch.setattr(settling, "DISK_S", 0.0)
    found = Pair(tmp_path)
    await found.up()
    yield found
    await found.down()


async def test_what_was_settled_and_not_replicated_is_charged_by_the_promoted_one(pair: Pair, clock: Clock) -> None:
    b, limit = budget(1000), RateLimit("key:k", 1000, 100_000, 10)
    who = principal(b, limit)
    async with open_stores(pair.url, clock=clock) as stores:
        await buy(stores, who, 100, now_ms=clock())
        held = await stores.ledger.reserve(reservation(who, offer(60), now_ms=clock()))
        given_up = await stores.ledger.reserve(reservation(who, offer(50), now_ms=clock()))
        await pair.in_step()
        pair.link.flows.clear()
        for _ in range(20):
            await buy(stores, who, 10, now_ms=clock())
            await stores.ledger.tend()
        await stores.ledger.settle(held, spend(40))
        await stores.ledger.settle(given_up, RELEASED)
        streamed = await stores.ledger.reserve(reservation(who, offer(70), now_ms=clock()))
        await stores.ledger.mark(streamed)
        await stores.ledger.tend()
        assert await spent_and_held(stores, b, clock()) == (340, 70)
        await pair.promote()
        await back(stores)
        assert await spent_and_held(stores, b, clock()) == (340, 70)
        lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
        assert sum(line.cost_nanousd for line in lines) == 340
        kinds = [entry.kind for entry in await stores.audit.read()]
        assert (kinds.count("hold.recovered"), kinds.count("hold.restored")) == (20, 1)
        await stores.ledger.settle(streamed, spend(60))
        clock.pass_s(3)
        with pytest.raises(BudgetExceeded):
            await buy(stores, who, 601, now_ms=clock())
        await buy(stores, who, 600, now_ms=clock())


async def test_while_gateways_say_again_what_they_had_more_may_be_held_than_there_is_and_nobody_may_reserve(
    pair: Pair, clock: Clock
) -> None:
    b = budget(1000)
    who = principal(b)
    async with open_stores(pair.url, clock=clock) as here, open_stores(pair.url, clock=clock) as there:
        cheap = await here.ledger.reserve(reservation(who, offer(900), now_ms=clock()))
        await pair.in_step()
        pair.link.flows.clear()
        await here.ledger.settle(cheap, spend(10))
        streamed = await there.ledger.reserve(reservation(who, offer(900), now_ms=clock()))
        await there.ledger.mark(streamed)
        await pair.promote()
        await back(there)
        assert await spent_and_held(there, b, clock()) == (0, 1800)  # the settlement of the other is not there yet
        with pytest.raises(StoreUnavailable, match="being restored"):
            await buy(there, who, 1, now_ms=clock())
        await back(here)
        assert await spent_and_held(there, b, clock()) == (10, 900)


async def test_of_two_settlements_the_first_is_said_again(pair: Pair, clock: Clock) -> None:
    b = budget(1000)
    async with open_stores(pair.url, clock=clock) as stores:
        hold = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock()))
        await stores.ledger.tend()
        await pair.in_step()
        pair.link.flows.clear()
        await asyncio.gather(*(stores.ledger.settle(hold, spend(cost)) for cost in (10, 60)))
        assert await spent_and_held(stores, b, clock()) == (10, 0)
        await pair.promote()
        await back(stores)
        assert await spent_and_held(stores, b, clock()) == (10, 0)


async def test_what_is_said_again_counts_where_it_was_settled(pair: Pair, clock: Clock) -> None:
    """Not in the month in which a replica was promoted, nor for longer than others of its time."""
    clock.now_ms = 1_803_859_190_000  # ten seconds before March
    month, minute = budget(100, calendar="month"), budget(100, scope="team:t", period_s=60)
    async with open_stores(pair.url, clock=clock) as stores:
        await stores.ledger.tend()
        await pair.in_step()
        pair.link.flows.clear()
        await buy(stores, principal(month, minute), 60, now_ms=clock())
        clock.pass_s(50)
        await pair.promote()
        await back(stores)
        assert await spent_and_held(stores, month, clock()) == (0, 0)
        assert await spent_and_held(stores, minute, clock()) == (60, 0)
        clock.pass_s(12)
        assert await spent_and_held(stores, minute, clock()) == (0, 0)
        lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
        assert [(line.day, line.cost_nanousd) for line in lines] == [("2027-02-28", 60)]


async def test_a_replica_that_was_in_step_charges_nothing_twice(pair: Pair, clock: Clock) -> None:
    b = budget(1000)
    async with open_stores(pair.url, clock=clock) as stores:
        for _ in range(10):
            await buy(stores, principal(b), 10, now_ms=clock())
        await pair.in_step()
        await pair.promote()
        for _ in range(2):
            await back(stores)
        assert await spent_and_held(stores, b, clock()) == (100, 0)
        assert await stores.audit.read() == []


async def test_what_all_replicas_have_is_kept_no_longer(pair: Pair, clock: Clock) -> None:
    async with open_stores(pair.url, clock=clock) as stores:
        kept = stores.ledger._settling._unreplicated  # type: ignore[attr-defined]
        await buy(stores, principal(budget(100)), 10, now_ms=clock())
        assert len(kept) == 1
        while len(kept):
            await stores.ledger.tend()
            await asyncio.sleep(0.05)
        pair.link.flows.clear()
        await buy(stores, principal(budget(100)), 10, now_ms=clock())
        for _ in range(3):
            await asyncio.sleep(0.05)
            await stores.ledger.tend()
        assert len(kept) == 1


async def test_a_replica_that_left_before_a_gateway_came_is_waited_for_too(pair: Pair, clock: Clock) -> None:
    """Redis remembers for ten minutes which replicas it has seen."""
    b = budget(1000)
    async with open_stores(pair.url, clock=clock) as first:
        await first.ledger.tend()
    await pair.in_step()
    await pair.link.aclose()
    while b"connected_slaves:0" not in await pair.ask(pair.primary, "INFO replication"):
        await asyncio.sleep(0.02)
    async with open_stores(pair.url, clock=clock) as stores:
        await buy(stores, principal(b), 10, now_ms=clock())
        for _ in range(3):
            await asyncio.sleep(0.02)
            await stores.ledger.tend()
        await pair.promote()
        await back(stores)
        assert await spent_and_held(stores, b, clock()) == (10, 0)


@pytest.mark.parametrize(("dies", "charged"), [("has settled", 20), ("sends", 60)])
async def test_what_a_killed_gateway_did_is_charged_by_the_promoted_one_from_its_disk(
    pair: Pair, clock: Clock, tmp_path: Path, dies: str, charged: int
) -> None:
    """However long it stays away, and once."""
    b = budget(100)
    async with open_stores(pair.url, clock=clock) as other:
        await other.ledger.tend()
        await pair.in_step()
        pair.link.flows.clear()
        url = f"{pair.url}&outbox={tmp_path / 'owed'}"
        command = [sys.executable, "-m", "tests.stores.dying", url, dies]
        dying = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert dying.stdin is not None
        assert dying.stdout is not None
        assert await dying.stdout.readline() == b"held\n"
        dying.stdin.write(b"go on\n")
        assert await dying.wait() == -signal.SIGKILL
        await pair.promote()
        await back(other)
        for pause_s in (1800, 7200):  # within the period of the budget, and after it
            clock.pass_s(pause_s)
            async with open_stores(url, clock=clock) as heir:
                await back(heir)
                assert await spent_and_held(heir, b, clock()) == (charged if pause_s == 1800 else 0, 0)
                lines = await heir.spend.lines(since="2027-01-01", until="2027-12-31")
                assert [(line.requests, line.cost_nanousd) for line in lines] == [(1, charged)]


async def test_an_heir_charges_nothing_that_redis_has_however_late_it_comes(
    tmp_path: Path, clock: Clock, redis_process: RedisProcess
) -> None:
    b = budget(100)
    url = f"{redis_process.url}?prefix={{{tmp_path.name}}}&outbox={tmp_path / 'owed'}"
    command = [sys.executable, "-m", "tests.stores.dying", url, "has settled"]
    dying = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert dying.stdin is not None
    dying.stdin.write(b"go on\n")
    assert await dying.wait() == -signal.SIGKILL
    clock.pass_s(7200)
    async with open_stores(url, clock=clock) as heir:
        assert await spent_and_held(heir, budget(100, period_s=86_400), clock()) == (0, 0)
        lines = await heir.spend.lines(since="2027-01-01", until="2027-12-31")
        assert [(line.requests, line.cost_nanousd) for line in lines] == [(1, 20)]
        assert await spent_and_held(heir, b, clock()) == (0, 0)


@pytest.mark.parametrize("is_marked", [True, False])
async def test_what_was_sent_of_a_hold_whose_gateway_is_gone_is_not_known_and_charged(
    pair: Pair, clock: Clock, is_marked: bool
) -> None:
    b = budget(100)
    async with open_stores(pair.url, clock=clock) as other, contextlib.AsyncExitStack() as stack:
        gone = await stack.enter_async_context(open_stores(pair.url, clock=clock))
        hold = await gone.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock(), ttl_ms=5000))
        await pair.in_step()
        pair.link.flows.clear()
        if is_marked:
            await gone.ledger.mark(hold)
        for task in gone.ledger._tasks:  # type: ignore[attr-defined]
            task.cancel()
        gone.ledger._mine.clear()  # type: ignore[attr-defined]
        await pair.promote()
        await back(other)
        clock.pass_s(6)
        assert await spent_and_held(other, b, clock()) == (60, 0)
        ended = (await other.audit.read())[-1]
        assert (ended.kind, ended.detail["charged"]) == ("hold.expired", 60)
        assert "not known" in str(ended.detail["reason"])


async def test_a_hold_whose_gateway_comes_back_is_what_it_says(pair: Pair, clock: Clock) -> None:
    """Nothing was sent of it, and its gateway tells the promoted one so, though its lease has ended meanwhile."""
    b = budget(100)
    async with open_stores(pair.url, clock=clock) as stores:
        await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock(), ttl_ms=5000))
        await pair.in_step()
        await pair.promote()
        clock.pass_s(6)
        await back(stores)
        clock.pass_s(6)
        assert await spent_and_held(stores, b, clock()) == (0, 0)


async def test_too_much_for_a_replica_that_stays_behind_is_kept_as_a_sum_and_charged(
    pair: Pair, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settling, "MOST_KEPT", 5)
    b = budget(1000)
    async with open_stores(pair.url, clock=clock) as stores:
        await stores.ledger.tend()
        await pair.in_step()
        pair.link.flows.clear()
        with caplog.at_level(logging.ERROR):
            for _ in range(30):
                await buy(stores, principal(b), 10, now_ms=clock())
                await stores.ledger.tend()
        assert caplog.text.count("behind") == 1
        await pair.promote()
        for _ in range(2):
            await back(stores)
        assert await spent_and_held(stores, b, clock()) == (300, 0)


async def test_the_second_hold_of_a_decision_is_not_ended_by_the_first_ones_settlement(
    tmp_path: Path, clock: Clock
) -> None:
    """A failed model is released and the next one held under the same id; then Redis restarts."""
    process = RedisProcess(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    process.start()
    b = budget(100)
    try:
        async with open_stores(process.url, clock=clock) as stores:
            first = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock(), id="same"))
            await stores.ledger.settle(first, RELEASED)
            again = await stores.ledger.reserve(reservation(principal(b), offer(70), now_ms=clock(), id="same"))
            process.kill()
            process.start()
            await back(stores)
            assert await spent_and_held(stores, b, clock()) == (0, 70)
            await stores.ledger.settle(again, spend(30))
            assert await spent_and_held(stores, b, clock()) == (30, 0)
    finally:
        process.kill()


# what is kept, and for how long


def ended(name: str, cost: int = 10) -> Settlement:
    return Settlement(name, "owner", cost, 1, 2, "settled", "who", 20, 5, 0, b"[]", 0)


def reported(offset: int, **replicas: int) -> Replication:
    return Replication(offset, "line", "", -1, replicas)


def test_a_settlement_is_kept_until_the_disk_and_every_replica_have_it() -> None:
    kept = Unreplicated(most=100)
    kept.add(ended("a"), 1.0)
    kept.heard(reported(50, one=40, two=60), ["one", "two"], 2.0)
    kept.add(ended("b"), 3.0)
    assert kept.safe(9.0, age_s=5.0) == []
    kept.heard(reported(70, one=50, two=70), ["one", "two"], 4.0)
    assert kept.safe(5.0, age_s=5.0) == []
    assert kept.safe(6.0, age_s=5.0) == ["a"]
    kept.heard(reported(70, one=70, two=70), ["one", "two"], 4.0)
    assert kept.safe(9.0, age_s=5.0) == ["b"]


def test_a_replica_that_is_not_connected_is_waited_for_while_it_is_remembered() -> None:
    kept = Unreplicated(most=100)
    kept.add(ended("a"), 1.0)
    kept.heard(reported(50, one=20), ["one"], 2.0)
    kept.heard(reported(50), ["one"], 3.0)
    assert kept.safe(9.0, age_s=5.0) == []
    kept.heard(reported(50), [], 4.0)
    assert kept.safe(9.0, age_s=5.0) == ["a"]


def test_what_is_settled_while_redis_answers_is_not_before_that_offset() -> None:
    kept = Unreplicated(most=100)
    kept.add(ended("late"), 2.5)
    kept.heard(reported(50, one=50), ["one"], 2.0)
    assert kept.safe(99.0, age_s=5.0) == []


def test_sums_are_charged_again_only_by_a_promoted_one_that_had_not_come_so_far() -> None:
    for forked_at, lineage, again in ((30, "line", 2), (60, "line", 1), (60, "other", 2), (-1, "line", 1)):
        kept = Unreplicated(most=1)
        for name in "abc":
            kept.add(ended(name), 1.0)
        kept.heard(reported(50, one=0), ["one"], 2.0)
        assert kept.overflow() == ["a", "b"]
        lost = kept.lost(Replication(60, "new", lineage, forked_at, {}))
        assert len(lost) == again
        assert sum(each.cost for each in lost) == 10 * (3 if again == 2 else 1)
        assert kept.lost(Replication(60, "new", lineage, forked_at, {})) == lost  # until Redis has it


def test_replication_is_read_as_redis_says_it() -> None:
    text = (
        "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n"
        "slave0:ip=10.0.0.7,port=6379,state=online,offset=1200,lag=1\r\n"
        "slave1:ip=10.0.0.8,port=6379,state=wait_bgsave,offset=0,lag=0\r\n"
        "master_replid:aa\r\nmaster_replid2:bb\r\nmaster_repl_offset:1300\r\nsecond_repl_offset:901\r\n"
    )
    assert replication_of(text) == Replication(1300, "aa", "bb", 900, {"10.0.0.7:6379": 1200})
    assert replication_of("") == Replication()
