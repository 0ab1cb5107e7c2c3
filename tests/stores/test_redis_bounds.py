"""Numbers that lie: none reaches the counters, none is charged twice, and each is seen."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from redis import Redis

from router.errors import BudgetExceeded, InvalidRequest
from router.stores.bounds import MAX_NANO_USD, MAX_TOKENS
from router.stores.open import Stores, open_stores
from router.stores.redis import connection
from router.stores.redis.connection import Link, ScriptRejected
from router.stores.redis.wire import Argument
from router.types import RELEASED, NanoUsd, RateLimit, Spend
from tests.stores.conftest import T0, Clock, RedisProcess, replicas
from tests.stores.making import budget, buy, offer, principal, reservation, spend, spent_and_held
from tests.stores.scripts import changed

pytestmark = pytest.mark.anyio

LIES: list[Any] = [2**64 - 1, 2**63, 2**53, -1, -(10**8), 1.5, 3.0, math.nan, math.inf, True, "7", None]


@pytest.fixture
def url(redis_process: RedisProcess, request: pytest.FixtureRequest) -> str:
    return f"{redis_process.url}?prefix={{{request.node.name.replace('/', '')}}}"


@pytest.fixture
async def stores(url: str, clock: Clock) -> AsyncIterator[Stores]:
    async with open_stores(url, clock=clock) as opened:
        yield opened


@pytest.fixture
async def link(redis_process: RedisProcess) -> AsyncIterator[Link]:
    found = connection.connect(f"{redis_process.url}?prefix={{raw}}")
    yield found
    await found.aclose()


@pytest.mark.parametrize("is_sent", [True, False])
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("part", ["cost", "prompt_tokens", "completion_tokens"])
async def test_a_spend_out_of_all_bounds_is_charged_once_at_its_worst_case_and_seen(
    stores: Stores, clock: Clock, caplog: pytest.LogCaptureFixture, part: str, lie: Any, is_sent: bool
) -> None:
    if part != "cost" and lie == 2**53:
        lie = MAX_TOKENS + 1
    b, limit = budget(1000), RateLimit("key:k", tokens_per_minute=100)
    who = principal(b, limit)
    hold = await stores.ledger.reserve(reservation(who, offer(60), now_ms=clock()))
    if is_sent:
        await stores.ledger.mark(hold)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            lying = spend(20)
            msgspec.structs.force_setattr(lying, part, lie)  # past what the type itself refuses
            await stores.ledger.settle(hold, lying)
            await stores.ledger.tend()
    assert await spent_and_held(stores, b, clock()) == (60, 0)
    assert stores.refused == {"usage": 1}
    assert [entry.kind for entry in await stores.audit.read()] == ["settlement.refused"]
    assert caplog.text.count("is refused") == 1
    lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
    assert [(line.requests, line.cost_nanousd) for line in lines] == [(1, 60)]
    await buy(stores, who, 940, now_ms=clock())


@pytest.mark.parametrize("lie", [*LIES, MAX_NANO_USD + 1])
async def test_a_worst_case_out_of_all_bounds_is_refused_before_redis_is_asked(
    stores: Stores, clock: Clock, lie: Any
) -> None:
    b = budget(2**53)
    too_many = MAX_TOKENS + 1 if isinstance(lie, int) and lie > MAX_TOKENS else lie
    for part, value in (("worst", lie), ("tokens", too_many)):
        bad = offer(1, model="large")
        msgspec.structs.force_setattr(bad, part, value)  # past what the type itself refuses
        with pytest.raises(InvalidRequest, match="large"):
            await stores.ledger.reserve(reservation(principal(b), offer(10), bad, now_ms=clock()))
    assert await spent_and_held(stores, b, clock()) == (0, 0)


@pytest.mark.parametrize("is_sent", [True, False])
async def test_a_settlement_that_redis_refuses_is_charged_once_at_its_worst_case_and_the_answer_delivered(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, is_sent: bool
) -> None:
    """Whatever the reason: here a script that does not take 20."""
    refusing = "if ARGV[4] == '20' then refuse('no twenties') end\nlocal known = read_hold(id)"
    script = changed(connection.script, "local known = read_hold(id)", refusing, only="settle")
    monkeypatch.setattr(connection, "script", script)
    b = budget(1000)
    async with open_stores(url, clock=clock) as stores:
        hold = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock()))
        other = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock()))
        if is_sent:
            await stores.ledger.mark(hold)
        for _ in range(3):
            await stores.ledger.settle(hold, spend(20))
            await stores.ledger.tend()
        await stores.ledger.settle(other, spend(30))
        assert await spent_and_held(stores, b, clock()) == (90, 0)
        assert stores.refused == {"redis": 1}
        refused = (await stores.audit.read())[0]
        assert refused.kind == "settlement.refused"
        assert "no twenties" in str(refused.detail["reason"])


async def test_what_cannot_be_settled_at_all_is_charged_by_the_end_of_its_lease_and_holds_nobody_up(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = "if id == 'bad' then refuse('it') end\nlocal known = read_hold(id)"
    script = changed(connection.script, "local known = read_hold(id)", refusing, only="settle")
    monkeypatch.setattr(connection, "script", script)
    b = budget(1000)
    async with open_stores(url, clock=clock) as stores:
        bad = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock(), id="bad", ttl_ms=5000))
        await stores.ledger.mark(bad)
        await stores.ledger.settle(bad, spend(20))
        for _ in range(3):
            await buy(stores, principal(b), 10, now_ms=clock())
            await stores.ledger.tend()
        clock.pass_s(6)
        assert await spent_and_held(stores, b, clock()) == (90, 0)


TEXTS = ["-1", "1.5", "1e3", "0x10", "nan", "inf", "", " 7", "7 ", "18446744073709551615", "9007199254740994", "٣"]
PLAN = b'[["tenant:acme#3600","budget",1000,1,60000,60,""],["key:k#tokens","tokens",100,1,1000,60,""]]'
PLANS = [
    b"",
    b"null",
    b"7",
    b"[7]",
    b'{"a":1}',
    b"[[]]",
    b'[["a#b","budget",-1,1,60000,60,""]]',
    b'[["a#b","budget",1.5,1,60000,60,""]]',
    b'[["a#b","budget",NaN,1,60000,60,""]]',
    b'[["a#b","budget",1e999,1,60000,60,""]]',
    b'[["a#b","budget",9007199254740994,1,60000,60,""]]',
    b'[["a#b","budget",1,2,60000,60,""]]',
    b'[["a#b","budget",1,1,0,60,""]]',
    b'[["a#b","budget",1,1,60000,1e9,""]]',
    b'[["a#b","money",1,1,60000,60,""]]',
    b'[["a#b","budget",1,1,60000,60,"moon"]]',
    b'[["a#b","budget","1",1,60000,60,""]]',
]
ENDS = ("w\x1f\x1fk\x1fm", 50, 10, T0)
CALLS: dict[str, tuple[Any, ...]] = {
    "reserve": (T0, "d2", "o", 1000, 1000, "w\x1f\x1fk", "m", 50, 10, PLAN),
    "settle": (T0, "d1", "o", 20, 3, 4, "settled", *ENDS, PLAN, 0, 2),
    "restore": (T0, "d3", "o", 1000, 1000, *ENDS, 0, PLAN),
    "tend": (T0, "o", 1, "d9", "d1", 1000),
    "balance": (T0, PLAN),
}
NUMBERS = {
    "reserve": (0, 3, 4, 7, 8),
    "settle": (0, 3, 4, 5, 8, 9, 10, 12, 13),
    "restore": (0, 3, 4, 6, 7, 8, 9),
    "tend": (0, 2, 5),
    "balance": (0,),
}


def contents(client: Redis) -> dict[bytes, bytes]:
    """Everything in this Redis."""
    return {key: client.dump(key) or b"" for key in client.scan_iter()}


@pytest.mark.parametrize("name", CALLS)
async def test_a_script_refuses_each_bad_argument_and_writes_nothing(
    redis_process: RedisProcess, link: Link, name: str
) -> None:
    client: Any = Redis(unix_socket_path=str(redis_process.socket))
    held = (T0, "d1", "o", 100_000, 100_000, "w\x1f\x1fk", "m", 50, 10, PLAN)
    assert (await link.call("reserve", *held))[0] in (1, -2)
    before = contents(client)
    good = CALLS[name]
    bad: list[tuple[int, str | bytes]] = [(i, text) for i in NUMBERS[name] for text in TEXTS]
    bad += [(i, plan) for i, word in enumerate(good) if word is PLAN for plan in PLANS]
    bad += [(6, "charged")] if name == "settle" else []
    for i, text in bad:
        with pytest.raises(ScriptRejected, match="REFUSED"):
            await link.call(name, *good[:i], text, *good[i + 1 :])
    assert contents(client) == before
    client.close()
    await link.call(name, *good)  # and takes the good ones


async def test_amounts_near_2_to_the_53_are_exact_to_the_last_unit(stores: Stores, clock: Clock) -> None:
    """Doubles lose the last bit beyond it: one nano-USD too many would fit."""
    full = 2**53
    for first in (full - 1, full - 2, full - 3):
        b = budget(full, scope=f"tenant:{first}")
        await buy(stores, principal(b), first, now_ms=clock())
        with pytest.raises(BudgetExceeded):
            await stores.ledger.reserve(reservation(principal(b), offer(full - first + 1), now_ms=clock()))
        hold = await stores.ledger.reserve(reservation(principal(b), offer(full - first), now_ms=clock()))
        assert await spent_and_held(stores, b, clock()) == (first, full - first)
        with pytest.raises(BudgetExceeded):
            await stores.ledger.reserve(reservation(principal(b), offer(1), now_ms=clock()))
        await stores.ledger.settle(hold, spend(full - first))
        assert await spent_and_held(stores, b, clock()) == (full, 0)


async def test_no_soft_budget_counts_beyond_2_to_the_53_and_that_is_said(stores: Stores, clock: Clock) -> None:
    b, big = budget(1000, hard=False, period_s=60), 2**52
    first = await stores.ledger.reserve(reservation(principal(b), offer(big), now_ms=clock()))
    with pytest.raises(BudgetExceeded):  # nothing could count both
        await stores.ledger.reserve(reservation(principal(b), offer(big + 1), now_ms=clock()))
    await stores.ledger.settle(first, Spend(NanoUsd(MAX_NANO_USD), 1, 1, "settled"))  # more than its hold
    second = await stores.ledger.reserve(reservation(principal(b), offer(1), now_ms=clock()))
    await stores.ledger.settle(second, Spend(NanoUsd(big), 1, 1, "settled"))
    assert await spent_and_held(stores, b, clock()) == (2**53, 0)
    full = [entry for entry in await stores.audit.read() if entry.kind == "counter.full"]
    assert full[0].detail["not_counted"] == big - 1
    lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
    assert sum(line.cost_nanousd for line in lines) == MAX_NANO_USD + big  # and the report has all of it
    clock.pass_s(62)
    assert await spent_and_held(stores, b, clock()) == (0, 0)


async def test_numbers_in_the_audit_log_are_exact(stores: Stores, clock: Clock) -> None:
    b, odd = budget(2**53), 1_234_567_890_123_457
    hold = await stores.ledger.reserve(reservation(principal(b), offer(odd), now_ms=clock()))
    await stores.ledger.settle(hold, spend(odd + 2))
    over = (await stores.audit.read())[0]
    assert (over.kind, over.detail["held"], over.detail["charged"]) == ("hold.over", odd, odd + 2)


async def test_a_counter_that_has_vanished_is_never_below_zero(
    redis_process: RedisProcess, stores: Stores, clock: Clock, url: str
) -> None:
    """An eviction took it while requests were under way: what they give back makes no room that was not there."""
    b = budget(100)
    who = principal(b, RateLimit("key:k", 10, 100, 5))
    prefix = url.partition("prefix=")[2]
    holds = [await stores.ledger.reserve(reservation(who, offer(30), now_ms=clock())) for _ in range(3)]
    with Redis(unix_socket_path=str(redis_process.socket)) as client:
        for key in client.scan_iter(f"{prefix}:counter:*"):
            client.delete(key)
        for hold, end in zip(holds, (RELEASED, spend(20), RELEASED), strict=True):
            await stores.ledger.settle(hold, end)
        for key in client.scan_iter(f"{prefix}:counter:*"):
            assert all(int(value) >= 0 for value in client.hvals(key))
    assert await spent_and_held(stores, b, clock()) == (20, 0)


async def test_a_hold_that_cannot_be_read_is_said_and_holds_nobody_up(
    redis_process: RedisProcess, stores: Stores, clock: Clock, url: str
) -> None:
    b = budget(100)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(30), now_ms=clock(), ttl_ms=5000))
    key = f"{url.partition('prefix=')[2]}:hold:{hold.decision_id}"
    with Redis(unix_socket_path=str(redis_process.socket)) as client:
        client.hset(key, "plan", "nonsense")
    clock.pass_s(6)
    await buy(stores, principal(b), 70, now_ms=clock())
    assert [entry.kind for entry in await stores.audit.read()] == ["hold.unreadable"]


async def test_a_hold_that_cannot_be_read_is_still_settled_by_its_gateway(
    redis_process: RedisProcess, stores: Stores, clock: Clock, url: str
) -> None:
    b = budget(100)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(30), now_ms=clock()))
    key = f"{url.partition('prefix=')[2]}:hold:{hold.decision_id}"
    with Redis(unix_socket_path=str(redis_process.socket)) as client:
        client.hset(key, "amount", "-30")
    await stores.ledger.settle(hold, spend(20))
    assert await spent_and_held(stores, b, clock()) == (20, 0)


async def test_a_late_correction_counts_on_the_day_of_the_charge(stores: Stores, clock: Clock) -> None:
    """Else the report of the next day would be below zero."""
    clock.now_ms = 1_800_057_599_000  # a second before midnight
    b = budget(100)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(70), now_ms=clock(), ttl_ms=500))
    await stores.ledger.mark(hold)
    clock.pass_s(0.6)
    assert await spent_and_held(stores, b, clock()) == (70, 0)
    clock.pass_s(5)
    await stores.ledger.settle(hold, spend(20))
    lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
    assert [(line.day, line.requests, line.cost_nanousd) for line in lines] == [("2027-01-15", 1, 20)]


async def test_an_emptied_soft_budget_is_told_exactly(stores: Stores, clock: Clock) -> None:
    b = budget(2**53, hard=False)
    for _ in range(4):
        await buy(stores, principal(b), 2**51, now_ms=clock())
    kinds = [entry.kind for entry in await stores.audit.read()]
    assert kinds == ["budget.80%", "budget.100%"]


async def test_a_settlement_of_what_is_marked_at_the_same_moment_counts(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ends between the two, and another gateway charges the worst case."""
    b, marked = budget(100), asyncio.Event()
    async with replicas(url, clock) as (sends, other):
        hold = await sends.ledger.reserve(reservation(principal(b), offer(70), now_ms=clock(), ttl_ms=5000))
        clock.pass_s(6)
        real = Link.call

        async def in_turn(self: Link, name: str, *words: Argument) -> Any:
            if name == "settle":
                await marked.wait()
                await other.ledger.tend()
            answer = await real(self, name, *words)
            if name == "mark":
                marked.set()
            return answer

        monkeypatch.setattr(Link, "call", in_turn)
        await asyncio.gather(sends.ledger.mark(hold), sends.ledger.settle(hold, spend(20)))
        assert await spent_and_held(other, b, clock()) == (20, 0)
