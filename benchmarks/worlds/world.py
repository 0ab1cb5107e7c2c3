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
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.worlds.clients import ClientConnection, ClientRequest, request_for
from benchmarks.worlds.database import SqliteWorldStore, fresh_folder
from benchmarks.worlds.engines import BYTES_PER_TOKEN, CONTEXT, WorldEngine
from benchmarks.worlds.gateways import WorldGateway, open_gateway
from benchmarks.worlds.learning import POLICIES, SentFeedback, seen_by
from benchmarks.worlds.loop import BEGINNING_S, PROCESS, Process, VirtualLoop, close_quietly
from benchmarks.worlds.programs import programs_for, programs_over
from benchmarks.worlds.redis_store import RedisWorldStore
from benchmarks.worlds.troubles import WITHIN_S, troubles_of
from router.errors import StoreUnavailable
from router.stores.reports import AuditEntry, SpendLine
from router.types import Balance, Budget, LogEntry, Model, NanoUsd, Price, Principal, RateLimit

TTL_S, LONGEST_S = 5.0, 60.0
PATIENCE_S = 90.0  # of a client
ENDS_S = 3600.0
SMALL, LARGE = 100_000_000, 1_000_000_000  # nano-USD per million tokens
USUAL = 500 * SMALL // 1_000_000  # about what a request holds on the small model
Terms = tuple[Budget | RateLimit, ...]


@dataclass(frozen=True, slots=True)
class UsedAfter:
    """What was spent and held by each counter after one transaction."""

    at_s: float
    used: dict[tuple[str, str], int]
    is_open: bool  # whether anybody may reserve


class SeededWorld:
    """Everything of one seed."""

    def __init__(self, seed: int, base: Path) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.folder = fresh_folder(base, seed)
        self.loop = VirtualLoop()
        self.loop.must_end(ENDS_S)
        self.lines: list[str] = []
        self.usage: list[UsedAfter] = []
        self.processes: list[Process] = []
        self.gateways: dict[str, WorldGateway] = {}
        self.connections: dict[str, list[ClientConnection]] = {}  # by gateway
        self.lost_s: list[tuple[float, float]] = []  # from when to when the disk forgot
        self.away: list[str] = []  # why the store refused for a while
        self.spend: list[SpendLine] = []
        self.balances: list[Balance] = []  # at the end
        self.audit: list[AuditEntry] = []
        self.log: list[LogEntry] = []
        self.feedback: list[SentFeedback] = []
        self.views: dict[str, str] = {}  # what each gateway had learned in the end
        self.is_over = False  # whoever dies now has nothing left to say
        self.drained = False  # the large model was away for a while
        self.store = (SqliteWorldStore if self.chance.random() < 0.6 else RedisWorldStore)(self)
        self.caches = seed // 10_000 % 2 == 1  # models have prices of what is cached
        self.policies = ("cheapest", self.chance.choice(POLICIES))
        self.policy = self.chance.choice(self.policies)
        self.keeps_views = self.chance.random() < 0.3  # a restart reads what was learned from the disk
        self.engines = {name: WorldEngine(name, seed) for name in ("small", "large")}
        self.versions = [(0.0, tuple(self._model(name, price) for name, price in (("small", SMALL), ("large", LARGE))))]
        self.tenants: dict[str, list[tuple[float, Terms]]] = {}
        for number in range(self.chance.randint(1, 3)):
            self.tenants[f"t{number}"] = [(0.0, self._terms(f"t{number}"))]
        self.requests = self._requests()
        self.programs = programs_for(seed, self.requests)
        for engine in self.engines.values():
            engine.varies, engine.caches = bool(self.programs), self.caches

    def _model(self, name: str, price: int) -> Model:
        budgets: tuple[Budget, ...] = ()
        if name == "large" and self.chance.random() < 0.3:
            budgets = (Budget("model:large", NanoUsd(USUAL * 10 * self.chance.randint(2, 20)), 86_400),)
        each = NanoUsd(price)
        kinds = {"cached": NanoUsd(price // 10), "cache_write": NanoUsd(price * 5 // 4)} if self.caches else {}
        able = frozenset({"chat", "completions"})
        own = {"budgets": budgets, "bytes_per_token": BYTES_PER_TOKEN[name]}
        return Model(name, name, name, Price(each, each, **kinds), CONTEXT, CONTEXT, True, able, **own)  # type: ignore[arg-type]

    def _terms(self, tenant: str) -> Terms:
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

    # settings, and how they change

    @property
    def models(self) -> tuple[Model, ...]:
        """As the settings have them now."""
        return self.versions[-1][1]

    @property
    def offered(self) -> tuple[Model, ...]:
        """The models, and the programs over them."""
        return self.models + programs_over(self.programs, self.models)

    def renew_models(self, models: tuple[Model, ...]) -> None:
        """Every gateway takes the settings in."""
        self.versions.append((self.loop.time(), models))
        for gateway in self.gateways.values():
            gateway.take(self.offered, self.policy)
        shown = ", ".join(f"{m.name} {m.price.prompt}{' drains' * m.draining}" for m in models)
        self.say(f"settings: {shown}; {self.policy}")

    def renew_terms(self, tenant: str) -> None:
        """An admin writes other budgets and limits."""
        self.tenants[tenant].append((self.loop.time(), self._terms(tenant)))
        self.say(f"settings: {tenant} has other terms")

    def principal(self, tenant: str, nonce: str, terms: Terms | None = None) -> Principal:
        """Each request has a key of its own, so that spend is known for each."""
        terms = self.tenants[tenant][-1][1] if terms is None else terms
        budgets = tuple(each for each in terms if isinstance(each, Budget))
        return Principal(nonce, tenant, budgets=budgets, limits=tuple(t for t in terms if isinstance(t, RateLimit)))

    # what happened

    def say(self, what: str) -> None:
        """A line of the world's history."""
        self.lines.append(f"{self.loop.time():9.4f} {what}")

    def used(self, used: dict[tuple[str, str], int], *, is_open: bool = True) -> None:
        """What the counters say after a transaction, and whether anybody may reserve."""
        if not self.usage or self.usage[-1].used != used or self.usage[-1].is_open != is_open:
            self.usage.append(UsedAfter(self.loop.time(), used, is_open))

    @property
    def digest(self) -> str:
        """Of the whole history."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]

    def now_ms(self) -> int:
        """Milliseconds since 1970 by the clock of the process that asks."""
        return int(self.loop.wall_s() * 1000)

    # the course of a world

    def run(self) -> SeededWorld:
        """Live it to its end."""
        with _quiet(), _own_parts(self):
            try:
                self.loop.run_until_complete(self._live())
            finally:
                for gateway in self.gateways.values():
                    gateway.process.die()
                self.store.close()
                close_quietly(self.loop)
        return self

    async def _live(self) -> None:
        for number in range(self.chance.randint(1, 3)):
            await self.open(f"g{number}", host=f"h{number % 2}")
        tasks = [asyncio.ensure_future(self._client(request)) for request in self.requests]
        tasks += [asyncio.ensure_future(each) for each in troubles_of(self)]
        await asyncio.gather(*tasks)
        await asyncio.sleep(TTL_S + 2.0)  # what the dead held runs out
        await self._close()

    async def open(self, name: str, *, host: str = "h0", after_s: float = 0.0) -> None:
        """Start a gateway."""
        await asyncio.sleep(after_s)
        process = Process(name, host=host, skew_s=self._skew_s())
        self.processes.append(process)
        self.connections[name] = []
        gateway = await self._started(process)
        self.gateways[name] = gateway
        process.on_death.append(lambda: self._died(name))
        self.say(f"{name} opens")

    async def _started(self, process: Process) -> WorldGateway:
        """A start without the store fails, and is tried again."""
        while True:
            try:
                return await self.loop.spawn(process, open_gateway(self, process))
            except StoreUnavailable:
                self.store.died(process)
                await asyncio.sleep(1.0)

    def _skew_s(self) -> float:
        """On one machine there is one clock; hosts differ, and now and then by more than Redis lets pass."""
        if self.is_over:
            return 0.0
        if self.store.kind == "sqlite":
            return self.chance.uniform(-0.5, 0.5)
        return self.chance.choice((0.0, 0.3, -2.0, 4.0, 4.0, -4.0, 7.0)) * self.chance.random()

    def _died(self, name: str) -> None:
        self.say(f"{name} dies")
        self.gateways[name].process.alive_until_end = self.is_over
        self.loop.bury(self.gateways[name].process)
        self.store.died(self.gateways[name].process)
        for connection in self.connections[name]:
            connection.end("reset")

    def _living(self) -> list[str]:
        return [name for name, gateway in self.gateways.items() if gateway.process.alive]

    async def _client(self, request: ClientRequest) -> None:
        await asyncio.sleep(request.at_s)
        living = self._living()
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
        patience = self.loop.call_later(PATIENCE_S, connection.leave)
        await connection.over
        patience.cancel()
        self.say(f"{request.nonce} {request.ended} {request.status} {len(request.body)} {zlib.crc32(request.body):08x}")
        if request.is_whole and request.judges:
            await self._judge(request)

    async def _judge(self, request: ClientRequest) -> None:
        """Somebody sends feedback about an answer: its tenant, or another."""
        await asyncio.sleep(self.chance.random() * 3)
        judge = self.chance.choice((request.tenant, request.tenant, *self.tenants))
        for score in request.judges:
            living = self._living()
            if not living:
                return
            gateway = self.gateways[self.chance.choice(living)]
            sent = SentFeedback(request.nonce, request.decision_id, judge, request.tenant, score, self.loop.time())
            self.feedback.append(sent)
            sending = self.loop.spawn(gateway.process, sent.send(gateway.stores, self.now_ms()))
            await asyncio.wait([sending], timeout=PATIENCE_S)  # what the dead do never ends, not even by cancelling
            self.say(f"{judge} says {score} of {request.nonce}: {sent.reported}")

    # the end

    async def _close(self) -> None:
        """Last gateways look at what is left, one on each host."""
        for name in self._living():
            self.views[name] = self._seen(name)
        self.is_over = True
        for gateway in self.gateways.values():
            gateway.process.die()
        self.keeps_views = False
        for host in sorted({process.host for process in self.processes}):
            await self.open(f"last-{host}", host=host)
        # The money's time may have stood still while nobody ran, or Redis only now learns that it was promoted: leases
        # end as much later.
        await asyncio.sleep(TTL_S + 2.0 if {"clock", "lost"} & set(self.away) else 1.0)
        last = self.gateways["last-h0"]
        self.views["last-h0"] = self._seen("last-h0")
        await self.loop.spawn(last.process, self._look(last))

    def _seen(self, name: str) -> str:
        return seen_by(self.gateways[name].learning.views, self.gateways[name].learning_arms)

    async def _look(self, last: WorldGateway) -> None:
        stores, now_ms = last.stores, self.now_ms()
        terms = [each for versions in self.tenants.values() for _, found in versions for each in found]
        budgets = [each for each in terms if isinstance(each, Budget)]
        budgets += [each for model in self.models for each in model.budgets]
        self.balances = await stores.ledger.balances(budgets, now_ms)
        self.spend = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
        self.audit = await stores.audit.read(limit=100_000)
        self.log = [entry async for _, entry in stores.log.tail("", follow=False)]
        for line in self.spend:
            self.say(f"{line.key} of {line.tenant} paid {line.cost_nanousd} for {line.model}, {line.requests}")


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
    """Ids of decisions by the seed, and stores without threads and sockets."""
    numbers = itertools.count()
    parts = {("router.gateway.deciding", "new_id"): lambda: f"dec-{world.seed:012x}{next(numbers):024x}"}
    parts |= world.store.parts
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
