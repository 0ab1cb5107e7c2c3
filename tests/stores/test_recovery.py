"""Who starts after a kill reads stored pages and the rest of the journal, and knows what all of the journal says."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from pathlib import Path

import msgspec
import pytest

from router.errors import StoreUnavailable
from router.stores import pages, waiting
from router.stores.book import Book, Event
from router.stores.limits import gauges_of
from router.stores.open import Stores, open_stores
from router.stores.pages import Meter
from router.stores.ring import entries_in
from router.stores.sqlite import ledger as sqlite_ledger
from router.types import Hold, Offer, Principal, RateLimit
from tests.stores.conftest import Clock, replicas
from tests.stores.making import RELEASED, budget, offer, principal, reservation, spend

pytestmark = pytest.mark.anyio

OFFER = offer(50, budgets=(budget(10**9, scope="model:small", period_s=600),))


def people() -> list[Principal]:
    """Tenants that share a model, with a team of two among them; all kinds of limits."""
    found = []
    for i in range(12):
        of_tenant = budget(10**6, scope=f"tenant:t{i}", period_s=86_400)
        of_key = budget(10**6, scope=f"key:k_t{i}", calendar="day", hard=i % 3 > 0)
        of_team = [budget(10**6, scope="team:a", period_s=60)] if i < 2 else []
        limit = RateLimit(f"key:k_t{i}", 10_000, 10**6, 100)
        found.append(principal(of_tenant, of_key, *of_team, limit, tenant=f"t{i}", team="a" if i < 2 else None))
    return found


async def traffic(gateways: list[Stores], clock: Clock, chance: random.Random, *, requests: int) -> None:
    """Requests that are settled, released, forgotten or late, over hours and past midnight."""
    running: list[tuple[Stores, Hold]] = []
    for _ in range(requests):
        clock.pass_s(chance.choice((0, 0.3, 1, 7, 90, 400)))
        gateway = chance.choice(gateways)
        asked = reservation(chance.choice(people()), OFFER, now_ms=clock(), ttl_ms=20_000)
        hold = await gateway.ledger.reserve(asked)
        running.append((gateway, hold))
        if chance.random() < 0.5:
            await gateway.ledger.mark(hold)
        while len(running) > chance.randrange(4):
            gateway, hold = running.pop(chance.randrange(len(running)))
            await asyncio.sleep(0)
            with contextlib.suppress(StoreUnavailable):  # its lease has ended: nothing is sent
                await end(gateway, hold, chance)


async def end(gateway: Stores, hold: Hold, chance: random.Random) -> None:
    """Released, forgotten, or settled, now or later than its lease."""
    draw = chance.random()
    if draw < 0.2:
        await gateway.ledger.settle(hold, RELEASED)
    elif draw < 0.9:
        await gateway.ledger.settle(hold, spend(chance.randrange(1, 60)))


def told_by_the_whole_journal(path: Path) -> Book:
    """The book that has read every entry from the first one, and nothing that was stored."""
    book = Book(load=lambda _: None, load_line=lambda _: None)
    decode = msgspec.msgpack.Decoder(Event).decode
    with sqlite3.connect(path) as file:
        for last, row in file.execute("SELECT seq, body FROM entry ORDER BY seq"):
            for seq, body in entries_in(last, row):
                assert seq == book.position + 1
                book.apply(seq, decode(body))
    file.close()
    return book


Told = dict[tuple[str, str], tuple[int, int, list[tuple[int, int]]]]


def told_of(book: Book, who: Principal, what: Offer, now_ms: int) -> Told:
    """For each meter what is spent, what is held, and the slots in which something counts."""

    def told(meter: Meter) -> tuple[int, int, list[tuple[int, int]]]:
        return meter.total, meter.held, [(slot, amount) for slot, amount in meter.counted() if amount]

    return {(g.scope, g.meter): told(book.rolled(g, now_ms)) for g in gauges_of(who, what)}


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_recovered_is_what_the_whole_journal_says(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(sqlite_ledger, "STORE_EVERY", 7)
    monkeypatch.setattr(sqlite_ledger, "LAG", 20)
    monkeypatch.setattr(sqlite_ledger, "LAG_MOST", 60)
    monkeypatch.setattr(sqlite_ledger, "TICK_S", 3600)
    monkeypatch.setattr(pages, "PAGES", 23)
    monkeypatch.setattr(waiting, "LEAST", 2)
    path = tmp_path / "pointsman.db"
    clock.pass_s(13 * 3600)  # midnight comes while there is traffic
    async with replicas(f"sqlite:///{path}", clock) as gateways:
        await traffic(list(gateways), clock, random.Random(seed), requests=300)
        async with open_stores(f"sqlite:///{path}", clock=clock) as started:
            await started.audit.note("test", "", {})  # the ring goes into the file
            whole = told_by_the_whole_journal(path)
            recovered = started.ledger._book  # type: ignore[attr-defined]
            assert recovered.position == whole.position > 400
            assert len(set(stored_at(path))) > 1  # not all at once
            for who in people():
                assert told_of(recovered, who, OFFER, clock()) == told_of(whole, who, OFFER, clock())
            assert recovered.holds == whole.holds
            lines = await started.spend.lines(since="2000-01-01", until="2099-12-31")
            told = {key: line for page in whole.pages.values() for key, line in page.lines.items()}
            assert {
                (x.day, x.tenant, x.team, x.key, x.model): [
                    x.requests,
                    x.prompt_tokens,
                    x.completion_tokens,
                    x.cost_nanousd,
                ]
                for x in lines
            } == told
            assert len({key[0] for key in told}) > 1


def stored_at(path: Path) -> list[int]:
    """The positions at which pages were stored, ascending."""
    with sqlite3.connect(path) as file:
        found = [at for (at,) in file.execute("SELECT at FROM page ORDER BY at")]
    file.close()
    return found
