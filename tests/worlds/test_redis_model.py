"""The Redis of the worlds answers as a real one does: one history, the same answers, and the model explains them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from benchmarks.worlds.redis_link import ModelCarrier, RedisNetwork, connector
from benchmarks.worlds.redis_model import ModelRedis
from router.stores.redis import connection
from router.stores.redis import ledger as redis_ledger
from tests.stores.conftest import RedisProcess
from tests.worlds.history import World
from tests.worlds.model import Answer, Step

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def nobody_tends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_ledger, "TICK_S", 3600)


class NotedWorld(World):
    """Keeps what was asked one by one, and answered."""

    async def _batch(self, steps: Sequence[Step]) -> None:
        for step in steps:
            await super()._batch([step])

    async def _ask(self, step: Step) -> Answer:
        answer = await super()._ask(step)
        self.noted.append((step, answer))
        return answer

    async def run(self) -> None:
        self.noted: list[tuple[Step, Answer]] = []
        await super().run()


def _in_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    network = RedisNetwork(ModelRedis(lambda: world.clock() * 1000), asyncio.get_running_loop())
    chance = random.Random(world.seed)
    monkeypatch.setattr(connection, "connect", connector(network, lambda: ModelCarrier(network, "all", chance)))


@pytest.mark.parametrize("seed", range(300, 312))
async def test_a_history_on_the_model_of_redis_is_explained(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("redis://model", seed)
    _in_process(world, monkeypatch)
    await world.run()


@pytest.mark.parametrize("seed", range(400, 406))
async def test_a_real_redis_and_its_model_answer_alike(
    redis_process: RedisProcess, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = NotedWorld(f"{redis_process.url}?prefix={{alike{seed}}}", seed, gateways=1)
    await real.run()
    model = NotedWorld("redis://model", seed, gateways=1)
    _in_process(model, monkeypatch)
    await model.run()
    assert model.noted == real.noted
