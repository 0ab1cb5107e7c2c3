"""`python -m benchmarks.money {speed,faults}`: what a reservation costs, and whether money leaks when things die.

`speed` has two controls beside the stores: `none` answers every request at once, so what it costs is the loop, its
pauses and the benchmark; `book` decides and counts as the SQLite ledger does, and writes nothing down. Each figure
stands as it was measured and, where `none` is among the stores, less what `none` took in the same pattern of requests.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import uvloop

from benchmarks import faults
from router.amounts import CALENDAR_S
from router.stores.book import Book, Found, Opened, Settled
from router.stores.open import open_stores
from router.stores.refusals import Answer, hold_of
from router.types import Budget, Hold, NanoUsd, Offer, Principal, RateLimit, Reservation, Spend

WORST, COST = NanoUsd(60_000), NanoUsd(30_000)
BATCHES = 5
STEP = 7919  # walks over all tenants in no order
WARM, STORING, WHOLE = 2, 25_000, 200_000  # requests: of everybody before, beyond, and of a case that is measured whole


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def principal(i: int) -> Principal:
    """A tenant with a daily budget, its key with a monthly one and rate limits: five meters, and one of the model."""
    tenant, key = f"t{i:06d}", f"k_{i:06d}"
    budgets = (
        Budget(f"tenant:{tenant}", NanoUsd(10**14), 86_400),
        Budget(f"key:{key}", NanoUsd(10**14), CALENDAR_S["month"], True, "month"),
    )
    return Principal(key, tenant, budgets=budgets, limits=(RateLimit(f"key:{key}", 10**7, 10**10, 10_000),))


class Nothing:
    """A ledger that neither decides nor counts."""

    async def reserve(self, reservation: Reservation) -> Hold:
        """A hold on the first offer."""
        return Hold(reservation.decision_id, next(iter(reservation.offers)).model, WORST, reservation.now_ms)

    async def settle(self, hold: Hold, spend: Spend) -> None:
        """Nothing."""


class OnlyBook:
    """A ledger that decides, encodes and counts in memory."""

    def __init__(self) -> None:
        self._book = Book(load=lambda _: None, load_line=lambda _: None)
        self._encode = msgspec.msgpack.Encoder().encode

    async def reserve(self, reservation: Reservation) -> Hold:
        """As Ledger.reserve, where nothing stands in the way."""
        found = self._book.consider(reservation)
        assert isinstance(found, Found)
        self._encode(Opened(found.ticket))
        self._book.open(self._book.position + 1, found.ticket, found.plan)
        plan, ticket = found.plan, found.ticket
        used = (plan.gauges if plan.shown.soft else plan.alike, plan.shown, found.used)
        return hold_of(Answer(ticket.decision_id, ticket.model, WORST, ticket.expires_ms, *used), ticket)

    async def settle(self, hold: Hold, spend: Spend) -> None:
        """As Ledger.settle."""
        tokens = (spend.prompt_tokens, spend.completion_tokens)
        end = Settled(hold.decision_id, now_ms(), spend.cost, *tokens, spend.outcome)
        self._encode(end)
        self._book.settle(self._book.position + 1, end)


class Measured(Protocol):
    """What of a ledger is measured."""

    async def reserve(self, reservation: Reservation) -> Hold:
        """As Ledger.reserve."""

    async def settle(self, hold: Hold, spend: Spend) -> None:
        """As Ledger.settle."""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Measured]:
    """The ledger behind the URL of a store, or a control."""
    if url in CONTROLS:
        yield CONTROLS[url]()
    else:
        async with open_stores(url, clock=now_ms) as stores:
            yield stores.ledger


CONTROLS: dict[str, Callable[[], Measured]] = {"none": Nothing, "book": OnlyBook}


async def one(ledger: Measured, who: Principal, offers: tuple[Offer, ...], name: str) -> None:
    """Reserve and settle one request, in two turns of the loop: in a gateway the engine's answer lies between them."""
    now = now_ms()
    hold = await ledger.reserve(Reservation(f"{now:012x}{name}", who, offers, 30_000, now, 600_000))
    await asyncio.sleep(0)
    await ledger.settle(hold, Spend(COST, 100, 500, "settled"))
    await asyncio.sleep(0)


@dataclass(frozen=True)
class Case:
    """What is measured. `seen`: everybody has asked before; else most requests are the first of their tenant.

    With many tenants that have been seen, SQLite stores balances for a third of the time: short batches begin in that
    third, after WARM requests of each tenant and STORING more; `whole` is from one such third to the next.
    """

    tenants: int
    together: int = 1  # requests at once
    rate: float | None = None  # requests a second; None: as fast as they go
    seen: bool = True
    whole: bool = False


CASES = (
    Case(10),
    Case(10, together=16),
    Case(100_000),
    Case(100_000, whole=True),
    Case(100_000, seen=False),
    Case(10, rate=1000.0),
    Case(100_000, rate=1000.0),
)


async def asked_by_all(ledger: Measured, people: list[Principal], offers: tuple[Offer, ...]) -> None:
    """WARM requests of everybody and, of many, STORING more; 64 at once."""
    everybody = people * WARM + (people[:STORING] if len(people) > STORING else [])
    for i in range(0, len(everybody), 64):
        await asyncio.gather(*(one(ledger, who, offers, f"a{i + j}") for j, who in enumerate(everybody[i : i + 64])))


async def measure(url: str, case: Case, *, requests: int) -> list[float]:
    """CPU microseconds of this process for one reserve and settle, in each of BATCHES batches, ascending."""
    requests = WHOLE // BATCHES if case.whole else requests
    people = [principal(i) for i in range(case.tenants)]
    offers = (Offer("small", WORST, 1000, (Budget("model:small", NanoUsd(10**15), 3600),)),)
    async with opened(url) as ledger:
        for warm in range(200):
            await one(ledger, people[warm % case.tenants], offers, f"w{warm}")
        if case.seen:
            await asked_by_all(ledger, people, offers)
        gc.collect()
        gc.freeze()
        found = []
        for batch in range(BATCHES):
            began, spent = time.perf_counter(), time.process_time()
            for i in range(0, requests, case.together):
                first = batch * requests + i
                asked = [people[(first + j) * STEP % case.tenants] for j in range(case.together)]
                work = [one(ledger, who, offers, f"{first + j:08d}") for j, who in enumerate(asked)]
                await (work[0] if case.together == 1 else asyncio.gather(*work))
                if case.rate is not None and (early := began + i / case.rate - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
            found.append((time.process_time() - spent) / requests * 1e6)
        gc.unfreeze()
        return sorted(found)


async def speed(url_of: Callable[[str, Case], str], names: Sequence[str], *, requests: int) -> None:
    """A table: store or control, tenants, requests at once, CPU for each."""
    print(f"CPU us for one reserve + settle on six meters, in {BATCHES} batches of {requests} (whole: {WHOLE} in all)")
    print(
        f"{'store':8} {'tenants':>8} {'':>6} {'at once':>8} {'req/s':>8} {'least':>8} {'median':>8} {'mean':>8}", end=""
    )
    print(f" {'median - none':>14}")
    none: dict[Case, float] = {}
    for name in names:
        for case in CASES:
            found = await measure(url_of(name, case), case, requests=requests)
            median = found[BATCHES // 2]
            if name == "none":
                none[case] = median
            shown = "free" if case.rate is None else f"{case.rate:.0f}"
            who = "whole" if case.whole else "seen" if case.seen else "first"
            figures = f"{found[0]:8.1f} {median:8.1f} {sum(found) / BATCHES:8.1f}"
            less = f"{median - none[case]:14.1f}" if case in none and name != "none" else ""
            print(f"{name:8} {case.tenants:8} {who:>6} {case.together:8} {shown:>8} {figures} {less}", flush=True)


def _speed(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        run = faults.Run(Path(folder), store="redis", seed=0)
        assert run.redis is not None

        def fresh(store: str, case: Case) -> str:
            """A store nobody has asked yet."""
            number = CASES.index(case)
            if store in CONTROLS:
                return store
            return (
                f"sqlite:///{folder}/speed{number}.db" if store == "sqlite" else f"{run.url}?prefix={{speed{number}}}"
            )

        run.redis.start()
        try:
            uvloop.run(_when_up(run, fresh, arguments))
        finally:
            run.redis.kill()
    return 0


async def _when_up(run: faults.Run, url_of: Callable[[str, Case], str], arguments: argparse.Namespace) -> None:
    assert run.redis is not None
    await run.redis.listening()
    await speed(url_of, arguments.stores.split(","), requests=arguments.requests)


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
    quick.add_argument("--stores", default="none,book,sqlite,redis", help="which, by commas")
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
