"""A store that is away, and what a restart of Redis may lose."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from redis import Redis

from router.errors import BudgetExceeded, SettingsError, StoreUnavailable, Unauthenticated
from router.stores.keys import CachedKeys
from router.stores.limits import of_budget
from router.stores.open import Stores, open_stores
from router.stores.redis import outbox
from router.stores.redis.outbox import Outbox
from router.stores.redis.settlement import Settlement, limits_text
from router.terms import Terms
from router.types import Budget, Hold
from tests.stores.conftest import Clock, RedisProcess, free_port, replicas
from tests.stores.making import budget, buy, offer, principal, reservation, spend, spent_and_held, usd

pytestmark = pytest.mark.anyio


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    process = RedisProcess(
        tmp_path, "--appendonly", "yes", "--appendfsync", "no"
    )  # it writes at once: a kill loses nothing
    process.start()
    yield process
    process.kill()


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[RedisProcess]:
    """A Redis that loses everything when it is killed: worse than everysec."""
    process = RedisProcess(tmp_path)
    process.start()
    yield process
    process.kill()


async def reserved(stores: Stores, b: Budget, worst: int, clock: Clock) -> Hold:
    """A hold, as soon as the store takes reservations again."""
    while True:
        try:
            return await stores.ledger.reserve(reservation(principal(b), offer(worst), now_ms=clock()))
        except StoreUnavailable:
            clock.pass_s(0.1)
            await stores.ledger.tend()


async def back(stores: Stores) -> None:
    """Redis answers again."""
    while True:
        try:
            return await stores.ledger.tend()
        except StoreUnavailable:
            await asyncio.sleep(0.01)


async def test_redis_away_means_unavailable_and_soon(redis: RedisProcess, clock: Clock) -> None:
    async with open_stores(redis.url, clock=clock) as stores:
        redis.kill()
        with pytest.raises(StoreUnavailable):
            await stores.ledger.reserve(reservation(principal(budget(9)), offer(1), now_ms=clock()))
        with pytest.raises(StoreUnavailable):
            await stores.keys.find("sk-any", clock())
        with pytest.raises(StoreUnavailable):
            await stores.ledger.balances([budget(9)], clock())


async def test_a_store_that_cannot_be_reached_stops_the_start(tmp_path: Path, clock: Clock) -> None:
    for url in (f"unix://{tmp_path}/none.sock", f"sqlite:///{tmp_path}/none/there.db"):
        with pytest.raises(StoreUnavailable):
            async with open_stores(url, clock=clock):
                pass


async def test_a_settlement_while_redis_is_away_is_written_when_it_is_back(redis: RedisProcess, clock: Clock) -> None:
    b = budget(100)
    async with open_stores(redis.url, clock=clock) as stores:
        hold = await stores.ledger.reserve(reservation(principal(b), offer(50), now_ms=clock()))
        await stores.ledger.mark(hold)
        redis.kill()
        await stores.ledger.settle(hold, spend(20))
        redis.start()
        await back(stores)
        assert await spent_and_held(stores, b, clock()) == (20, 0)


@pytest.mark.parametrize("how", ["mark", "settle"])
async def test_what_redis_was_never_told_of_is_neither_sent_nor_charged(
    redis: RedisProcess, clock: Clock, how: str
) -> None:
    """Redis is away when the answer is there, and until its lease has ended."""
    b = budget(100)
    async with open_stores(redis.url, clock=clock) as stores:
        hold = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock(), ttl_ms=5000))
        redis.kill()
        clock.pass_s(6)
        with pytest.raises(StoreUnavailable):
            await (stores.ledger.mark(hold) if how == "mark" else stores.ledger.settle(hold, spend(20)))
        redis.start()
        await back(stores)
        assert await spent_and_held(stores, b, clock()) == (0, 0)


@pytest.mark.parametrize("how", ["mark", "settle"])
async def test_an_answer_waits_for_redis_as_long_as_its_lease_lasts(
    forgetful: RedisProcess, clock: Clock, how: str
) -> None:
    b = budget(100)
    async with open_stores(forgetful.url, clock=clock) as stores:
        hold = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock(), ttl_ms=5000))
        forgetful.kill()
        ends = stores.ledger.mark(hold) if how == "mark" else stores.ledger.settle(hold, spend(20))
        waiting = asyncio.ensure_future(ends)
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        forgetful.start()
        await waiting
        assert await spent_and_held(stores, b, clock()) == ((0, 60) if how == "mark" else (20, 0))


async def test_holds_and_settlements_that_redis_lost_are_put_back(forgetful: RedisProcess, clock: Clock) -> None:
    b = budget(100)
    async with open_stores(forgetful.url, clock=clock) as stores:
        await buy(stores, principal(b), 30, now_ms=clock())
        running = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock()))
        forgetful.kill()
        forgetful.start()
        await back(stores)
        assert await spent_and_held(stores, b, clock()) == (30, 60)
        await stores.ledger.settle(running, spend(55))
        assert await spent_and_held(stores, b, clock()) == (85, 0)
        with pytest.raises(BudgetExceeded):
            await reserved(stores, b, 20, clock)


async def test_reservations_wait_after_a_restart_until_holds_are_back(redis: RedisProcess, clock: Clock) -> None:
    b = budget(100)
    async with open_stores(redis.url, clock=clock) as here, open_stores(redis.url, clock=clock) as there:
        await here.ledger.reserve(reservation(principal(b), offer(80), now_ms=clock()))
        redis.kill()
        redis.start()
        with pytest.raises(StoreUnavailable):
            await there.ledger.reserve(reservation(principal(b), offer(80), now_ms=clock()))
        await back(here)
        with pytest.raises(BudgetExceeded):
            await reserved(there, b, 80, clock)


async def test_whoever_empties_redis_has_no_keys_left_and_what_is_under_way_is_charged(
    redis: RedisProcess, clock: Clock
) -> None:
    b = budget(100)
    async with open_stores(redis.url, clock=clock) as stores:
        _, secret = await stores.keys.create("acme")
        hold = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock()))
        client = Redis(unix_socket_path=str(redis.socket))
        client.flushall()
        client.close()
        assert await stores.keys.find(secret, clock()) is None
        await stores.ledger.settle(hold, spend(20))
        assert await spent_and_held(stores, b, clock()) == (20, 0)


@pytest.mark.parametrize("how", ["flushed", "restarted without its file"])
async def test_a_redis_that_was_emptied_is_told_once_by_each_gateway(
    redis: RedisProcess, clock: Clock, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    async with replicas(redis.url, clock) as both:
        await buy(both[0], principal(budget(100)), 60, now_ms=clock())
        for gateway in both:
            await gateway.ledger.tend()
        assert "emptied" not in caplog.text
        if how == "flushed":
            with Redis(unix_socket_path=str(redis.socket)) as client:
                client.flushall()
        else:
            redis.kill()
            for file in redis.socket.parent.rglob("*.aof"):
                file.unlink()
            redis.start()
        for _ in range(4):
            for gateway in both:
                with contextlib.suppress(StoreUnavailable):  # the connection to the one that was killed
                    await gateway.ledger.tend()
        assert caplog.text.count("Redis was emptied") == len(both)
        kinds = [entry.kind for entry in await both[0].audit.read(after="", limit=9)]
        assert kinds.count("store.emptied") == len(both)


async def test_a_key_that_is_remembered_reserves_nothing_in_a_redis_that_was_emptied(
    redis: RedisProcess, clock: Clock
) -> None:
    async with open_stores(redis.url, clock=clock) as stores:
        cached = CachedKeys(stores.keys)
        stores.keys.watchers.append(cached.forget)
        _, secret = await stores.keys.create("acme", terms=Terms.of(budgets=[usd(100)]))
        who = await cached.find(secret, clock())
        assert who is not None
        await buy(stores, who, 10, now_ms=clock())
        with Redis(unix_socket_path=str(redis.socket)) as client:
            client.flushall()
        with pytest.raises(Unauthenticated):
            await buy(stores, who, 10, now_ms=clock())
        assert await cached.find(secret, clock()) is None


async def test_marks_survive_a_restart_of_redis(forgetful: RedisProcess, clock: Clock) -> None:
    b = budget(100)
    async with open_stores(forgetful.url, clock=clock) as stores:
        hold = await stores.ledger.reserve(reservation(principal(b), offer(60), now_ms=clock(), ttl_ms=5000))
        await stores.ledger.mark(hold)
        forgetful.kill()
        forgetful.start()
        await back(stores)
        clock.pass_s(6)
        assert await spent_and_held(stores, b, clock()) == (60, 0)


async def test_a_hold_whose_answer_never_came_is_given_back(redis: RedisProcess, clock: Clock) -> None:
    b = budget(100)
    async with open_stores(f"{redis.url}?timeout_s=0.2", clock=clock) as stores:
        await buy(stores, principal(b), 1, now_ms=clock())
        assert redis.pid is not None
        os.kill(redis.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnavailable):
            await stores.ledger.reserve(reservation(principal(b), offer(50), now_ms=clock()))
        os.kill(redis.pid, signal.SIGCONT)
        await back(stores)
        assert await spent_and_held(stores, b, clock()) == (1, 0)


async def test_everything_is_found_again_at_once_when_redis_is_back(redis: RedisProcess, clock: Clock) -> None:
    """No connection that the kill broke is used once more."""
    async with open_stores(redis.url, clock=clock) as stores:
        _, secret = await stores.keys.create("acme")
        await stores.spend.lines(since="2027-01-01", until="2027-01-02")
        await asyncio.gather(*(stores.keys.find(secret, clock()) for _ in range(20)))
        redis.kill()
        redis.start()
        await asyncio.sleep(0.05)  # for the loop to see what was closed
        assert await stores.keys.find(secret, clock()) is not None
        assert await stores.spend.lines(since="2027-01-01", until="2027-01-02") == []
        assert await stores.audit.read() == []


async def test_a_restored_settlement_is_charged_once(redis: RedisProcess, clock: Clock) -> None:
    b = budget(1000)
    async with open_stores(redis.url, clock=clock) as stores:
        for _ in range(20):
            await buy(stores, principal(b), 7, now_ms=clock())
        redis.kill()
        redis.start()
        await back(stores)
        await back(stores)
        assert await spent_and_held(stores, b, clock()) == (140, 0)
        lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
        assert sum(line.cost_nanousd for line in lines) == 140


def died_while_redis_was_away(redis: RedisProcess, url: str, dies: str) -> None:
    """A gateway took a hold, Redis went away, the gateway came as far as `dies` and was killed; Redis is back."""
    command = [sys.executable, "-m", "tests.stores.dying", url, dies]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dying:
        assert dying.stdin is not None
        assert dying.stdout is not None
        assert dying.stdout.readline() == b"held\n"
        redis.kill()
        dying.stdin.write(b"go on\n")
        dying.stdin.flush()
        assert dying.wait() == -signal.SIGKILL
    redis.start()


@pytest.mark.parametrize(("dies", "charged"), [("settles", 20), ("sends", 60)])
async def test_what_a_killed_gateway_owed_is_taken_over_from_its_disk(
    redis: RedisProcess, clock: Clock, tmp_path: Path, dies: str, charged: int
) -> None:
    """Redis went away while the answer was sent, and the gateway died before Redis came back."""
    b = budget(100)
    url = f"{redis.url}?outbox={tmp_path / 'owed'}"
    died_while_redis_was_away(redis, url, dies)
    async with open_stores(url, clock=clock) as heir:
        await back(heir)
        assert await spent_and_held(heir, b, clock()) == (charged, 0)
        clock.pass_s(60)
        assert await spent_and_held(heir, b, clock()) == (charged, 0)
    assert not list((tmp_path / "owed").iterdir())


@pytest.mark.parametrize("dies", ["is about to send", "is about to settle"])
async def test_what_others_were_given_is_not_charged_again_when_a_killed_gateway_is_back(
    redis: RedisProcess, clock: Clock, tmp_path: Path, dies: str
) -> None:
    """Redis was away when the answer came, the gateway died meanwhile, and started again after its lease."""
    b = budget(100)
    url = f"{redis.url}?outbox={tmp_path / 'owed'}"
    died_while_redis_was_away(redis, url, dies)
    clock.pass_s(60)
    async with open_stores(redis.url, clock=clock) as other:
        await other.ledger.settle(await reserved(other, b, 100, clock), spend(100))
        async with open_stores(url, clock=clock) as heir:
            await back(heir)
            assert await spent_and_held(heir, b, clock()) == (100, 0)


async def test_what_a_killed_gateway_had_settled_and_redis_lost_is_charged_from_its_disk(
    forgetful: RedisProcess, clock: Clock, tmp_path: Path
) -> None:
    """Redis had said that it had the settlement, and lost its last second with the gateway."""
    b = budget(100)
    url = f"{forgetful.url}?outbox={tmp_path / 'owed'}"
    command = [sys.executable, "-m", "tests.stores.dying", url, "has settled"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dying:
        assert dying.stdin is not None
        assert dying.stdout is not None
        assert dying.stdout.readline() == b"held\n"
        forgetful.kill()
        dying.stdin.write(b"go on\n")
        dying.stdin.flush()
        assert dying.wait() == -signal.SIGKILL
    forgetful.start()
    async with open_stores(url, clock=clock) as heir:
        await back(heir)
        assert await spent_and_held(heir, b, clock()) == (20, 0)


async def test_a_journal_forgets_what_is_paid_and_no_more(tmp_path: Path) -> None:
    dead, heir = Outbox(tmp_path), Outbox(tmp_path)
    for i in range(10):
        dead.add(f"d{i}", (f"d{i}", 1, b"words"))
    dead.acknowledge(f"d{i}" for i in range(9))
    dead.close()
    assert list(heir.orphans()) == [{"d9": ("d9", 1, b"words")}]
    heir.close()
    assert not list(tmp_path.iterdir())


def test_a_process_of_the_same_number_does_not_overwrite_what_its_predecessor_owed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the next process has the number of the one that was killed."""
    monkeypatch.setattr("router.stores.redis.outbox.os.getpid", lambda: 7)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    subprocess.run(command, check=False)
    heir = Outbox(tmp_path)
    assert list(heir.orphans()) == [{"d1": ("d1", 1, b"words")}]
    heir.close()


KILLED = """
import os, signal, sys
from pathlib import Path
os.getpid = lambda: 7
from router.stores.redis.outbox import Outbox
from router.stores.redis.settlement import Settlement, limits_text
Outbox(Path(sys.argv[1])).add("d1", ("d1", 1, b"words"))
os.abort()
"""


@pytest.mark.parametrize("garbage", [b"\x05\x00\x00\x00nonsense", b"\xff\xff\xff\xff", b"\x02\x00\x00\x00\x93\x01"])
async def test_a_damaged_file_of_a_killed_gateway_stops_nobody_and_is_put_aside(
    redis: RedisProcess, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    b, folder = budget(100), tmp_path / "owed"
    async with open_stores(f"{redis.url}?outbox={folder}", clock=clock) as stores:
        (folder / "7-0.owed").write_bytes(garbage)
        await stores.ledger.tend()
        await buy(stores, principal(b), 40, now_ms=clock())
        await stores.ledger.tend()
        assert await spent_and_held(stores, b, clock()) == (40, 0)
    assert [path.name for path in folder.iterdir()] == ["7-0.damaged"]
    assert "damaged" in caplog.text


async def test_what_cannot_be_understood_of_a_killed_gateway_is_said_and_the_rest_charged(
    redis: RedisProcess, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    b, folder = budget(100), tmp_path / "owed"
    plan = limits_text([of_budget(b)])
    good = Settlement("good", "dead", 20, 1, 1, "settled", "acme\x1f\x1fk\x1fm", 60, 9, clock(), plan)
    wild = msgspec.structs.replace(good, decision_id="wild", cost=2**60, prompt_tokens=-1)
    hopeless = msgspec.structs.replace(good, decision_id="hopeless", held=2**60)
    dead = Outbox(folder)
    for each in (wild, hopeless, good):
        dead.add(each.decision_id, each.words())
    dead.add("old", ("old", 1, b"another version"))
    dead.close()
    async with open_stores(f"{redis.url}?outbox={folder}", clock=clock) as stores:
        await stores.ledger.tend()
        assert await spent_and_held(stores, b, clock()) == (20 + 60, 0)  # the wild one at its worst case
    assert "hopeless cannot be charged" in caplog.text
    assert "cannot be understood" in caplog.text
    assert not list(folder.iterdir())


async def test_a_gateway_starts_on_a_redis_that_was_emptied_under_another(redis: RedisProcess, clock: Clock) -> None:
    async with open_stores(redis.url, clock=clock) as one:
        with Redis(unix_socket_path=str(redis.socket)) as client:
            client.flushall()
        await one.ledger.tend()
        async with open_stores(redis.url, clock=clock) as another:
            await buy(another, principal(budget(100)), 40, now_ms=clock())


async def test_a_ledger_of_another_form_stops_the_start(redis: RedisProcess, clock: Clock) -> None:
    with Redis(unix_socket_path=str(redis.socket)) as client:
        client.hset("{pointsman}:meta", mapping={"run": "a" * 40, "opens": 0, "keys": 1})
    with pytest.raises(SettingsError, match="another form"):
        async with open_stores(redis.url, clock=clock):
            pass
    async with open_stores(f"{redis.url}?prefix={{fresh}}", clock=clock) as stores:
        await buy(stores, principal(budget(100)), 40, now_ms=clock())


async def test_what_was_settled_while_redis_was_away_is_owed_once(
    redis: RedisProcess, clock: Clock, tmp_path: Path
) -> None:
    b, folder = budget(100), tmp_path / "owed"
    async with open_stores(f"{redis.url}?outbox={folder}", clock=clock) as stores:
        hold = await reserved(stores, b, 60, clock)
        await stores.ledger.mark(hold)
        redis.kill()
        await stores.ledger.settle(hold, spend(20))
        redis.start()
        await back(stores)
        assert await spent_and_held(stores, b, clock()) == (20, 0)
    assert not list(folder.iterdir())


async def test_leases_are_tended_again_after_a_mishap(
    stores: Stores, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tended, went_on = 0, asyncio.Event()

    async def tend() -> None:
        nonlocal tended
        tended += 1
        if tended == 1:
            raise RuntimeError
        went_on.set()

    monkeypatch.setattr(stores.ledger, "tend", tend)
    await asyncio.wait_for(went_on.wait(), 10)


async def test_a_long_life_does_not_make_a_long_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LIMIT_BYTES", 2000)
    mine = Outbox(tmp_path)
    for i in range(1000):
        mine.add(f"d{i}", (f"d{i}", 1, b"words"))
        mine.acknowledge([f"d{i - 5}"])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4000
    mine.acknowledge([f"d{i}" for i in range(995, 1000)])
    mine.close()


async def test_one_node_of_a_cluster_serves_every_script(tmp_path: Path, clock: Clock) -> None:
    port = next(port for port in iter(free_port, None) if port < 55_000)  # the cluster's own port lies 10,000 above
    process = RedisProcess(tmp_path, "--port", str(port), "--cluster-enabled", "yes")
    process.start()
    try:
        for first in range(0, 16_384, 1024):
            assert process.ask(f"CLUSTER ADDSLOTS {' '.join(map(str, range(first, first + 1024)))}") == b"+OK\r\n"
        while b"cluster_state:ok" not in process.ask("CLUSTER INFO"):
            await asyncio.sleep(0.01)
        b = budget(100)
        async with open_stores(f"redis+cluster://127.0.0.1:{port}", clock=clock) as stores:
            await buy(stores, principal(b), 40, now_ms=clock())
            assert await spent_and_held(stores, b, clock()) == (40, 0)
            _, secret = await stores.keys.create("acme")
            assert await stores.keys.find(secret, clock()) is not None
    finally:
        process.kill()


async def test_the_master_of_a_sentinel_is_found(tmp_path: Path, clock: Clock) -> None:
    port, watch = free_port(), free_port()
    (tmp_path / "sentinel").mkdir()
    conf = tmp_path / "sentinel" / "sentinel.conf"
    conf.write_text(f"sentinel monitor money 127.0.0.1 {port} 1\n")
    master = RedisProcess(tmp_path, "--port", str(port))
    sentinel = RedisProcess(tmp_path / "sentinel", "--port", str(watch), sentinel=conf)
    master.start()
    sentinel.start()
    try:
        b = budget(100)
        async with open_stores(f"redis+sentinel://127.0.0.1:{watch}/money", clock=clock) as stores:
            await buy(stores, principal(b), 40, now_ms=clock())
            assert await spent_and_held(stores, b, clock()) == (40, 0)
    finally:
        sentinel.kill()
        master.kill()


async def test_a_replica_that_may_only_be_read_is_no_store_to_reserve_in(redis: RedisProcess, clock: Clock) -> None:
    async with open_stores(redis.url, clock=clock) as stores:
        await stores.ledger.check()
        redis.ask("REPLICAOF 127.0.0.1 1")
        await stores.ledger.balances([], clock())
        with pytest.raises(StoreUnavailable):
            await stores.ledger.check()
        redis.ask("REPLICAOF NO ONE")
        await stores.ledger.check()
