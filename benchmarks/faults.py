"""Kills gateways, the store and engines under a crowd, and counts what became of the money.

`python -m benchmarks.money faults --seconds 120` starts two Redis (AOF everysec), one the replica of the other, two
engines and four gateways. It sends 2000 requests at once and then a steady crowd, while processes are killed by SIGKILL
at random. It compares what clients were given with what was charged. Engines lie about what they used, and a replica
that is seconds behind is promoted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from redis.exceptions import RedisError

from benchmarks.child import Child, free_port
from benchmarks.crowd import MAX_TOKENS, PRICES, WORST, Account, Clients, CrowdTally, Overspent
from benchmarks.redis_pair import RedisPair
from router.errors import StoreUnavailable
from router.stores.keys import Tenant
from router.stores.open import Stores, open_stores
from router.terms import Terms
from router.types import NANO_PER_USD, Budget

GATEWAYS, CROWD, STEADY = 4, 2000, 48
LEASE_S, SHOWN = 6, 10
AMPLE, TIGHT = Terms.of(budgets=["10000 USD per 1d"]), Terms.of(budgets=["0.008 USD per 1h"])
ROLLING = Terms.of(budgets=["0.004 USD per 30s"])
TENANTS = {"ample": AMPLE, "tight-1": TIGHT, "tight-2": TIGHT, "rolling": ROLLING}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# the run


class FaultRun:
    """One store, two engines, four gateways and the clients."""

    def __init__(self, folder: Path, *, store: str, seed: int) -> None:
        self.folder, self.tally, self.random = folder, CrowdTally(), random.Random(seed)
        self.redis = RedisPair(folder) if store == "redis" else None
        self.url = self.redis.url if self.redis else f"sqlite:///{folder / 'pointsman.db'}"
        self.engines = [self._engine(i) for i in range(2)]
        self.gateways = [self._gateway(i) for i in range(GATEWAYS)]
        self.stop = asyncio.Event()
        self._down: set[str] = set()
        self._gateways_die_from = self._redis_broke = 0.0

    def _engine(self, i: int) -> Child:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.crowd", str(port)]
        return Child(f"engine {i}", port, command, self.folder / f"engine{i}.log")

    def _gateway(self, i: int) -> Child:
        port, config = free_port(), self.folder / f"gateway{i}.yaml"
        config.write_text(yaml.safe_dump(self._settings(i)))
        command = [sys.executable, "-m", "pointsman", "serve", "--config", str(config), "--port", str(port)]
        return Child(f"gateway {i}", port, command, self.folder / f"gateway{i}.log")

    def _settings(self, i: int) -> dict[str, Any]:
        where = {"redis": self.url} if self.redis else {"sqlite": str(self.folder / "pointsman.db")}
        common = {"kind": "vllm", "discover": False, "breaker": {"failures": 5, "open_s": 1}}
        common["timeouts"] = {"connect_s": 1, "first_byte_s": 3, "idle_s": 3}
        urls = [f"http://127.0.0.1:{each.port}" for each in self.engines]
        models = [
            {
                "name": name,
                "backend": name,
                "context_tokens": 4096,
                "max_output_tokens": MAX_TOKENS,
                "price": {part: usd / NANO_PER_USD for part, usd in price.amounts.items() if usd},
            }
            for name, price in PRICES.items()
        ]
        return {
            "state_dir": str(self.folder / f"state{i}"),
            "store": {**where, "hold_ttl_s": LEASE_S, "timeout_s": 2},
            "backends": {name: {**common, "urls": urls} for name in PRICES},
            "models": models,
            "policy": {"name": "random"},
        }

    @property
    def children(self) -> list[Child]:
        return [*(self.redis.children if self.redis else []), *self.engines, *self.gateways]

    async def up(self) -> None:
        if self.redis:
            await self.redis.up()
        for child in (*self.engines, *self.gateways):
            child.start()
        await asyncio.gather(*(child.listening() for child in self.children))

    def down(self) -> None:
        for child in self.children:
            child.kill()

    async def watch(self, stores: Stores) -> None:
        """Count every moment at which spent + held exceeds a limit.

        A moment in which nobody may reserve is not counted. Gateways say again then what a new Redis had lost: it may
        show a hold, and beside it what others took when that hold had ended.
        """
        budgets = _budgets()
        while not self.stop.is_set():
            with contextlib.suppress(StoreUnavailable, RedisError, OSError):
                asked_ms, balances = now_ms(), await stores.ledger.balances(budgets, now_ms())
                over = [each for each in balances if each.spent + each.held > each.budget.limit]
                if over and (self.redis is None or asked_ms > await self.redis.opens_ms()):
                    self.tally.overspent += [Overspent(now_ms(), self._since_redis(), each) for each in over]
            await asyncio.sleep(0.05)

    def _since_redis(self) -> float:
        """Seconds since the store was last killed or replaced; since ever where it was not."""
        return time.monotonic() - self._redis_broke

    async def break_things(self, seconds: float) -> None:
        """Kill something every second or so, never the last of its kind but Redis, and start it again."""
        restarts: list[asyncio.Task[None]] = []
        until, kinds = time.monotonic() + seconds, ["engine", "gateway", *(["redis"] if self.redis else [])]
        while time.monotonic() < until:
            await asyncio.sleep(self.random.uniform(0.5, 2.5))
            kind = self.random.choice(kinds)
            if kind == "redis":
                restarts += await self._break_redis()
                continue
            up = [
                child for child in (self.engines if kind == "engine" else self.gateways) if child.name not in self._down
            ]
            if len(up) < 2 or (kind == "gateway" and time.monotonic() < self._gateways_die_from):
                continue
            child = self.random.choice(up)
            child.kill()
            self.tally.kills[kind] += 1
            if kind == "engine":  # a dead gateway is found out when the leases of its holds end
                self.tally.waiting[kind] = time.monotonic()
            restarts.append(asyncio.create_task(self._restart(child)))
        await asyncio.gather(*restarts)

    async def _break_redis(self) -> list[asyncio.Task[None]]:
        """Kill it; every third time a replica that is behind takes over.

        Where something is lost gateways are left alone until they have put it back. What one that is killed then had
        done comes from its own disk, but only when it is started again, when its room may have been given away.
        """
        assert self.redis is not None
        if "redis" in self._down:
            return []
        well = not any(gateway.name in self._down for gateway in self.gateways)
        if well and self.tally.failovers * 3 <= self.tally.kills["redis"] and await self.redis.is_in_step():
            behind_s = self.random.uniform(1, 5)
            self._gateways_die_from = time.monotonic() + behind_s + 6
            self.tally.kills["redis"] += 1
            self.tally.failovers += 1
            await self.redis.fail_over(behind_s=behind_s)
            self.tally.waiting["redis"] = self._redis_broke = time.monotonic()
            return []
        self.redis.primary.kill()
        self.tally.kills["redis"] += 1
        self.tally.waiting["redis"] = self._redis_broke = time.monotonic()
        if well and self.random.random() < 0.5:
            self.tally.forgotten += self.redis.forget_a_second()
            self._gateways_die_from = time.monotonic() + 6
        return [asyncio.create_task(self._restart(self.redis.primary))]

    async def measure(self) -> None:
        """Note how long Redis's file is."""
        while not self.stop.is_set():
            if self.redis is not None:
                await self.redis.measure()
            await asyncio.sleep(0.05)

    async def _restart(self, child: Child) -> None:
        self._down.add(child.name)
        await asyncio.sleep(self.random.uniform(0, 1))
        child.start()
        await child.listening(again=True)  # a gateway whose store is away stops; what supervises it starts it again
        self._down.discard(child.name)


def _budgets() -> list[Budget]:
    return [each.budget(f"tenant:{name}") for name, terms in TENANTS.items() for each in terms.budgets]


async def make_accounts(stores: Stores, count: int) -> list[Account]:
    """Tenants with budgets, and keys of theirs with a rate limit each."""
    for name, terms in TENANTS.items():
        await stores.keys.put(Tenant(name, terms))
    names = itertools.cycle(TENANTS)
    accounts = []
    for _ in range(count):
        name = next(names)
        key, secret = await stores.keys.create(
            name, terms=Terms.of(limits={"requests_per_minute": 10_000, "concurrent": 100})
        )
        accounts.append(Account(key.id, secret, name))
    return accounts


async def crowd(run: FaultRun, clients: Clients, *, size: int) -> None:
    """Everybody at once, once."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(clients.ask(session, account) for account in clients.accounts[:size]))


async def steady(run: FaultRun, clients: Clients) -> None:
    """A few dozen clients until the run ends."""
    turns = itertools.cycle(clients.accounts)
    connector = aiohttp.TCPConnector(limit=0)

    async def one(session: aiohttp.ClientSession) -> None:
        while not run.stop.is_set():
            await clients.ask(session, next(turns), tries=2)
            await asyncio.sleep(0.05)

    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(one(session) for _ in range(STEADY)))


async def phantom_holds(stores: Stores) -> int:
    """Budgets that still show a hold after every lease must have ended."""
    budgets = _budgets()
    deadline, held = time.monotonic() + LEASE_S + 5, 1
    while held and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        held = sum(b.held > 0 for b in await stores.ledger.balances(budgets, now_ms()))
    return held


async def false_refusals(clients: Clients) -> int:
    """Requests of a tenant with money that are refused although everything is up again."""
    ample = [account for account in clients.accounts if account.tenant == "ample"][:100]
    async with aiohttp.ClientSession() as session:
        outcomes = await asyncio.gather(*(clients.ask(session, account) for account in ample))
    return sum(outcome in ("budget", "rate limit", "503", "401") for outcome in outcomes)


async def charged(stores: Stores) -> dict[str, int]:
    """Nano-USD charged to each key."""
    total: dict[str, int] = defaultdict(int)
    for line in await stores.spend.lines(since=_day(-1), until=_day(1)):
        total[line.key or ""] += line.cost_nanousd
    return total


def _day(offset: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time.time() + offset * 86_400))


async def endings(stores: Stores, tally: CrowdTally) -> Counter[str]:
    """How holds ended, as the audit tells of leases and restarts and the spend lines of settlements."""
    found: Counter[str] = Counter()
    after = ""
    while entries := await stores.audit.read(after=after, limit=1000):
        found.update(entry.kind for entry in entries)
        after = entries[-1].position
        for entry in entries:
            if str(entry.detail.get("reason", "")).endswith("not known"):
                tenant, *_ = str(entry.detail["who"]).split("\x1f")
                tally.unknown.append((entry.at_ms, f"tenant:{tenant}", int(str(entry.detail["charged"]))))
            if entry.kind in ("hold.expired", "hold.released"):
                found_s = LEASE_S + float(str(entry.detail["overdue_ms"])) / 1000
                tally.detection_s["gateway"] = max(tally.detection_s["gateway"], found_s)
    lines = await stores.spend.lines(since=_day(-1), until=_day(1))
    found["settled"] = sum(line.requests for line in lines) - found["hold.expired"]
    return found


async def faults(*, seconds: float, folder: Path, store: str, size: int, seed: int) -> FaultReport:
    """The whole run."""
    run = FaultRun(folder, store=store, seed=seed)
    if run.redis:
        await run.redis.up()
    try:
        async with open_stores(run.url, clock=now_ms) as stores:
            accounts = await make_accounts(stores, size)
            await run.up()
            clients = Clients(run.gateways, accounts, run.tally)
            watching = asyncio.gather(run.watch(stores), run.measure())
            began = time.monotonic()
            await crowd(run, clients, size=size)
            print(f"crowd: {size} requests at once over {GATEWAYS} gateways in {time.monotonic() - began:.1f} s")
            load = asyncio.create_task(steady(run, clients))
            await run.break_things(seconds)
            await asyncio.sleep(2)
            run.stop.set()
            await asyncio.gather(load, watching)
            phantoms = await phantom_holds(stores)
            refusals = await false_refusals(clients)
            phantoms = max(phantoms, await phantom_holds(stores))
            return report(run, accounts, await charged(stores), await endings(stores, run.tally), phantoms, refusals)
    finally:
        run.down()


@dataclass(frozen=True, slots=True)
class FaultReport:
    """What a run counted, a line each; good where all that must be 0 is."""

    lines: tuple[str, ...]
    is_good: bool


def report(  # one line for each count
    run: FaultRun, accounts: list[Account], paid: dict[str, int], ends: Counter[str], phantoms: int, refusals: int
) -> FaultReport:
    """The counts of a run that has ended."""
    lost = sum(paid.get(a.key_id, 0) < a.delivered for a in accounts)
    double = sum(paid.get(a.key_id, 0) > a.delivered + a.uncertain * WORST for a in accounts)
    zeros = {
        "overspend": len(unexplained := [each for each in run.tally.overspent if not run.tally.explains(each)]),
        "lost charges": lost,
        "double charges": double,
        "phantom holds": phantoms,
        "false refusals after recovery": refusals,
    }
    slowest = max(run.tally.detection_s.values(), default=0.0)
    each = ", ".join(f"{k} {v:.2f} s" for k, v in run.tally.detection_s.items())
    lines = (
        f"kills: {_counts(run.tally.kills.items())}; redis lost its last second {run.tally.forgotten} times, "
        f"a replica that was behind was promoted {run.tally.failovers} times",
        f"requests: {run.tally.seen.total()} ({_counts(run.tally.seen.most_common())})",
        f"settled: {ends['settled']}",
        f"released: {ends['hold.released']} leases",
        f"expired: {ends['hold.expired']} leases",
        f"after restarts: {ends['hold.restored']} holds restored, {ends['hold.recovered']} charged without their hold",
        f"late settlements: {ends['hold.late']}",
        f"charged at their worst case, since a promoted replica does not know what was sent: {len(run.tally.unknown)}",
        *(f"{name}: {count}" for name, count in zeros.items()),
        *map(str, unexplained[:SHOWN]),
        f"worst detection time: {slowest:.2f} s ({each})",
    )
    return FaultReport(lines, not any(zeros.values()))


def _counts(items: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in items)


def logs(folder: Path) -> Iterator[str]:
    """The ends of the processes' logs, for when something went wrong."""
    for path in sorted(folder.glob("*.log")):
        yield f"--- {path.name}\n{path.read_text()[-1500:]}"
