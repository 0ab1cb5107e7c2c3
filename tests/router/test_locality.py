"""What must stay local leaves for no engine, no embedder and no retry, whatever fails and whatever is reloaded."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.embedders.hashing import HashingEmbedder
from backends.errors import Unreachable
from backends.pool import Replicas, replica_of
from backends.scripted import Line, Scripted, Trouble, always
from policies import registry as named
from router.errors import PointsmanError
from router.gateway.deciding import Decider
from router.gateway.serving import Gateway
from router.gateway.types import Call, Catalogue, JudgeRules, LearningRules, Metrics, Options, Surroundings
from router.learning.follower import Learning
from router.learning.index import FaissIndex
from router.learning.views import Views
from router.stores.reports import AuditEntry
from router.types import (
    Balance,
    Budget,
    DecisionRecord,
    Feedback,
    Hold,
    LogEntry,
    Model,
    Principal,
    Reservation,
    SettlementRecord,
    Spend,
)
from tests.router.conftest import SMALL, House, Workshop, model

pytestmark = pytest.mark.anyio
WORLDS = 10_000
POLICIES = ("random", "neighbours", "epsilon")
TROUBLES: tuple[Trouble | None, ...] = (None, None, None, "500", "down", "busy", "garbage", "html", "reset", "refuse")


class Overheard:
    """An embedder that keeps every text it is asked with, and fails at times."""

    def __init__(self, *, is_local: bool, fails: bool) -> None:
        self.is_local, self.texts = is_local, list[str]()
        self._fails = fails
        self._embedder = HashingEmbedder(256)

    @property
    def dim(self) -> int:
        return 256

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        await asyncio.sleep(0)
        if self._fails:
            raise Unreachable("nobody there", backend="embedder")
        return self._embedder.embed_now(texts)


class Forgetful:
    """A ledger, a log and an audit that keep nothing. `on_reserve` happens while a reservation is under way."""

    def __init__(self) -> None:
        self.on_reserve = lambda: None

    async def reserve(self, reservation: Reservation) -> Hold:
        await asyncio.sleep(0)
        self.on_reserve()
        offer = next(iter(reservation.offers))
        return Hold(reservation.decision_id, offer.model, offer.worst, reservation.now_ms + reservation.ttl_ms)

    async def settle(self, hold: Hold, spend: Spend) -> None: ...

    async def mark(self, hold: Hold) -> None: ...

    async def balances(self, budgets: Sequence[Budget], now_ms: int) -> list[Balance]:
        return []

    async def remember(self, record: DecisionRecord | SettlementRecord) -> None: ...

    async def note(self, kind: str, subject: str, detail: Mapping[str, object]) -> None: ...

    async def read(self, *, after: str = "", limit: int = 100) -> list[AuditEntry]:
        return []

    async def judge(self, feedback: Feedback) -> bool:
        return True

    async def tail(self, after: str, *, follow: bool = True) -> AsyncIterator[tuple[str, LogEntry]]:
        for entry in ():
            yield entry


@dataclass
class Registry:
    """Engines of random kinds, of which some are not the operator's."""

    catalogue: Catalogue
    foreign: list[Scripted] = field(default_factory=list)


def registry_of(chance: random.Random, names: Sequence[str]) -> Registry:
    """Every name's backend is local or not at random, with engines that fail at random."""
    models, backends, foreign = list[Model](), dict[str, Replicas](), list[Scripted]()
    for name in names:
        local = chance.random() < 0.5
        scripts = []
        for i in range(chance.choice((1, 1, 2, 3))):
            line = Line(text="no idea", trouble=chance.choice(TROUBLES), trouble_after=chance.choice((0, 1)))
            scripts.append(Scripted(always(line), name=f"{name}/{i}"))
        foreign += [] if local else scripts
        backends[name] = Replicas([replica_of(each, name=each.name) for each in scripts], name=name)
        price = SMALL * chance.choice((1, 2, 5))
        models += [model(f"{name}-{i}", price, backend=name, local=local) for i in range(chance.choice((1, 2)))]
    return Registry(Catalogue(tuple(models), backends), foreign)


@dataclass
class World:
    """A gateway over random registries, and everything that is not the operator's."""

    gateway: Gateway
    embedder: Overheard
    registries: tuple[Registry, Registry]

    @property
    def left(self) -> str:
        """All that was said to anybody foreign."""
        sent = [each.sent for registry in self.registries for each in registry.foreign]
        return str(sent) + ("" if self.embedder.is_local else str(self.embedder.texts))


def world_of(chance: random.Random, learning: Learning, store: Forgetful) -> World:
    names = [f"b{i}" for i in range(chance.randint(1, 4))]
    first, second = registry_of(chance, names), registry_of(chance, names)
    embedder = Overheard(is_local=chance.random() < 0.3, fails=chance.random() < 0.2)
    decider = Decider(
        catalogue=first.catalogue,
        learning=learning,
        options=Options(chance.choice(POLICIES), 0.5, 0.001, 20, learning=LearningRules(judge=judge_of(chance))),
        surroundings=Surroundings(store, embedder, np.random.default_rng(chance.randrange(2**32)), time.time),
    )
    store.on_reserve = lambda: None
    if chance.random() < 0.3:

        def reload() -> None:
            decider.catalogue = second.catalogue

        store.on_reserve = reload
    gateway = Gateway(decider=decider, ledger=store, log=store, audit=store, metrics=Metrics(), clock=time.time)
    gateway.observer.judging.find = payer
    return World(gateway, embedder, (first, second))


def judge_of(chance: random.Random) -> JudgeRules | None:
    """In every tenth world each answer is judged, by the first of random engines that may."""
    if chance.random() > 0.1:
        return None
    models = tuple(chance.sample([f"b{i}-0" for i in range(4)], 3))
    return JudgeRules(models, "sk-payer", 1.0, pairwise=chance.random() < 0.5)


async def payer(secret: str) -> Principal | None:
    return Principal("k_payer", "payer")


def asked(chance: random.Random, text: str, *, by_request: bool) -> Call:
    more: dict[str, object] = {"stream": chance.random() < 0.3}
    if by_request:
        more["routing"] = {"local_only": True}
    if chance.random() < 0.2:
        more["response_format"] = {"type": "json_object"}
    return House.call(text, **more)


async def served(world: World, principal: Principal, call: Call, chance: random.Random) -> bool:
    """Whether the request was answered, or explained."""
    try:
        if chance.random() < 0.2:
            decision = await world.gateway.explain(principal, call)
            await world.gateway.decider.nearest(decision, principal.tenant)
            return True
        answer = await world.gateway.answer(principal, call)
        body = b"".join([chunk async for chunk in answer])
        await answer.close()
        await world.gateway.observer.observe(answer.attempt, body, streamed=call.stream)
        while world.gateway.observer.judging.waiting:
            await asyncio.sleep(0)
    except PointsmanError:
        return False
    return True


async def test_nothing_local_leaves_in_ten_thousand_worlds_of_lies_failures_and_reloads() -> None:
    store = Forgetful()
    arms = registry_of(random.Random(0), ["b0"]).catalogue.arms()
    views = Views(FaissIndex(256), {name: named.build(name, arms, {}) for name in POLICIES})
    learning = Learning(store, views, Workshop(lambda: arms), arms=lambda: arms, folder=None)
    seen: Counter[str] = Counter()
    for seed in range(WORLDS):
        chance = random.Random(seed)
        world, text = world_of(chance, learning, store), f"secret number {seed} of our own"
        by_key, by_request = chance.choice(((True, False), (False, True), (True, True), (False, False)))
        principal = Principal("k_1", "acme", local_only=by_key)
        answered = await served(world, principal, asked(chance, text, by_request=by_request), chance)
        stays = by_key or by_request
        seen[f"{'local' if stays else 'free'} {'answered' if answered else 'refused'}"] += 1
        if stays:
            assert text not in world.left, f"world {seed}"
        seen["left freely"] += not stays and text in world.left
    assert min(seen[kind] for kind in ("local answered", "local refused", "free answered", "left freely")) > 500
