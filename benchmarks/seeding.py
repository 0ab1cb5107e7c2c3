"""A past for the gateway under load: judged queries in its snapshot, and keys with budgets in its store."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from backends.embedders.hashing import HashingEmbedder
from backends.embedders.unit import unit_rows
from benchmarks.rig import prompts
from policies.types import Arm, LoggedContext
from router.catalogue.factories import build_policies
from router.gateway.types import arm_of
from router.learning import snapshot
from router.learning.index import FaissIndex
from router.learning.table import OutcomeTable
from router.learning.views import Views
from router.settings import Settings, load
from router.settings.paths import snapshot_path, store_url
from router.stores.keys import Registry
from router.stores.open import open_stores
from router.terms import Terms

_BATCH = 10_000


def seed_snapshot(settings: Mapping[str, Any], *, vectors: int, seed: int = 3) -> None:
    """Write a snapshot with `vectors` judged queries: hashed prompts, beyond 20,000 the same with noise."""
    loaded = _loaded(settings)
    arms = [arm_of(model) for model in loaded.candidates()]
    rng = np.random.default_rng(seed)
    index = FaissIndex(
        256,
        graph_from=loaded.index.graph_from,
        ef_search=loaded.index.ef_search,
        build_threads=os.cpu_count() or 1,
    )
    views = Views(index, build_policies(loaded, arms))
    for start in range(0, vectors, _BATCH):
        rows = _embeddings(start, min(_BATCH, vectors - start), rng)
        index.add(rows, np.arange(start, start + len(rows)))
        _remember(views.table, rows, arms, rng)
    index.settle()
    views.learned = vectors
    snapshot.save(views, snapshot.Position(learned=vectors), snapshot_path(loaded))


def _embeddings(start: int, count: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(count, 256) unit rows."""
    rows = _hashed(count, 1000 + start % 20_000)
    return rows if start < 20_000 else unit_rows(rows + rng.normal(0, 0.02, rows.shape).astype(np.float32))


@lru_cache(2)
def _hashed(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    texts = [str(body["messages"]) for body in prompts(count, seed=seed)]
    return unit_rows(HashingEmbedder(256).embed_now(texts))


def _remember(table: OutcomeTable, rows: Any, arms: list[Arm], rng: np.random.Generator) -> None:
    for row in rows:
        number = table.append(LoggedContext("", "bench", 0.0, row, (), 60, 0, 0, 0.0))
        arm = arms[int(rng.integers(len(arms)))]
        table.observe(number, arm, score=float(rng.random()), cost=float(rng.random() * 1e-4))


async def seed_keys(settings: Mapping[str, Any], tenants: int) -> list[str]:
    """Make `tenants` tenants with a key and a budget each; returns the keys."""
    made: list[str] = []

    async def make(keys: Registry, first: int) -> None:
        for number in range(first, tenants, 64):
            _, secret = await keys.create(f"t{number}", terms=Terms.of(budgets=["100 USD per 1d"]))
            made.append(secret)

    async with open_stores(store_url(_loaded(settings)), clock=lambda: int(time.time() * 1000)) as stores:
        await asyncio.gather(*(make(stores.keys, first) for first in range(64)))
    random.Random(5).shuffle(made)
    return made


def _loaded(settings: Mapping[str, Any]) -> Settings:
    state = Path(settings["state_dir"])
    state.mkdir(parents=True, exist_ok=True)
    path = state / "seed.yaml"
    path.write_text(yaml.safe_dump(dict(settings)))
    return load(path)
