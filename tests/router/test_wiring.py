"""What is opened is closed."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from backends.embedders.cache import CachedEmbedder
from benchmarks.settings import full_settings
from router.catalogue.factories import build_embedder
from router.errors import StoreUnavailable
from router.settings import load
from router.stores.open import open_stores
from router.wiring import Runtime, _every, _running

pytestmark = pytest.mark.anyio


async def test_a_loop_that_swallows_one_cancellation_is_stopped_all_the_same() -> None:
    asked = 0

    async def deaf() -> None:
        nonlocal asked
        for _ in range(2):
            asked += 1
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    async with asyncio.timeout(10):
        async with _running(deaf):
            await asyncio.sleep(0)
    assert asked == 2


@pytest.mark.parametrize("fitted", [False, True])
async def test_the_embedder_stands_behind_its_cache_from_the_first_text_on(tmp_path: Path, fitted: bool) -> None:
    path = tmp_path / "pointsman.yaml"
    path.write_text(
        yaml.safe_dump(full_settings("http://127.0.0.1:9", tmp_path, 0) | {"log": {"keep_features": fitted}})
    )
    async with open_stores(f"sqlite:///{tmp_path / 'store.db'}", clock=lambda: 0) as stores:
        embedder, spaces = await build_embedder(load(path), stores.archive)
        assert (spaces is not None) == fitted
        first, again = await embedder.embed(["a text"]), await embedder.embed(["a text"])
    assert isinstance(embedder, CachedEmbedder)
    assert len(embedder) == 1
    assert (first == again).all()


async def test_whoever_asks_whether_it_is_ready_learns_no_address(caplog: pytest.LogCaptureFixture) -> None:
    async def lost(*_: object) -> None:
        raise StoreUnavailable("Redis is away: Error 111 connecting to 10.1.2.3:6379")

    runtime = cast(Any, object.__new__(Runtime))
    runtime.fleet = SimpleNamespace(backends={"engine.internal": None})
    runtime.gateway = SimpleNamespace(decider=SimpleNamespace(down={"engine.internal"}))
    runtime.stores, runtime.unready = SimpleNamespace(ledger=SimpleNamespace(check=lost)), ""
    for _ in range(3):
        assert await runtime.missing() == {"store": "unavailable", "backends": "none answers"}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "10.1.2.3:6379" in said[0]
    assert "engine.internal" in said[0]


async def test_a_failure_that_stays_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A full disk is not filled by the log about it."""
    away, other = StoreUnavailable("the disk is full"), ValueError("a defect")
    ends = asyncio.Event()
    found = iter([away, away, away, other, other, None, away, ends])

    async def work() -> None:
        each = next(found, None)
        if isinstance(each, Exception):
            raise each
        if each is ends:
            ends.set()

    async with asyncio.timeout(10), _running(lambda: _every(0.001, work)):
        await ends.wait()
    assert [bool(record.exc_info) for record in caplog.records] == [False, True, False]
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [str(away), str(other), str(away)]
