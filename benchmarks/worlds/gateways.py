"""A gateway of a world: the real path of a request from ASGI to the store, on the virtual loop."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from backends.embedders.hashing import HashingEmbedder
from backends.pool import Replicas, replica_of
from benchmarks.worlds.clients import ClientConnection
from benchmarks.worlds.database import InlineDatabase
from benchmarks.worlds.loop import Process
from policies import registry
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
from router.types import Principal

if TYPE_CHECKING:
    from benchmarks.worlds.world import SeededWorld

DIM = 16
HEALTH_S = 2.0


class _Keys:
    """Every key `TENANT/NONCE` is good."""

    def __init__(self, world: SeededWorld) -> None:
        self._world = world

    async def principal(self, secret: str | None) -> Principal:
        """See Authentication.principal."""
        tenant, _, nonce = (secret or "").partition("/")
        return self._world.principal(tenant, nonce)


class _Workshop:
    """Nothing is learned here, so nothing is built or fitted."""

    def build(self, name: str) -> Any:
        """Raises: ValueError."""
        raise ValueError(f"there is no policy {name!r} in this world")

    def options_of(self, name: str) -> dict[str, object]:
        """None."""
        return {}

    async def refit(self, name: str, state: Any, history: Any) -> Any:
        """As it was."""
        return state


@dataclass(slots=True)
class WorldGateway:
    """A gateway that is open."""

    process: Process
    database: InlineDatabase
    stores: Stores
    gateway: Gateway
    inference: Inference
    opened: AsyncExitStack  # kept: who dies closes nothing

    async def serve(self, connection: ClientConnection) -> None:
        """One request, as a server would."""
        await self.inference(connection.scope, connection.receive, connection.send)  # type: ignore[arg-type]


async def open_gateway(world: SeededWorld, process: Process) -> WorldGateway:
    """Runs within its process."""
    from benchmarks.worlds.world import LONGEST_S, TTL_S  # noqa: PLC0415  (each knows the other)

    stack = AsyncExitStack()
    stores = await stack.enter_async_context(open_stores(f"sqlite:///{world.path}", clock=world.now_ms))
    database = world.databases[process.name]
    clock = world.loop.wall_s
    backends = {
        name: Replicas([replica_of(engine, name=name, clock=world.loop.time)], name=name, clock=world.loop.time)
        for name, engine in world.engines.items()
    }
    catalogue = Catalogue(world.models, backends)
    views = Views(FaissIndex(DIM), {"cheapest": registry.build("cheapest", catalogue.arms(), {})})
    learning = Learning(stores.log, views, _Workshop(), arms=catalogue.arms, folder=None)
    decider = Decider(
        catalogue=catalogue,
        learning=learning,
        options=Options(
            "cheapest", 0.5, 0.001, 0, hold_ttl_ms=int(TTL_S * 1000), longest_ms=int(LONGEST_S * 1000), remember=False
        ),
        surroundings=Surroundings(stores.ledger, HashingEmbedder(DIM), np.random.default_rng(world.seed), clock),
    )
    gateway = Gateway(
        decider=decider, ledger=stores.ledger, log=stores.log, audit=stores.audit, meter=Metrics(), clock=clock
    )
    inference = Inference(
        gateway, cast(Authentication, _Keys(world)), cast(ResponsesKept, None), Stopping(0.0), longest_s=LONGEST_S
    )
    world.loop.create_task(_health(decider))
    return WorldGateway(process, database, stores, gateway, inference, stack)


async def _health(decider: Decider) -> None:
    """What was down may be up again."""
    while True:
        await asyncio.sleep(HEALTH_S)
        decider.down.clear()
