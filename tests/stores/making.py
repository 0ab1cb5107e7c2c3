"""Short ways to say what a test reserves and settles."""

from __future__ import annotations

import itertools

from router.stores.open import Stores
from router.types import Budget, Hold, NanoUsd, Offer, Principal, RateLimit, Reservation, Spend, show_usd

_numbers = itertools.count()


def budget(
    limit: int, *, scope: str = "tenant:acme", period_s: int = 3600, hard: bool = True, calendar: str | None = None
) -> Budget:
    return Budget(scope, NanoUsd(limit), period_s, hard, calendar)


def usd(nano: int) -> str:
    """A budget of so many nano-USD per rolling hour, as people write it."""
    return f"{show_usd(nano)} USD per 1h"


def principal(*terms: Budget | RateLimit, tenant: str = "acme", team: str | None = None) -> Principal:
    budgets = tuple(t for t in terms if isinstance(t, Budget))
    limits = tuple(t for t in terms if isinstance(t, RateLimit))
    return Principal(f"k_{tenant}", tenant, team, budgets=budgets, limits=limits)


def offer(
    worst: int,
    *,
    model: str = "small",
    tokens: int = 10,
    budgets: tuple[Budget, ...] = (),
    limits: tuple[RateLimit, ...] = (),
) -> Offer:
    return Offer(model, NanoUsd(worst), tokens, budgets, limits)


def reservation(
    who: Principal, *offers: Offer, now_ms: int, ttl_ms: int = 30_000, longest_ms: int = 0, id: str = ""
) -> Reservation:
    return Reservation(id or f"d{next(_numbers):08d}", who, offers, ttl_ms, now_ms, longest_ms)


def spend(cost: int, *, prompt: int = 3, completion: int = 4) -> Spend:
    return Spend(NanoUsd(cost), prompt, completion, "settled")


async def spent_and_held(stores: Stores, of: Budget, now_ms: int) -> tuple[int, int]:
    balance = (await stores.ledger.balances([of], now_ms))[0]
    return balance.spent, balance.held


async def buy(stores: Stores, who: Principal, cost: int, *, now_ms: int) -> Hold:
    hold = await stores.ledger.reserve(reservation(who, offer(cost), now_ms=now_ms))
    await stores.ledger.settle(hold, spend(cost))
    return hold
