"""A pass-through asks the ledger only where something bounds the request."""

import time
from pathlib import Path

import pytest

from router.stores.open import open_stores
from router.stores.unmetered import Unmetered
from router.types import Budget, NanoUsd, Offer, Principal, Reservation, Spend

pytestmark = pytest.mark.anyio
BUDGET = Budget("tenant:acme", NanoUsd(1_000), 3600)


def now_ms() -> int:
    return int(time.time() * 1000)


def reservation(*budgets: Budget) -> Reservation:
    principal = Principal("k", "acme", budgets=budgets)
    return Reservation("dec-0001", principal, (Offer("m", NanoUsd(400), 10),), 30_000, now_ms())


@pytest.mark.parametrize("passes", [True, False])
async def test_a_budget_is_kept_whether_the_gateway_passes_through_or_not(tmp_path: Path, passes: bool) -> None:
    async with open_stores(f"sqlite:///{tmp_path}/x.db", clock=now_ms) as stores:
        ledger = Unmetered(stores.ledger, stores.ledger, passes=lambda: passes)
        hold = await ledger.reserve(reservation(BUDGET))
        await ledger.mark(hold)
        await ledger.settle(hold, Spend(NanoUsd(300), 1, 1, "settled"))
        (balance,) = await ledger.balances([BUDGET], now_ms())
    assert balance.spent == 300


async def test_what_nothing_bounds_leaves_no_trace_in_a_pass_through(tmp_path: Path) -> None:
    async with open_stores(f"sqlite:///{tmp_path}/x.db", clock=now_ms) as stores:
        ledger = Unmetered(stores.ledger, stores.ledger, passes=lambda: True)
        hold = await ledger.reserve(reservation())
        await ledger.mark(hold)
        await ledger.settle(hold, Spend(NanoUsd(300), 1, 1, "settled"))
        (balance,) = await ledger.balances([BUDGET], now_ms())
    assert (hold.amount, balance.spent, balance.held) == (400, 0, 0)
