"""A gateway that reserves and settles as fast as it can until it is killed, and says what it was told is settled."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import time

from router.errors import BudgetExceeded
from router.stores.open import open_stores
from tests.stores.making import budget, offer, principal, reservation, spend

LIMIT = 100_000_000
LEASE_MS = 1500


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def main(url: str, seed: int) -> None:
    """Each line: how much was settled so far, and how much more may have been when this process dies."""
    draw = random.Random(seed)
    async with open_stores(url, clock=now_ms) as stores:
        b = budget(LIMIT)
        settled = 0
        for number in itertools.count():
            name = f"{seed}-{number}"
            asked = reservation(principal(b), offer(100), now_ms=now_ms(), ttl_ms=LEASE_MS, id=name)
            try:
                hold = await stores.ledger.reserve(asked)
            except BudgetExceeded:
                return
            cost = draw.randrange(100)
            _say(f"{settled} {settled + cost}")
            await stores.ledger.settle(hold, spend(cost))
            settled += cost
            _say(f"{settled} {settled}")
            if draw.random() < 0.02:
                await stores.audit.note("hammer", "", {})
            if draw.random() < 0.3:
                await asyncio.sleep(0)


def _say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
