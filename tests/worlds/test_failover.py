"""Histories in which a replica that is behind is promoted: the promoted Redis knows all that the model knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.stores.redis import ledger as redis_ledger
from router.stores.redis import settling
from tests.stores.pair import Pair, back
from tests.worlds.history import World
from tests.worlds.model import Tend, explained

pytestmark = pytest.mark.anyio

GRACE_S = 2.1  # in which nobody may reserve


@pytest.fixture
async def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    monkeypatch.setattr(redis_ledger, "TICK_S", 3600)
    monkeypatch.setattr(settling, "DISK_S", 0.0)
    found = Pair(tmp_path)
    await found.up()
    yield found
    await found.down()


class FailoverWorld(World):
    """The replica falls behind after a third of the history, and is promoted after two.

    No lease ends meanwhile: what was found out about ends is not repeated, but found out again. Ids are not held again
    after they were charged; a gateway does so only after a release.
    """

    pair: Pair
    at = 0

    async def between(self) -> None:
        """After each batch."""
        self.at += 1
        if self.at == self.batches // 3:
            while any(held.expires_ms < self.clock() + 5_000 for state in self.states for held in state.holds.values()):
                self._wait(6.0)
                await self._tend()
            await self.pair.in_step()
            self.pair.link.flows.clear()
            self.pauses_s = (0.0, 0.1, 0.2)
        if self.at == 2 * self.batches // 3:
            await self.pair.promote()
            await self._tend()
            self._wait(GRACE_S)
            self.pauses_s = (0.0, 0.5, 7.0, 62.0)

    async def _tend(self) -> None:
        await asyncio.gather(*(back(stores) for stores in self.stores))
        self._explain_tending()

    def _explain_tending(self) -> None:
        self.states = explained(self.states, [(Tend(i), ("ok",)) for i in range(self.gateways)])


@pytest.mark.parametrize("seed", range(200, 206))
async def test_a_history_with_a_promotion_is_explained(pair: Pair, seed: int) -> None:
    world = FailoverWorld(pair.url, seed, leases_ms=(20_000,), reuses=False)
    world.pair = pair
    await world.run()
