"""Answers that clients go on from, over every store."""

from __future__ import annotations

import pytest

from router.stores.open import Stores
from tests.stores.conftest import Clock

pytestmark = pytest.mark.anyio


async def test_what_is_kept_is_found_by_its_tenant_alone(stores: Stores) -> None:
    kept = stores.conversations
    await kept.keep("acme", "resp_1", b"one")
    await kept.keep("acme", "resp_1", b"two")
    assert await kept.find("acme", "resp_1") == b"two"
    for tenant, name in (("other", "resp_1"), ("acme", "resp_2"), ("acm", "e:resp_1"), ("acme:resp_1", "")):
        assert await kept.find(tenant, name) is None
        assert not await kept.forget(tenant, name)
    assert await kept.forget("acme", "resp_1")
    assert await kept.find("acme", "resp_1") is None


async def test_the_oldest_of_a_tenant_go_and_nobody_elses(stores: Stores, clock: Clock) -> None:
    kept = stores.conversations
    await kept.keep("quiet", "resp", b"mine")
    for number in range(1_005):
        clock.now_ms += 1
        await kept.keep("loud", f"resp_{number}", b"x")
    assert [await kept.find("loud", f"resp_{number}") for number in (0, 4, 5, 1_004)] == [None, None, b"x", b"x"]
    assert await kept.find("quiet", "resp") == b"mine"
