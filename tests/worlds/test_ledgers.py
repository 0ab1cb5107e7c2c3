"""Histories of several gateways on a real Redis and a real SQLite file: some order of the steps explains each."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.stores.redis import ledger as redis_ledger
from router.stores.sqlite import ledger as sqlite_ledger
from tests.stores.conftest import RedisProcess
from tests.worlds.history import World

pytestmark = pytest.mark.anyio

SEEDS = range(16)


@pytest.fixture(autouse=True)
def nobody_tends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_ledger, "TICK_S", 3600)
    monkeypatch.setattr(sqlite_ledger, "TICK_S", 3600)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_history_on_redis_is_explained(redis_process: RedisProcess, seed: int) -> None:
    await World(f"{redis_process.url}?prefix={{w{seed}}}", seed).run()


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_history_on_sqlite_is_explained(tmp_path: Path, seed: int) -> None:
    await World(f"sqlite:///{tmp_path / 'pointsman.db'}", seed, in_groups=True).run()
