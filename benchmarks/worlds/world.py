"""A world by its seed: who asks whom when, what breaks, and everything that happened, one line each.

The same seed gives the same lines. Nothing here judges: see verdict.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import itertools
import logging
import random
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.worlds.clients import ClientConnection, ClientRequest, request_for
from benchmarks.worlds.database import InlineDatabase, fresh_folder, remember, restore
from benchmarks.worlds.engines import BYTES_PER_TOKEN, CONTEXT, WorldEngine
from benchmarks.worlds.gateways import WorldGateway, open_gateway
from benchmarks.worlds.loop import BEGINNING_S, PROCESS, Process, VirtualLoop, close_quietly
from router.gateway.types import Catalogue
from router.stores.reports import AuditEntry, SpendLine
from router.types import Balance, Budget, Model, NanoUsd, Price, Principal, RateLimit

WITHIN_S = 12.0  # all requests come within
TTL_S, LONGEST_S = 5.0, 60.0
PATIENCE_S = 90.0  # of a client
SMALL, LARGE = 100_000_000, 1_000_000_000  # nano-USD per million tokens
USUAL = 500 * SMALL // 1_000_000  # about what a request holds on the small model


@dataclass(frozen=True, slots=True)
class UsedAfter:
    """What was spent and held by each counter after one transaction."""

    at_s: float
    used: dict[tuple[str, str], int]


class SeededWorld:
    """Everything of one seed."""

    def __init__(self, seed: int, base: Path) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.folder = fresh_folder(base, seed)
        self.path = self.folder / "pointsman.db"
        self.loop = VirtualLoop()
        self.lines: list[str] = []
        self.usage: list[UsedAfter] = []
        self.processes: list[Process] = []
        self.databases: dict[str, InlineDatabase] = {}  # by process
        self.gateways: dict[str, WorldGateway] = {}
        self.connections: dict[str, list[ClientConnection]] = {}  # by gateway
        self.lost_s: list[tuple[float, float]] = []  # from when to when the disk forgot
        self.spend: list[SpendLine] = []
        self.balances: list[Balance] = []  # at the end
        self.audit: list[AuditEntry] = []
        self.drained = False  # the large model was away for a while
        self.engines = {name: WorldEngine(name, seed) for name in ("small", "large")}
        self.models = tuple(self._model(name, price) for name, price in (("small", SMALL), ("large", LARGE)))
        self.tenants = {f"t{i}": self._terms(f"t{i}") for i in range(self.chance.randint(1, 3))}
        self.requests = self._requests()
        self._watching: sqlite3.Connection | None = None

    def _model(self, name: str, price: int) -> Model:
        budgets: tuple[Budget, ...] = ()
        if name == "large" and self.chance.random() < 0.3:
            budgets = (Budget("model:large", NanoUsd(USUAL * 10 * self.chance.randint(2, 20)), 86_400),)
        each = NanoUsd(price)
        able = frozenset({"chat", "completions"})
        own = {"budgets": budgets, "bytes_per_token": BYTES_PER_TOKEN[name]}
        return Model(name, name, name, Price(each, each), CONTEXT, CONTEXT, True, able, **own)  # type: ignore[arg-type]

    def _terms(self, tenant: str) -> tuple[Budget | RateLimit, ...]:
        chance, scope = self.chance, f"tenant:{tenant}"
        terms: list[Budget | RateLimit] = [Budget(scope, NanoUsd(USUAL * chance.choice((6, 20, 100, 1000))), 86_400)]
        if chance.random() < 0.3:
            terms.append(Budget(scope, NanoUsd(USUAL * chance.choice((6, 30))), 30))
        if chance.random() < 0.2:
            terms.append(Budget(scope, NanoUsd(USUAL), 3600, hard=False))
        if chance.random() < 0.3:
            terms.append(RateLimit(scope, None, None, chance.choice((1, 3))))
        if chance.random() < 0.3:
            terms.append(RateLimit(scope, chance.choice((3, 10)), chance.choice((None, 2000))))
        return tuple(terms)

    def _requests(self) -> list[ClientRequest]:
        names, models = list(self.tenants), ["auto", "auto", "small", "large"]
        count = self.chance.randint(5, 40)
        made = [request_for(self.chance, i, tenants=names, models=models, within_s=WITHIN_S) for i in range(count)]
        return sorted(made, key=lambda request: request.at_s)

    def principal(self, tenant: str, nonce: str) -> Principal:
        """Each request has a key of its own, so that spend is known for each."""
        terms = self.tenants[tenant]
        budgets = tuple(each for each in terms if isinstance(each, Budget))
        return Principal(nonce, tenant, budgets=budgets, limits=tuple(t for t in terms if isinstance(t, RateLimit)))

    # what happened

    def say(self, what: str) -> None:
        """A line of the world's history."""
        self.lines.append(f"{self.loop.time():9.4f} {what}")

    @property
    def digest(self) -> str:
        """Of the whole history."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]

    def now_ms(self) -> int:
        """Milliseconds since 1970 by the clock of the process that asks."""
        return int(self.loop.wall_s() * 1000)

    def database(self, path: Path) -> InlineDatabase:
        """The way to the file of the process that asks."""
        process = PROCESS.get()
        assert process is not None
        chance = random.Random(f"{self.seed}/{process.name}")
        made = InlineDatabase(path, process=process, chance=chance, committed=self.committed)
        self.databases[process.name] = made
        return made

    def committed(self) -> None:
        """Somebody's transaction is in the file."""
        if self._watching is None:
            self._watching = sqlite3.connect(self.path, isolation_level=None)
        rows = self._watching.execute("SELECT scope, meter, spent + held FROM counters").fetchall()
        self.usage.append(UsedAfter(self.loop.time(), {(scope, meter): used for scope, meter, used in rows}))

    # the course of a world

    def run(self) -> SeededWorld:
        """Live it to its end."""
        with _quiet(), _own_parts(self):
            try:
                self.loop.run_until_complete(self._live())
            finally:
                self._look_away()
                for gateway in self.gateways.values():
                    gateway.database.cut()
                close_quietly(self.loop)
        return self

    async def _live(self) -> None:
        for number in range(self.chance.randint(1, 3)):
            await self._open(f"g{number}")
        tasks = [asyncio.ensure_future(self._client(request)) for request in self.requests]
        tasks += [asyncio.ensure_future(each) for each in self._trouble()]
        await asyncio.gather(*tasks)
        await asyncio.sleep(TTL_S + 2.0)  # what the dead held runs out
        await self._close()

    async def _open(self, name: str, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        process = Process(name, skew_s=self.chance.uniform(-0.5, 0.5))
        self.processes.append(process)
        self.connections[name] = []
        gateway = await self.loop.spawn(process, open_gateway(self, process))
        self.gateways[name] = gateway
        process.on_death.append(lambda: self._died(name))
        self.say(f"{name} opens")

    def _died(self, name: str) -> None:
        self.say(f"{name} dies")
        self.loop.bury(self.gateways[name].process)
        self.gateways[name].database.cut()
        for connection in self.connections[name]:
            connection.end("reset")

    async def _client(self, request: ClientRequest) -> None:
        await asyncio.sleep(request.at_s)
        living = [name for name, gateway in self.gateways.items() if gateway.process.alive]
        if not living:
            request.ended = "reset"
            return
        request.gateway = living[self.chance.randrange(len(living))]
        gateway, connection = self.gateways[request.gateway], ClientConnection(request, self.loop)
        self.connections[request.gateway].append(connection)
        self.say(f"{request.nonce} of {request.tenant} asks {request.gateway} for {request.model}")
        self.loop.spawn(gateway.process, gateway.serve(connection))
        if request.hangs_up_s is not None:
            self.loop.call_later(request.hangs_up_s, connection.leave)
        self.loop.call_later(PATIENCE_S, connection.leave)
        await connection.over
        self.say(f"{request.nonce} {request.ended} {request.status} {len(request.body)} {zlib.crc32(request.body):08x}")

    # what breaks

    def _trouble(self) -> list[Any]:
        chance, found = self.chance, []
        for name in list(self.gateways):
            if chance.random() < 0.5:
                found.append(self._kill(name, at_s=chance.random() * WITHIN_S, steps=chance.randint(1, 400)))
        if chance.random() < 0.2:
            found.append(self._power_cut(chance.random() * WITHIN_S, lost_s=chance.random() * 1.5))
        for _ in range(chance.choice((0, 0, 1, 3))):
            found.append(self._reload(chance.random() * WITHIN_S))
        if chance.random() < 0.3:
            found.append(self._heal(chance.random() * WITHIN_S))
        return found

    async def _kill(self, name: str, *, at_s: float, steps: int) -> None:
        """Within so many steps from then on; another one opens in its place."""
        await asyncio.sleep(at_s)
        process = self.gateways[name].process
        process.steps = steps
        await asyncio.sleep(2.0)
        if not process.alive:
            await self._open(f"{name}'", self.chance.random() * 8)

    async def _power_cut(self, at_s: float, *, lost_s: float) -> None:
        """The machine loses its power, and the disk what was written in its last moments."""
        await asyncio.sleep(at_s)
        kept, since_s = remember(self.path), self.loop.time()
        await asyncio.sleep(lost_s)
        for gateway in list(self.gateways.values()):
            gateway.process.die()
        self._look_away()
        restore(self.path, kept)
        self.lost_s.append((since_s, self.loop.time()))
        self.say(f"the disk forgets since {since_s:.4f}")
        await self._open("after", 0.5)

    async def _reload(self, at_s: float) -> None:
        """Other settings: a model drains, or comes back."""
        await asyncio.sleep(at_s)
        draining = self.chance.random() < 0.5
        self.drained = self.drained or draining
        self.say(f"settings: the large model {'drains' if draining else 'is back'}")
        for gateway in self.gateways.values():
            decider = gateway.gateway.decider
            models = tuple(replace(each, draining=draining and each.name == "large") for each in self.models)
            decider.catalogue = Catalogue(models, decider.catalogue.backends)

    async def _heal(self, at_s: float) -> None:
        await asyncio.sleep(at_s)
        self.say("the engines are calm")
        for engine in self.engines.values():
            engine.calm = True

    # the end

    async def _close(self) -> None:
        """A last gateway looks at what is left."""
        for gateway in self.gateways.values():
            gateway.process.die()
        await self._open("last")
        last = self.gateways["last"]
        await asyncio.sleep(1.0)
        await self.loop.spawn(last.process, self._look(last))

    async def _look(self, last: WorldGateway) -> None:
        stores, now_ms = last.stores, self.now_ms()
        budgets = [each for terms in self.tenants.values() for each in terms if isinstance(each, Budget)]
        budgets += [each for model in self.models for each in model.budgets]
        self.balances = await stores.ledger.balances(budgets, now_ms)
        self.spend = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
        self.audit = await stores.audit.read(limit=100_000)
        for line in self.spend:
            self.say(f"{line.key} of {line.tenant} paid {line.cost_nanousd} for {line.model}, {line.requests}")

    def _look_away(self) -> None:
        if self._watching is not None:
            self._watching.close()
            self._watching = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Faults are wanted here; the log need not speak of them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _own_parts(world: SeededWorld) -> Iterator[None]:
    """Ids of decisions by the seed, and databases without threads."""
    numbers = itertools.count()
    parts = {
        ("router.gateway.deciding", "new_id"): lambda: f"dec-{world.seed:012x}{next(numbers):024x}",
        ("router.stores.open", "Database"): world.database,
    }
    modules = {name: importlib.import_module(name) for name, _ in parts}  # at last, as mutants replace them
    before = {(name, what): getattr(modules[name], what) for name, what in parts}
    token = PROCESS.set(None)
    try:
        for (name, what), own in parts.items():
            setattr(modules[name], what, own)
        yield
    finally:
        PROCESS.reset(token)
        for (name, what), theirs in before.items():
            setattr(modules[name], what, theirs)


__all__ = ["BEGINNING_S", "SeededWorld"]
