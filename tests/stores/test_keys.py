"""Keys, teams and tenants, in both stores."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from router.errors import Conflict, InvalidRequest, NotFound, Unauthenticated
from router.stores.keys import CachedKeys, Key, Team, Tenant
from router.stores.open import Stores
from router.terms import Terms
from router.types import Principal
from tests.stores.conftest import Clock, replicas
from tests.stores.making import buy, spent_and_held, usd

pytestmark = pytest.mark.anyio


async def test_a_new_key_is_found_by_its_secret_and_by_nothing_else(stores: Stores, clock: Clock) -> None:
    key, secret = await stores.keys.create("acme")
    assert secret.startswith(key.prefix)
    assert secret.startswith("sk-")
    found = await stores.keys.find(secret, clock())
    assert found is not None
    assert (found.key_id, found.tenant) == (key.id, "acme")
    assert await stores.keys.find(secret[:-1] + "?", clock()) is None


async def test_the_secret_is_kept_nowhere(stores: Stores) -> None:
    key, secret = await stores.keys.create("acme")
    kept = [repr(thing) async for thing in stores.keys.all(Key)]
    assert kept
    assert not any(secret in text for text in kept)
    assert len(key.digest) == 32


async def test_a_rotated_key_takes_the_old_secret_until_its_grace_ends(stores: Stores, clock: Clock) -> None:
    key, old = await stores.keys.create("acme")
    _, new = await stores.keys.rotate(key.id, grace_s=10)
    assert await stores.keys.find(old, clock()) is not None
    clock.pass_s(10)
    assert await stores.keys.find(old, clock()) is None
    assert await stores.keys.find(new, clock()) is not None


async def test_a_disabled_or_expired_key_is_nobody(stores: Stores, clock: Clock) -> None:
    key, secret = await stores.keys.create("acme")
    await stores.keys.disable(key.id)
    assert await stores.keys.find(secret, clock()) is None
    await stores.keys.disable(key.id, disabled=False)
    assert await stores.keys.find(secret, clock()) is not None
    _, brief = await stores.keys.create("acme", expires_ms=clock() + 1000)
    clock.pass_s(1)
    assert await stores.keys.find(brief, clock()) is None


async def test_a_disabled_tenant_disables_its_keys(stores: Stores, clock: Clock) -> None:
    _, secret = await stores.keys.create("acme")
    await stores.keys.put(Tenant("acme", Terms(disabled=True)))
    assert await stores.keys.find(secret, clock()) is None


async def test_budgets_of_key_team_parent_and_tenant_all_hold(stores: Stores, clock: Clock) -> None:
    budgets = [usd(5)]
    await stores.keys.put(Tenant("acme", Terms.of(budgets=budgets, local_only=True, preference=0.2)))
    await stores.keys.put(Team("lab", "acme", terms=Terms.of(budgets=budgets)))
    await stores.keys.put(Team("vision", "acme", parent="lab", terms=Terms.of(budgets=budgets, preference=0.9)))
    limits = {"model": "large", "requests_per_minute": 3}
    key, secret = await stores.keys.create("acme", team="vision", terms=Terms.of(limits=limits))
    found = await stores.keys.find(secret, clock())
    assert found is not None
    assert [b.scope for b in found.budgets] == ["team:vision", "team:lab", "tenant:acme"]
    assert [limit.scope for limit in found.limits] == [f"key:{key.id}|model:large"]
    assert (found.local_only, found.preference) == (True, 0.9)


async def test_models_must_be_allowed_at_every_level(stores: Stores, clock: Clock) -> None:
    await stores.keys.put(Tenant("acme", Terms(allowed_models=frozenset({"small", "large"}))))
    _, secret = await stores.keys.create("acme", terms=Terms(allowed_models=frozenset({"small", "huge"})))
    found = await stores.keys.find(secret, clock())
    assert found is not None
    assert found.allowed_models == frozenset({"small"})


async def test_a_team_cannot_be_its_own_ancestor(stores: Stores) -> None:
    await stores.keys.put(Tenant("acme"))
    await stores.keys.put(Team("a", "acme"))
    await stores.keys.put(Team("b", "acme", parent="a"))
    with pytest.raises(Conflict):
        await stores.keys.put(Team("a", "acme", parent="b"))


async def test_what_is_not_there_is_not_found(stores: Stores) -> None:
    with pytest.raises(NotFound):
        await stores.keys.rotate("k_none")
    with pytest.raises(NotFound):
        await stores.keys.create("acme", team="nobody")


@pytest.mark.parametrize(
    "terms",
    [
        {"budgets": ["-1 USD per day"]},
        {"budgets": [usd(2**53 + 1)]},
        {"budgets": ["1 USD per 29s"]},
        {"budgets": ["1 USD per 367d"]},
        {"budgets": [{"limit": float("nan"), "period": "day"}]},
        {"budgets": [{"limit": "1e999999", "period": "day"}]},
        {"limits": {"requests_per_minute": -1}},
        {"limits": {"tokens_per_minute": 2**64}},
        {"preference": 1.5},
        {"preference": float("nan")},
    ],
)
def test_terms_that_cannot_be_enforced_cannot_be_made(terms: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Terms.of(**terms)


async def test_a_policy_that_does_not_exist_is_refused_when_terms_are_kept(stores: Stores) -> None:
    with pytest.raises(InvalidRequest, match=r"policy is 'oracle', expected one of .*neighbours"):
        await stores.keys.put(Tenant("acme", Terms(policy="oracle")))


async def test_terms_come_back_from_the_store_as_they_went_in(stores: Stores) -> None:
    terms = Terms.of(
        budgets=["5 USD per day", {"limit": "0.000000001", "period": "rolling month", "hard": False, "model": "large"}],
        limits=[{"requests_per_minute": 0, "model": "large"}, {"concurrent": 3}],
        allowed_models=["b", "a"],
        metadata={"a": "b"},
        policy="neighbours",
    )
    await stores.keys.put(Tenant("acme", terms))
    assert (await stores.keys.get(Tenant, "acme")).terms == terms


async def test_names_that_would_blur_scopes_are_rejected(stores: Stores) -> None:
    for name in ("", "a|b", "a#b", "x" * 129, "a\nb"):
        with pytest.raises(InvalidRequest):
            await stores.keys.put(Tenant(name))


async def test_everything_is_listed_page_by_page_in_order(stores: Stores) -> None:
    for i in range(30):
        await stores.keys.put(Tenant(f"t{i:02d}"))
    assert [t.name async for t in stores.keys.all(Tenant)] == [f"t{i:02d}" for i in range(30)]
    assert [t.name async for t in stores.keys.all(Tenant, after="t27")] == ["t28", "t29"]


class Counted:
    """Keys that count how often they are asked."""

    def __init__(self, stores: Stores) -> None:
        self.asked, self._keys = 0, stores.keys

    async def find(self, secret: str, now_ms: int) -> Principal | None:
        self.asked += 1
        return await self._keys.find(secret, now_ms)


async def test_cached_keys_ask_the_store_once_in_a_while(stores: Stores, clock: Clock) -> None:
    key, secret = await stores.keys.create("acme")
    counted = Counted(stores)
    cached = CachedKeys(counted, ttl_ms=1000)
    first = await cached.find(secret, clock())
    assert await cached.find(secret, clock()) is first
    assert counted.asked == 1
    clock.pass_s(1)
    assert await cached.find(secret, clock()) is first
    await stores.keys.disable(key.id)
    cached.forget()
    assert await cached.find(secret, clock()) is None


async def test_a_known_key_is_asked_for_once_in_a_busy_hour_of_many_keys(stores: Stores, clock: Clock) -> None:
    secrets = [(await stores.keys.create(f"t{i}"))[1] for i in range(50)]
    counted = Counted(stores)
    cached = CachedKeys(counted)
    for _ in range(3):
        for secret in secrets:
            assert await cached.find(secret, clock()) is not None
            clock.pass_s(1)
    assert counted.asked == len(secrets)


async def test_a_secret_that_was_unknown_works_seconds_after_somebody_made_it(stores: Stores, clock: Clock) -> None:
    cached, secret = CachedKeys(stores.keys), "sk-made-elsewhere-0000000000000000"
    assert await cached.find(secret, clock()) is None
    await stores.keys.create("acme", secret=secret)
    clock.pass_s(2)
    assert await cached.find(secret, clock()) is not None


async def test_unknown_secrets_do_not_push_known_ones_out(stores: Stores, clock: Clock) -> None:
    _, secret = await stores.keys.create("acme")
    counted = Counted(stores)
    cached = CachedKeys(counted, ttl_ms=1000, size=4)
    await cached.find(secret, clock())
    for i in range(20):
        await cached.find(f"sk-wrong-{i}", clock())
    asked = counted.asked
    await cached.find(secret, clock())
    assert counted.asked == asked


async def test_a_key_changed_elsewhere_reserves_nothing_from_then_on(url: str, clock: Clock) -> None:
    """The gateway still remembers the principal; the same step that takes the hold learns that keys have changed."""
    async with replicas(url, clock) as (here, there):
        for change in ("disable", "rotate", "tenant"):
            key, secret = await here.keys.create(change, terms=Terms.of(budgets=[usd(100)]))
            who = await there.keys.find(secret, clock())
            assert who is not None
            await buy(there, who, 10, now_ms=clock())
            if change == "disable":
                await here.keys.disable(key.id)
            elif change == "rotate":
                await here.keys.rotate(key.id)
            else:
                await here.keys.put(Tenant(change, Terms(disabled=True)))
            for _ in range(2):
                with pytest.raises(Unauthenticated):
                    await buy(there, who, 10, now_ms=clock())
            assert await spent_and_held(there, who.budgets[0], clock()) == (10, 0)


async def test_a_change_of_one_key_leaves_the_others_alone(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (here, there):
        key, _ = await here.keys.create("acme")
        _, secret = await here.keys.create("acme")
        who = await there.keys.find(secret, clock())
        assert who is not None
        await here.keys.disable(key.id)
        await buy(there, who, 10, now_ms=clock())


async def test_the_old_secret_reserves_until_its_grace_ends(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (here, there):
        key, secret = await here.keys.create("acme")
        cached = CachedKeys(there.keys, ttl_ms=60_000)
        await here.keys.rotate(key.id, grace_s=10)
        who = await cached.find(secret, clock())
        assert who is not None
        await buy(there, who, 10, now_ms=clock())
        clock.pass_s(10)
        assert await cached.find(secret, clock()) is None


async def test_a_remembered_key_expires_to_the_millisecond(stores: Stores, clock: Clock) -> None:
    _, secret = await stores.keys.create("acme", expires_ms=clock() + 500)
    cached = CachedKeys(stores.keys, ttl_ms=2000)
    clock.now_ms += 499
    assert await cached.find(secret, clock()) is not None
    clock.now_ms += 1
    assert await cached.find(secret, clock()) is None


async def test_what_is_remembered_is_asked_again_when_another_gateway_changes_a_key(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (here, there):
        key, secret = await here.keys.create("acme")
        cached = CachedKeys(there.keys, ttl_ms=60_000)
        there.keys.watchers.append(cached.forget)
        await there.ledger.tend()
        assert await cached.find(secret, clock()) is not None
        await here.keys.disable(key.id)
        await there.ledger.tend()
        assert await cached.find(secret, clock()) is None


async def test_a_new_key_sends_nobody_to_look_up_theirs(url: str, clock: Clock) -> None:
    """Platforms make keys all day; what is remembered of others stays good."""
    async with replicas(url, clock) as (here, there):
        await there.ledger.tend()
        asked_again: list[None] = []
        there.keys.watchers.append(lambda: asked_again.append(None))
        for i in range(3):
            await here.keys.create(f"tenant-{i}")
        await here.keys.put(Tenant("tenant-0"))
        await there.ledger.tend()
        assert not asked_again
        await here.keys.put(Tenant("tenant-0", Terms(preference=0.5)))
        await there.ledger.tend()
        assert asked_again
