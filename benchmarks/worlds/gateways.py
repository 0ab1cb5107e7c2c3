"""A gateway of a world: the real path of a request from ASGI to the store, on the virtual loop."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from backends.embedders.hashing import HashingEmbedder
from backends.pool import Replicas, replica_of
from benchmarks.worlds.clients import ClientConnection
from benchmarks.worlds.learning import REFIT_EVERY, WorldWorkshop
from benchmarks.worlds.loop import Process
from policies.types import Arm
from router.gateway.crowd import Crowd
from router.gateway.deciding import Decider
from router.gateway.serving import Gateway
from router.gateway.types import Catalogue, Metrics, Options, Surroundings
from router.http.auth import Authentication
from router.http.conversations import ResponsesKept
from router.http.inference import Inference
from router.http.stopping import Stopping
from router.learning.follower import Learning
from router.learning.index import FaissIndex
from router.learning.views import Views
from router.stores.open import Stores, open_stores
from router.types import Model, Principal

if TYPE_CHECKING:
    from benchmarks.worlds.world import SeededWorld

DIM = 16
HEALTH_S = 2.0
SNAPSHOT_S = 8.0


class _Keys:
    """Every key `TENANT/NONCE` is good."""

    def __init__(self, world: SeededWorld) -> None:
        self._world = world

    async def principal(self, secret: str | None) -> Principal:
        """See Authentication.principal."""
        tenant, _, nonce = (secret or "").partition("/")
        return self._world.principal(tenant, nonce)


@dataclass(slots=True)
class WorldGateway:
    """A gateway that is open."""

    process: Process
    stores: Stores
    gateway: Gateway
    inference: Inference
    learning: Learning
    opened: AsyncExitStack  # kept: who dies closes nothing

    @property
    def learning_arms(self) -> tuple[Arm, ...]:
        """Of the settings as they are."""
        return self.gateway.decider.catalogue.arms()

    def take(self, models: tuple[Model, ...], policy: str) -> None:
        """Settings were reloaded."""
        decider = self.gateway.decider
        decider.catalogue = Catalogue(models, decider.catalogue.backends)
        decider.options = replace(decider.options, policy=policy)

    async def serve(self, connection: ClientConnection) -> None:
        """One request, as a server would."""
        await self.inference(connection.scope, connection.receive, connection.send)  # type: ignore[arg-type]


async def open_gateway(world: SeededWorld, process: Process) -> WorldGateway:
    """Runs within its process."""
    from benchmarks.worlds.world import LONGEST_S, TTL_S  # noqa: PLC0415  (each knows the other)

    stack = AsyncExitStack()
    boot = world.store.boot_ms
    stores = await stack.enter_async_context(open_stores(world.store.url, clock=world.now_ms, boot=boot))
    clock = world.loop.wall_s
    backends = {
        name: Replicas([replica_of(engine, name=name, clock=world.loop.time)], name=name, clock=world.loop.time)
        for name, engine in world.engines.items()
    }
    catalogue = Catalogue(world.offered, backends)
    learning = await _learning(world, process, stores, catalogue)
    options = Options(world.policy, 0.5, 0.001, 10, hold_ttl_ms=int(TTL_S * 1000), longest_ms=int(LONGEST_S * 1000))
    decider = Decider(
        catalogue=catalogue,
        learning=learning,
        options=options,
        surroundings=Surroundings(
            stores.ledger, HashingEmbedder(DIM), np.random.default_rng([world.seed, len(world.processes)]), clock
        ),
    )
    gateway = Gateway(
        decider=decider, ledger=stores.ledger, log=stores.log, audit=stores.audit, metrics=Metrics(), clock=clock
    )
    keys, nobody_waits = cast(Authentication, _Keys(world)), Crowd(lag_s=1.0, waiting=1, wait_s=1.0)
    inference = Inference(gateway, keys, cast(ResponsesKept, None), Stopping(0.0), nobody_waits, longest_s=LONGEST_S)
    world.loop.create_task(_health(decider))
    world.loop.create_task(learning.run())
    if world.keeps_views:
        world.loop.create_task(_keep_views(learning))
    return WorldGateway(process, stores, gateway, inference, learning, stack)


async def _learning(world: SeededWorld, process: Process, stores: Stores, catalogue: Catalogue) -> Learning:
    """As a start has it."""
    workshop = WorldWorkshop(catalogue.arms())
    views = Views(FaissIndex(DIM), {name: workshop.build(name) for name in world.policies})
    folder = world.folder / f"views-{process.host}" if world.keeps_views else None
    learning = Learning(stores.log, views, workshop, arms=catalogue.arms, folder=folder, refit_every=REFIT_EVERY)
    await learning.compare()
    learning.load()
    await learning.catch_up()
    return learning


async def _keep_views(learning: Learning) -> None:
    while True:
        await asyncio.sleep(SNAPSHOT_S)
        await learning.snapshot()


async def _health(decider: Decider) -> None:
    """What was down may be up again."""
    while True:
        await asyncio.sleep(HEALTH_S)
        decider.down.clear()
