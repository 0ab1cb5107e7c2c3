"""Answers that may be given again, over every store."""

from __future__ import annotations

import pytest

from router.stores.open import Stores
from router.types import CacheRules
from tests.stores.conftest import Clock, replicas

pytestmark = pytest.mark.anyio
RULES = CacheRules(ttl_ms=60_000, entries=100, bytes=10_000)


async def test_what_is_kept_is_found_by_its_tenant_alone(stores: Stores) -> None:
    kept = stores.answers
    await kept.keep("acme", {"a": b"one"}, RULES)
    await kept.keep("acme", {"a": b"two"}, RULES)
    assert await kept.find("acme", "a") == b"two"
    for tenant, name in (("other", "a"), ("acme", "b"), ("acm", "e:a"), ("acme:a", ""), ("", "acme:a")):
        assert await kept.find(tenant, name) is None
        assert await kept.forget(tenant, name) == 0
    assert await kept.forget("acme", "a") == 1
    assert await kept.find("acme", "a") is None


async def test_an_answer_ends_with_its_time(stores: Stores, clock: Clock) -> None:
    kept = stores.answers
    await kept.keep("acme", {"old": b"x" * 9_000}, RULES)
    clock.pass_s(61)
    await kept.keep("acme", {"new": b"y" * 9_000}, RULES)
    if "Sqlite" in type(kept).__name__:  # Redis ends what it keeps by its own clock
        assert await kept.find("acme", "old") is None
    assert await kept.find("acme", "new") == b"y" * 9_000
    assert await kept.forget("acme") == 1


async def test_what_ends_first_makes_room_and_nobody_elses(stores: Stores, clock: Clock) -> None:
    kept = stores.answers
    await kept.keep("quiet", {"mine": b"z"}, RULES)
    for number in range(103):
        clock.now_ms += 1
        await kept.keep("loud", {f"n{number}": b"x"}, RULES)
    assert [await kept.find("loud", f"n{n}") for n in (0, 2, 3, 102)] == [None, None, b"x", b"x"]
    clock.now_ms += 1
    await kept.keep("loud", {"large": b"x" * 9_950}, RULES)
    assert await kept.find("loud", "large") is not None
    assert await kept.find("loud", "n52") is None
    assert await kept.find("loud", "n53") == b"x"
    assert await kept.forget("loud") == 51
    assert await kept.find("quiet", "mine") == b"z"


async def test_one_too_large_for_all_its_room_is_not_kept(stores: Stores) -> None:
    await stores.answers.keep("acme", {"a": b"x" * 10_001}, RULES)
    assert await stores.answers.find("acme", "a") is None
    await stores.answers.keep("acme", {"b": b"x"}, RULES)
    assert await stores.answers.forget("acme") == 1


async def test_gateways_share_them_and_a_purge_is_everybodys(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (one, other):
        await one.answers.keep("acme", {"a": b"one"}, RULES)
        assert await other.answers.find("acme", "a") == b"one"
        assert await other.answers.forget("acme") == 1
        assert await one.answers.find("acme", "a") is None


async def test_ten_thousand_looks_at_what_others_have_find_nothing(stores: Stores) -> None:
    tenants = [f"t{number}" for number in range(10)]
    for tenant in tenants:
        for number in range(10):
            await stores.answers.keep(tenant, {f"{tenant}-{number}": tenant.encode()}, RULES)
    found = [
        await stores.answers.find(tenant, f"{other}-{number}")
        for tenant in tenants
        for other in tenants
        for number in range(112)
        if other != tenant
    ]
    assert len(found) >= 10_000
    assert not any(found)
