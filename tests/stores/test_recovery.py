"""Who starts sees what the running gateways see, and balances, spend and traffic agree."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path

import pytest

from router.errors import StoreUnavailable
from router.stores.open import Stores, open_stores
from router.stores.sqlite import ledger as sqlite_ledger
from router.types import RELEASED, Balance, Hold, Principal, RateLimit
from tests.stores.conftest import Clock, replicas
from tests.stores.making import budget, offer, principal, reservation, spend

pytestmark = pytest.mark.anyio

LONG_S = 20 * 86_400
OFFER = offer(50, budgets=(budget(10**9, scope="model:small", period_s=600),))


def people() -> list[Principal]:
    """Tenants that share a model, with a team of two among them; all kinds of limits."""
    found = []
    for i in range(12):
        of_tenant = budget(10**6, scope=f"tenant:t{i}", period_s=LONG_S)
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


def balances_of(stores: Stores, now_ms: int) -> Awaitable[list[Balance]]:
    budgets = {b: None for who in people() for b in (*who.budgets, *OFFER.budgets)}
    return stores.ledger.balances(list(budgets), now_ms)


@pytest.mark.parametrize("seed", range(4))
async def test_who_starts_sees_what_the_running_see_and_the_sums_agree(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(sqlite_ledger, "TICK_S", 3600)
    url = f"sqlite:///{tmp_path / 'pointsman.db'}"
    clock.pass_s(13 * 3600)  # midnight comes while there is traffic
    async with replicas(url, clock) as gateways:
        await traffic(list(gateways), clock, random.Random(seed), requests=200)
        async with open_stores(url, clock=clock) as started:
            seen = [await balances_of(each, clock()) for each in (started, *gateways)]
            assert seen[0] == seen[1] == seen[2]
            lines = await started.spend.lines(since="2000-01-01", until="2099-12-31")
            clock.pass_s(21)  # every lease ends
            assert {b.held for b in await balances_of(started, clock())} == {0}
            clock.pass_s(30 * 86_400)
            assert {(b.spent, b.held) for b in await balances_of(started, clock())} == {(0, 0)}
    assert len({line.day for line in lines}) > 1
    spent = Counter[str]()
    for line in lines:
        spent[f"tenant:{line.tenant}"] += line.cost_nanousd
        assert min(line.requests, line.prompt_tokens, line.completion_tokens, line.cost_nanousd) >= 0
    for balance in seen[0]:
        if balance.budget.scope in spent and balance.budget.period_s == LONG_S:
            assert balance.spent == spent[balance.budget.scope]
