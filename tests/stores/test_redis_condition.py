"""What kind of Redis money is kept in: one that evicts nothing, with memory to write to, whose clock agrees."""

from __future__ import annotations

import datetime as dt
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis

from router.errors import SettingsError, StoreUnavailable
from router.stores.limits import CALENDARS, calendar_bounds, day_of
from router.stores.open import Stores, open_stores
from router.stores.redis import connection
from tests.stores.conftest import Clock, RedisProcess
from tests.stores.making import budget, buy, offer, principal, reservation, spend, spent_and_held
from tests.stores.scripts import changed

pytestmark = pytest.mark.anyio

EVICTING = ["volatile-lru", "allkeys-lru", "volatile-ttl", "volatile-random", "allkeys-lfu"]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path)
    process.start()
    yield process
    process.kill()


@pytest.fixture
def client(redis: RedisProcess) -> Iterator[Redis]:
    with Redis(unix_socket_path=str(redis.socket)) as client:
        yield client


def real_ms() -> int:
    return time.time_ns() // 1_000_000


# what it evicts


@pytest.mark.parametrize("policy", EVICTING)
async def test_a_redis_that_may_evict_what_was_spent_stops_the_start(
    redis: RedisProcess, clock: Clock, policy: str
) -> None:
    redis.ask(f"CONFIG SET maxmemory-policy {policy}")
    with pytest.raises(SettingsError, match=policy) as refused:
        async with open_stores(redis.url, clock=clock):
            pass
    assert refused.value.param == "store.redis"


async def test_eviction_may_be_accepted_and_is_said_loudly(
    redis: RedisProcess, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    redis.ask("CONFIG SET maxmemory-policy volatile-lru")
    with caplog.at_level(logging.ERROR):
        async with open_stores(f"{redis.url}?eviction=accepted", clock=clock) as stores:
            await buy(stores, principal(budget(100)), 10, now_ms=clock())
    assert "volatile-lru" in caplog.text


async def test_the_policy_is_known_where_config_is_forbidden(redis: RedisProcess, clock: Clock) -> None:
    """As on a managed Redis."""
    redis.ask("ACL SETUSER default -config")
    async with open_stores(redis.url, clock=clock) as stores:
        await buy(stores, principal(budget(100)), 10, now_ms=clock())


@pytest.mark.parametrize("is_forbidden", [False, True])
async def test_a_redis_that_does_not_tell_by_info_is_asked_for_its_configuration(
    redis: RedisProcess, clock: Clock, monkeypatch: pytest.MonkeyPatch, is_forbidden: bool
) -> None:
    monkeypatch.setattr(
        connection, "script", changed(connection.script, "maxmemory_policy:", "not_there:", only="tend")
    )
    if is_forbidden:
        redis.ask("ACL SETUSER default -config")
        with pytest.raises(SettingsError, match="cannot be read"):
            async with open_stores(redis.url, clock=clock):
                pass
    url = f"{redis.url}?eviction=accepted" if is_forbidden else redis.url
    async with open_stores(url, clock=clock) as stores:
        await buy(stores, principal(budget(100)), 10, now_ms=clock())


async def test_a_user_who_may_not_ask_for_info_stops_the_start(redis: RedisProcess, clock: Clock) -> None:
    redis.ask("ACL SETUSER default -info")
    with pytest.raises(SettingsError, match="INFO"):
        async with open_stores(redis.url, clock=clock):
            pass


async def test_a_policy_that_changes_meanwhile_is_said_once(
    redis: RedisProcess, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_stores(redis.url, clock=clock) as stores:
        redis.ask("CONFIG SET maxmemory-policy allkeys-lru")
        with caplog.at_level(logging.WARNING):
            await stores.ledger.tend()
            await stores.ledger.tend()
            redis.ask("CONFIG SET maxmemory-policy noeviction")
            await stores.ledger.tend()
        assert [entry.kind for entry in await stores.audit.read()] == ["store.evicts"]
    said = [record.levelname for record in caplog.records if "maxmemory-policy" in record.message]
    assert said == ["ERROR", "WARNING"]


def fill(client: Redis) -> None:
    """Somebody else takes more memory than there is."""
    for i in range(1000):
        client.set(f"junk:{i}", "x" * 4000)
    client.config_set("maxmemory", "2mb")


async def test_under_memory_pressure_nothing_vanishes_and_nothing_is_spent_unrecorded(
    redis: RedisProcess, client: Redis, clock: Clock
) -> None:
    """What is under way is marked and charged all the same; what is new is refused and holds nothing."""
    b = budget(1000)
    async with open_stores(redis.url, clock=clock) as stores:
        await buy(stores, principal(b), 300, now_ms=clock())
        streamed = await stores.ledger.reserve(reservation(principal(b), offer(100), now_ms=clock()))
        plain = await stores.ledger.reserve(reservation(principal(b), offer(100), now_ms=clock()))
        dying = await stores.ledger.reserve(reservation(principal(b), offer(100), now_ms=clock(), ttl_ms=4000))
        fill(client)
        await stores.ledger.mark(streamed)
        await stores.ledger.mark(dying)
        for _ in range(20):
            with pytest.raises(StoreUnavailable, match="memory"):
                await stores.ledger.reserve(reservation(principal(b), offer(10), now_ms=clock()))
        assert await spent_and_held(stores, b, clock()) == (300, 300)
        await stores.ledger.settle(streamed, spend(70))
        await stores.ledger.settle(plain, spend(80))
        clock.pass_s(5)
        await stores.ledger.tend()
        assert await spent_and_held(stores, b, clock()) == (550, 0)
        await stores.ledger.settle(dying, spend(60))
        assert await spent_and_held(stores, b, clock()) == (510, 0)
        client.config_set("maxmemory", 0)
        await buy(stores, principal(b), 490, now_ms=clock())
        assert await spent_and_held(stores, b, clock()) == (1000, 0)


# its clock


class Skewed:
    """A clock that is ahead of the real one, or behind."""

    ahead_s = 0.0

    def __call__(self) -> int:
        return real_ms() + int(self.ahead_s * 1000)


@pytest.fixture
async def two(redis: RedisProcess) -> AsyncIterator[tuple[Stores, Stores, Skewed]]:
    """A gateway with a good clock, and one whose clock is what the test makes it."""
    skewed = Skewed()
    async with open_stores(redis.url, clock=real_ms) as good, open_stores(redis.url, clock=skewed) as other:
        yield good, other, skewed


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("ahead_s", "says"), [(86_400, "ahead of"), (-86_400, "behind"), (60, "60.0 s ahead of"), (-7, "behind")]
)
async def test_a_gateway_whose_clock_differs_reserves_nothing_and_moves_no_money(
    two: tuple[Stores, Stores, Skewed], ahead_s: float, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, other, skewed = two
    daily, rolling = budget(1000, calendar="day"), budget(1000, scope="tenant:bolt", period_s=60)
    who = principal(daily, rolling)
    await buy(good, who, 300, now_ms=real_ms())
    held = await good.ledger.reserve(reservation(who, offer(100), now_ms=real_ms(), ttl_ms=30_000))
    mine = await other.ledger.reserve(reservation(who, offer(50), now_ms=skewed(), ttl_ms=30_000, longest_ms=600_000))
    skewed.ahead_s = ahead_s
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=says), caplog.at_level(logging.ERROR):
            await other.ledger.reserve(reservation(who, offer(1), now_ms=skewed()))
        await other.ledger.tend()
    with pytest.raises(StoreUnavailable, match="clock"):  # so it is not ready
        await other.ledger.balances([], skewed())
    assert sum("clock" in record.message for record in caplog.records) == 1
    for b in (daily, rolling):
        assert await spent_and_held(good, b, real_ms()) == (300, 150)
    await good.ledger.settle(held, spend(100))
    await other.ledger.settle(mine, spend(50))  # what was under way is charged by Redis's clock
    for b in (daily, rolling):
        assert await spent_and_held(good, b, real_ms()) == (450, 0)
    skewed.ahead_s = 0
    await other.ledger.tend()
    assert (await buy(other, who, 10, now_ms=skewed())).amount == 10


@pytest.mark.real_time
async def test_clocks_that_differ_by_less_are_served_in_the_order_of_redis(two: tuple[Stores, Stores, Skewed]) -> None:
    good, other, skewed = two
    b = budget(100, period_s=60)
    for ahead_s in (-4.0, 4.0):
        skewed.ahead_s = ahead_s
        hold = await buy(other, principal(b), 50, now_ms=skewed())
        assert abs(hold.expires_at_ms - 30_000 - real_ms()) < 2000
    assert await spent_and_held(good, b, real_ms()) == (100, 0)
    lines = await good.spend.lines(since=day_of(real_ms()), until=day_of(real_ms()))
    assert sum(line.cost_nanousd for line in lines) == 100


@pytest.mark.real_time
async def test_a_lease_of_a_gateway_whose_clock_jumped_is_renewed_all_the_same(
    two: tuple[Stores, Stores, Skewed],
) -> None:
    good, other, skewed = two
    b = budget(100)
    asked = reservation(principal(b), offer(60), now_ms=skewed(), ttl_ms=900, longest_ms=60_000)
    hold = await other.ledger.reserve(asked)
    await other.ledger.mark(hold)
    skewed.ahead_s = -3600
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        await other.ledger.tend()
        assert await spent_and_held(good, b, real_ms()) == (0, 60)
    await other.ledger.settle(hold, spend(20))
    assert await spent_and_held(good, b, real_ms()) == (20, 0)


async def test_the_calendar_of_the_scripts_is_that_of_python(client: Redis) -> None:
    draw = random.Random(1)
    body = """local number, starts, ends = period(ARGV[1], tonumber(ARGV[2]))
    return {number, starts, ends, string.format('%04d-%02d-%02d', civil(math.floor(ARGV[2] / DAY_MS)))}"""
    text = connection.script("put").partition("-- Keep a tenant")[0] + body
    ends = [
        int(dt.datetime(y, m, 1, tzinfo=dt.UTC).timestamp() * 1000) + d
        for y in (1972, 2000, 2024, 2100)
        for m in (1, 2, 3, 12)
        for d in (-1, 0)
    ]
    for at_ms in [0, *ends, *(draw.randrange(7_258_118_400_000) for _ in range(500))]:
        for calendar in CALENDARS:
            found = client.eval(text, 1, "{p}", calendar, at_ms)
            assert tuple(found[:3]) == calendar_bounds(calendar, at_ms)
            assert found[3].decode() == day_of(at_ms)
