"""`python -m benchmarks.money {speed,faults}`: what a reservation costs, and whether money leaks when things die."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from benchmarks import faults
from router.stores.open import Stores, open_stores
from router.types import Budget, NanoUsd, Offer, Principal, RateLimit, Reservation, Spend

WORST, COST = NanoUsd(60_000), NanoUsd(30_000)
BATCHES = 5
STEP = 7919  # walks over all tenants in no order


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def principal(i: int) -> Principal:
    """A tenant with a daily budget, its key with a monthly one and rate limits: five meters, and one of the model."""
    tenant, key = f"t{i:06d}", f"k_{i:06d}"
    budgets = (
        Budget(f"tenant:{tenant}", NanoUsd(10**14), 86_400),
        Budget(f"key:{key}", NanoUsd(10**14), 2_678_400, "calendar", True, "month"),
    )
    return Principal(key, tenant, budgets=budgets, limits=(RateLimit(f"key:{key}", 10**7, 10**10, 10_000),))


async def one(stores: Stores, who: Principal, offers: tuple[Offer, ...], name: str) -> None:
    """Reserve and settle one request, in two turns of the loop: in a gateway the engine's answer lies between them."""
    now = now_ms()
    hold = await stores.ledger.reserve(Reservation(f"{now:012x}{name}", who, offers, 30_000, now, 600_000))
    await asyncio.sleep(0)
    await stores.ledger.settle(hold, Spend(COST, 100, 500, "settled"))
    await asyncio.sleep(0)


async def measure(url: str, *, tenants: int, requests: int, together: int, rate: float | None) -> list[float]:
    """CPU microseconds of this process for one reserve and settle, in each of BATCHES batches, ascending."""
    people = [principal(i) for i in range(tenants)]
    offers = (Offer("small", WORST, 1000, (Budget("model:small", NanoUsd(10**15), 3600),)),)
    async with open_stores(url, clock=now_ms) as stores:
        for warm in range(200):
            await one(stores, people[warm % tenants], offers, f"w{warm}")
        gc.collect()
        gc.freeze()
        found = []
        for batch in range(BATCHES):
            began, spent = time.perf_counter(), time.process_time()
            for i in range(0, requests, together):
                first = batch * requests + i
                if together == 1:
                    await one(stores, people[first * STEP % tenants], offers, f"{first:08d}")
                else:
                    asked = [people[(first + j) * STEP % tenants] for j in range(together)]
                    await asyncio.gather(*(one(stores, who, offers, f"{first + j:08d}") for j, who in enumerate(asked)))
                if rate is not None and (early := began + i / rate - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
            found.append((time.process_time() - spent) / requests * 1e6)
        gc.unfreeze()
        return sorted(found)


async def speed(url_of: dict[str, str], *, requests: int) -> None:
    """A table: store, tenants, requests at once, CPU for each."""
    print(f"CPU us for one reserve + settle on six meters, least and median of {BATCHES} batches of {requests}")
    print(f"{'store':8} {'tenants':>8} {'at once':>8} {'req/s':>8} {'least':>8} {'median':>8}")
    cases = ((10, 1, None), (10, 16, None), (100_000, 1, None), (10, 1, 1000.0), (100_000, 1, 1000.0))
    for name, url in url_of.items():
        for tenants, together, rate in cases:
            found = await measure(url, tenants=tenants, requests=requests, together=together, rate=rate)
            shown = "free" if rate is None else f"{rate:.0f}"
            least, median = found[0], found[BATCHES // 2]
            print(f"{name:8} {tenants:8} {together:8} {shown:>8} {least:8.1f} {median:8.1f}", flush=True)


def _speed(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        run = faults.Run(Path(folder), store="redis", seed=0)
        assert run.redis is not None
        run.redis.start()
        try:
            urls = {"sqlite": f"sqlite:///{folder}/speed.db", "redis": run.url}
            uvloop.run(_when_up(run, urls, arguments.requests))
        finally:
            run.redis.kill()
    return 0


async def _when_up(run: faults.Run, urls: dict[str, str], requests: int) -> None:
    assert run.redis is not None
    await run.redis.listening()
    await speed(urls, requests=requests)


def _faults(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = faults.faults(
            seconds=arguments.seconds, folder=folder, store=arguments.store, size=arguments.crowd, seed=arguments.seed
        )
        good = uvloop.run(work)
        if not good:
            print(*faults.logs(folder), sep="\n", file=sys.stderr)
        return 0 if good else 1


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    quick = verbs.add_parser("speed", help="CPU per reserve + settle on both stores")
    quick.add_argument("--requests", type=int, default=4000)
    quick.set_defaults(run=_speed)
    hard = verbs.add_parser("faults", help="a crowd, then SIGKILL at random")
    hard.add_argument("--seconds", type=float, default=120)
    hard.add_argument("--store", choices=("redis", "sqlite"), default="redis")
    hard.add_argument("--crowd", type=int, default=faults.CROWD)
    hard.add_argument("--seed", type=int, default=1)
    hard.set_defaults(run=_faults)
    arguments = parser.parse_args()
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
