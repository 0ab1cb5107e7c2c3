"""A gateway over real stores, a real index and scripted backends, in one process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from backends.embedders.hashing import HashingEmbedder
from backends.pool import Replicas, replica_of
from backends.scripted import Line, Scripted, always
from policies import registry as named
from policies.types import Arm, History, StoredPolicy
from router.gateway.answers import RelayedAnswer
from router.gateway.deciding import Decider
from router.gateway.serving import Gateway
from router.gateway.types import Call, Catalogue, Metrics, Options, Surroundings
from router.http.schemas import parse
from router.learning.follower import Learning
from router.learning.index import FaissIndex
from router.learning.refit_schedule import REFIT_FIRST
from router.learning.refit_worker import State, refit_aside
from router.learning.views import Views
from router.stores.open import Stores, open_stores
from router.types import Budget, Model, NanoUsd, Price, Principal

SMALL, LARGE = 100_000_000, 1_000_000_000  # nano-USD per million tokens


def now_ms() -> int:
    return int(time.time() * 1000)


def model(name: str, price: int, **more: object) -> Model:
    known: dict[str, object] = {
        "name": name,
        "backend": name,
        "upstream": name,
        "price": Price(NanoUsd(price), NanoUsd(price)),
        "context_tokens": 4096,
        "max_output_tokens": 4096,
        "local": True,
        "capabilities": frozenset({"chat", "completions", "logprobs"}),
    }
    return Model(**(known | more))  # type: ignore[arg-type]


@dataclass
class House:
    """Everything a test may want to look at."""

    gateway: Gateway
    stores: Stores
    learning: Learning
    scripts: dict[str, Scripted]
    principal: Principal = field(default_factory=lambda: Principal("k_1", "acme"))

    async def ask(
        self, text: str = "What is 2 + 2?", *, model: str = "auto", stream: bool = False, **more: object
    ) -> RelayedAnswer:
        """Open an answer."""
        return await self.gateway.answer(self.principal, self.call(text, model=model, stream=stream, **more))

    async def read(self, text: str = "What is 2 + 2?", **more: object) -> tuple[RelayedAnswer, bytes]:
        """Open an answer, read it to its end and close it."""
        answer = await self.ask(text, **more)  # type: ignore[arg-type]
        body = b"".join([chunk async for chunk in answer])
        await answer.close()
        return answer, body

    @staticmethod
    def call(text: str, *, model: str = "auto", **more: object) -> Call:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return parse("/v1/chat/completions", json.dumps(body).encode(), {})

    async def spent(self, budget: Budget) -> tuple[int, int]:
        """(spent, held) in nano-USD."""
        balance = (await self.stores.ledger.balances([budget], now_ms()))[0]
        return balance.spent, balance.held

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Give the loop turns until something is so; fails after ten seconds."""
        async with asyncio.timeout(10):
            while not is_so():
                await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Workshop:
    """Policies without options over the arms of now; see learning.follower.Workshop."""

    arms: Callable[[], Sequence[Arm]]

    def build(self, name: str) -> StoredPolicy:
        return named.build(name, self.arms(), {})

    def options_of(self, name: str) -> Mapping[str, object]:
        return {}

    async def refit(self, name: str, state: State, history: History) -> State:
        return await refit_aside(name, {}, state=state, history=history)


OpenHouse = Callable[..., Awaitable[House]]


@asynccontextmanager
async def open_house(
    folder: Path,
    *,
    lines: dict[str, Line] | None = None,
    policy: str = "cheapest",
    follows: bool = True,
    dim: int = 256,
    refit_every: int = REFIT_FIRST,
    **models: Model,
) -> AsyncIterator[House]:
    chosen = models or {"small": model("small", SMALL), "large": model("large", LARGE)}
    scripts = {
        name: Scripted(always((lines or {}).get(name, Line(text=f"hello from {name}"))), name=name) for name in chosen
    }
    backends = {name: Replicas([replica_of(script, name=name)], name=name) for name, script in scripts.items()}
    catalogue = Catalogue(tuple(chosen.values()), backends)
    async with open_stores(f"sqlite:///{folder}/pointsman.db", clock=now_ms) as stores:
        policies = {policy: named.build(policy, catalogue.arms(), {})}
        index = FaissIndex(dim)

        def offered() -> tuple[Arm, ...]:
            return decider.catalogue.arms()

        learning = Learning(
            stores.log,
            Views(index, policies),
            Workshop(offered),
            arms=offered,
            folder=folder / "views",
            refit_every=refit_every,
        )
        following = asyncio.ensure_future(learning.run() if follows else asyncio.sleep(0))
        decider = Decider(
            catalogue=catalogue,
            learning=learning,
            options=Options(policy, 0.5, 0.001, 20, keep_characters=200),
            surroundings=Surroundings(stores.ledger, HashingEmbedder(dim), np.random.default_rng(0), time.time),
        )
        gateway = Gateway(
            decider=decider,
            ledger=stores.ledger,
            log=stores.log,
            audit=stores.audit,
            metrics=Metrics(),
            clock=time.time,
        )
        try:
            yield House(gateway, stores, learning, scripts)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            for backend in backends.values():
                await backend.aclose()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
