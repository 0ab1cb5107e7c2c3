"""`python -m benchmarks.money {speed,faults}`: what a reservation costs, and whether money leaks when things die.

`speed` has a control beside the stores: `none` answers every request at once, so what it costs is the loop, its pauses
and the benchmark. Each figure stands as it was measured and, where `none` is among the stores, less what `none` took in
the same pattern of requests. Beside it stand the bars of SQLite, how much memory a case took, and how soon the ledger
of a gateway that was killed is ready. `--write PATH` puts the table into a page between its two marks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uvloop

from benchmarks import faults
from research.provenance import provenance, put
from router.amounts import CALENDAR_S
from router.stores.open import open_stores
from router.types import Budget, Hold, NanoUsd, Offer, Principal, RateLimit, Reservation, Spend

WORST, COST = NanoUsd(60_000), NanoUsd(30_000)
BATCHES = 5
STEP = 7919  # walks over all tenants in no order
WARM = 2  # requests of everybody before
BARS = {1: 150, 16: 80}  # CPU microseconds on SQLite, by requests at once
ROWS, READY_S = 400_000, 2.0  # of a gateway that was killed, and how soon its ledger is ready


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


CONTROLS: dict[str, Callable[[], Measured]] = {"none": Nothing}


async def one(ledger: Measured, who: Principal, offers: tuple[Offer, ...], name: str) -> None:
    """Reserve and settle one request, in two turns of the loop: in a gateway the engine's answer lies between them."""
    now = now_ms()
    hold = await ledger.reserve(Reservation(f"{now:012x}{name}", who, offers, 30_000, now, 600_000))
    await asyncio.sleep(0)
    await ledger.settle(hold, Spend(COST, 100, 500, "settled"))
    await asyncio.sleep(0)


@dataclass(frozen=True)
class Case:
    """What is measured, after WARM requests of everybody."""

    tenants: int
    together: int = 1  # requests at once
    rate: float | None = None  # requests a second; None: as fast as they go


CASES = (Case(10), Case(10, together=16), Case(100_000), Case(100_000, together=16), Case(10, rate=1000.0))


async def asked_by_all(ledger: Measured, people: list[Principal], offers: tuple[Offer, ...]) -> None:
    """WARM requests of everybody, 64 at once."""
    everybody = people * WARM
    for i in range(0, len(everybody), 64):
        await asyncio.gather(*(one(ledger, who, offers, f"a{i + j}") for j, who in enumerate(everybody[i : i + 64])))


def rss_mib() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


async def measure(url: str, case: Case, *, requests: int) -> tuple[list[float], float]:
    """CPU microseconds of this process for one reserve and settle, in each of BATCHES batches, ascending; MiB taken."""
    people = [principal(i) for i in range(case.tenants)]
    offers = (Offer("small", WORST, 1000, (Budget("model:small", NanoUsd(10**15), 3600),)),)
    async with opened(url) as ledger:
        for warm in range(200):
            await one(ledger, people[warm % case.tenants], offers, f"w{warm}")
        gc.collect()
        before = rss_mib()
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
        return sorted(found), rss_mib() - before


async def speed(url_of: Callable[[str, Case], str], names: Sequence[str], *, requests: int) -> list[str]:
    """A table: store or control, tenants, requests at once, CPU for each, the bar, memory taken."""
    lines = [f"CPU us for one reserve + settle on six counters, in {BATCHES} batches of {requests}"]
    lines += [
        f"{'store':8} {'tenants':>8} {'at once':>8} {'req/s':>8} {'least':>8} {'median':>8} {'less none':>10}"
        f" {'bar':>6} {'MiB':>6}"
    ]
    none: dict[Case, float] = {}
    for name in names:
        for case in CASES:
            found, mib = await measure(url_of(name, case), case, requests=requests)
            median = found[BATCHES // 2]
            if name == "none":
                none[case] = median
            shown = "free" if case.rate is None else f"{case.rate:.0f}"
            less = f"{median - none[case]:.1f}" if case in none and name != "none" else ""
            bar = f"{BARS[case.together]}" if name == "sqlite" and case.rate is None else ""
            row = f"{name:8} {case.tenants:8} {case.together:8} {shown:>8} {found[0]:8.1f} {median:8.1f}"
            lines.append(f"{row} {less:>10} {bar:>6} {mib:6.1f}")
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


# a gateway that was killed


async def _killed(path: Path) -> None:
    """Write ROWS rows as a gateway would have, and die."""
    async with open_stores(f"sqlite:///{path}", clock=now_ms) as stores:
        offers = (Offer("small", WORST, 1000, (Budget("model:small", NanoUsd(10**15), 3600),)),)
        count = (ROWS - 1) // 7  # five counters, a line of spend and a hold for each
        for i in range(0, count, 256):
            people = [principal(j) for j in range(i, min(i + 256, count))]
            await asyncio.gather(*(one(stores.ledger, who, offers, f"{who.key_id}s") for who in people))
            now = now_ms()
            asked = [Reservation(f"{who.key_id}h", who, offers, 600_000, now) for who in people]
            await asyncio.gather(*(stores.ledger.reserve(each) for each in asked))
        os.kill(os.getpid(), signal.SIGKILL)


async def ready(folder: Path) -> str:
    """How long the next gateway takes until its first reservation is taken."""
    path = folder / "killed.db"
    dying = await asyncio.create_subprocess_exec(sys.executable, "-m", "benchmarks.money", "killed", str(path))
    await dying.wait()
    began, spent = time.perf_counter(), time.process_time()
    async with open_stores(f"sqlite:///{path}", clock=now_ms) as stores:
        await stores.ledger.reserve(Reservation("first", principal(0), (Offer("small", WORST, 1000),), 1000, now_ms()))
        wall, cpu = time.perf_counter() - began, time.process_time() - spent
        with contextlib.closing(sqlite3.connect(path)) as file:
            rows = sum(file.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("counters", "spend", "holds"))
    return (
        f"sqlite: {rows} rows of a gateway that was killed, ready in {wall:.2f} s, {cpu:.2f} s of CPU (bar {READY_S} s)"
    )


def _speed(arguments: argparse.Namespace) -> int:
    names = arguments.stores.split(",")
    with tempfile.TemporaryDirectory() as folder:
        run = faults.FaultRun(Path(folder), store="redis" if "redis" in names else "sqlite", seed=0)
        direct = f"redis://127.0.0.1:{run.redis.primary.port}/0" if run.redis else ""

        def fresh(store: str, case: Case) -> str:
            """A store nobody has asked yet."""
            number = CASES.index(case)
            if store in CONTROLS:
                return store
            return f"sqlite:///{folder}/speed{number}.db" if store == "sqlite" else f"{direct}?prefix={{speed{number}}}"

        if run.redis is not None:
            run.redis.primary.start()
        try:
            lines = uvloop.run(_when_up(run, fresh, names, requests=arguments.requests))
            if "sqlite" in names:
                lines.append(uvloop.run(ready(Path(folder))))
        finally:
            if run.redis is not None:
                run.redis.primary.kill()
    print(*lines, sep="\n")
    if arguments.write is not None:
        put(arguments.write, "speed", ["```", *lines, "```"])
    return 0


async def _when_up(
    run: faults.FaultRun, url_of: Callable[[str, Case], str], names: Sequence[str], *, requests: int
) -> list[str]:
    if run.redis is not None:
        await run.redis.primary.listening()
    return await speed(url_of, names, requests=requests)


def _faults(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = faults.faults(
            seconds=arguments.seconds, folder=folder, store=arguments.store, size=arguments.crowd, seed=arguments.seed
        )
        report = uvloop.run(work)
        if not report.is_good:
            print(*faults.logs(folder), sep="\n")
        print(*report.lines, provenance(), sep="\n")  # what is wanted stands last, also in a log that is cut
        return 0 if report.is_good else 1


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    quick = verbs.add_parser("speed", help="CPU per reserve + settle on both stores")
    quick.add_argument("--requests", type=int, default=4000)
    quick.add_argument("--stores", default="none,sqlite,redis", help="which, by commas")
    quick.add_argument("--write", type=Path, help="a page with marks for the table")
    quick.set_defaults(run=_speed)
    dying = verbs.add_parser("killed", help="fill a ledger and die, for `speed`")
    dying.add_argument("path", type=Path)
    dying.set_defaults(run=lambda arguments: asyncio.run(_killed(arguments.path)))
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
