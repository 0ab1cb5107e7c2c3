"""A gateway that has begun to send an answer, or is about to while its store is away, and is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from router.stores.open import open_stores
from router.stores.redis import connection
from tests.stores.conftest import T0, Clock
from tests.stores.making import budget, offer, principal, reservation, spend
from tests.stores.scripts import by_the_callers_clock


async def main(url: str, how: str) -> None:
    connection.script = by_the_callers_clock(connection.script)  # type: ignore[assignment]
    async with open_stores(url, clock=Clock(T0)) as stores:
        hold = await stores.ledger.reserve(reservation(principal(budget(100)), offer(60), now_ms=T0))
        if how == "has settled":
            await stores.ledger.settle(hold, spend(20))
        if how in ("sends", "settles"):
            await stores.ledger.mark(hold)
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        if how == "settles":
            await stores.ledger.settle(hold, spend(20))
        if how in ("is about to send", "is about to settle"):
            ends = stores.ledger.mark(hold) if how.endswith("send") else stores.ledger.settle(hold, spend(20))
            await asyncio.wait([asyncio.ensure_future(ends)], timeout=0.3)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
