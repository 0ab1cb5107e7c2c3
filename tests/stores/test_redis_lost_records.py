"""A replica that had not heard of a change of keys is promoted: what a gateway was told stands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.stores.open import open_stores
from tests.stores.conftest import Clock
from tests.stores.pair import Pair, back

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    found = Pair(tmp_path)
    await found.up()
    yield found
    await found.down()


async def test_a_key_that_was_disabled_and_not_replicated_stays_disabled(pair: Pair, clock: Clock) -> None:
    """And one that was made works, and the last word of two gateways stands."""
    async with open_stores(pair.url, clock=clock) as one, open_stores(pair.url, clock=clock) as other:
        key, secret = await one.keys.create("t")
        turned, turned_secret = await one.keys.create("t")
        await pair.in_step()
        pair.link.flows.clear()
        await one.keys.disable(key.id)
        await one.keys.disable(turned.id)
        await other.keys.disable(turned.id, disabled=False)
        _, late_secret = await other.keys.create("t")
        await pair.promote()
        await back(one)
        await back(other)
        assert await other.keys.find(secret, clock()) is None
        assert await one.keys.find(turned_secret, clock()) is not None, "it was enabled again by the other gateway"
        assert await one.keys.find(late_secret, clock()) is not None
        repeated = {entry.subject for entry in await one.audit.read() if entry.kind == "record.repeated"}
        assert key.id in repeated


async def test_what_was_changed_after_a_promotion_is_not_undone_by_what_it_had_lost(pair: Pair, clock: Clock) -> None:
    async with open_stores(pair.url, clock=clock) as one:
        await one.records.put("tenant", "t", b"first")
        await pair.in_step()
        pair.link.flows.clear()
        await one.records.put("tenant", "t", b"lost")
        await pair.promote()
        async with open_stores(pair.url, clock=clock) as other:
            await other.records.put("tenant", "t", b"newest")
            await back(one)
            assert await one.records.get("tenant", "t") == b"newest"
