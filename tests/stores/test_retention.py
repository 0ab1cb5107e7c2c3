"""What happened is kept for a while, and money for ever."""

from __future__ import annotations

from collections import Counter

import pytest

from router.errors import Conflict, NotFound, SettingsError
from router.stores.codec import MOST_JUDGEMENTS
from router.stores.open import Stores, open_stores
from router.types import Feedback
from tests.stores.conftest import Clock
from tests.stores.making import budget, buy, principal, spent_and_held
from tests.stores.test_log import decision, entries

pytestmark = pytest.mark.anyio

SLACK = 300  # entries that may be there beyond what was asked for


def keeping(url: str, asked: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{asked}"


async def test_the_outcome_log_keeps_its_newest_entries(url: str, clock: Clock) -> None:
    async with open_stores(keeping(url, "log_entries=50"), clock=clock) as stores:
        for i in range(1000):
            await stores.log.remember(decision(f"d{i:04d}"))
            if i % 100 == 0:
                await entries(stores)  # which writes what waits
        await entries(stores)
        names = [entry.decision_id for entry in await entries(stores)]  # type: ignore[attr-defined]
    assert names == [f"d{i:04d}" for i in range(1000 - len(names), 1000)]
    assert 50 <= len(names) <= 50 + SLACK


async def test_a_log_that_was_longer_shrinks(url: str, clock: Clock) -> None:
    async with open_stores(url, clock=clock) as stores:
        for i in range(600):
            await stores.log.remember(decision(f"d{i:04d}"))
    async with open_stores(keeping(url, "log_entries=50"), clock=clock) as stores:
        for i in range(10):
            await stores.log.remember(decision(f"e{i:04d}"))
        await entries(stores)
        assert 50 <= len(await entries(stores)) <= 50 + SLACK


async def test_the_audit_log_keeps_its_newest_entries(url: str, clock: Clock) -> None:
    async with open_stores(keeping(url, "audit_entries=20"), clock=clock) as stores:
        for i in range(500):
            await stores.audit.note("key.created", f"k{i}", {})
        found = await stores.audit.read(limit=1000)
    assert found[-1].subject == "k499"
    assert 20 <= len(found) <= 20 + SLACK


async def test_what_the_ledger_notes_is_bounded_too(url: str, clock: Clock) -> None:
    b = budget(1, hard=False)
    async with open_stores(keeping(url, "audit_entries=20"), clock=clock) as stores:
        for _ in range(300):
            await buy(stores, principal(b), 1, now_ms=clock())
            clock.pass_s(7200)
        found = await stores.audit.read(limit=1000)
    assert 20 <= len(found) <= 20 + SLACK


async def test_spend_is_kept_although_the_log_is_not(url: str, clock: Clock) -> None:
    b = budget(10_000, period_s=86_400)
    async with open_stores(keeping(url, "log_entries=1&audit_entries=1"), clock=clock) as stores:
        for _ in range(300):
            await buy(stores, principal(b), 1, now_ms=clock())
        assert await spent_and_held(stores, b, clock()) == (300, 0)
        lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
        assert sum(line.cost_nanousd for line in lines) == 300


async def test_a_judgement_of_what_is_not_kept_any_more_is_not_lost_silently(clock: Clock, tmp_path: object) -> None:
    async with open_stores(f"sqlite:///{tmp_path}/a.db?log_entries=1", clock=clock) as stores:
        for i in range(600):
            await stores.log.remember(decision(f"d{i:04d}"))
            if i % 100 == 0:
                await entries(stores)
        await entries(stores)
        with pytest.raises(NotFound):
            await stores.log.judge(Feedback("d0000", 1, 1.0, tenant="acme"))


async def test_a_retention_that_is_no_number_stops_the_start(url: str, clock: Clock) -> None:
    for wrong in ("log_entries=0", "audit_entries=many", "log_entries=-1"):
        with pytest.raises(SettingsError):
            async with open_stores(keeping(url, wrong), clock=clock):
                pass


async def remembered(stores: Stores, tenant: str, count: int) -> None:
    for i in range(count):
        await stores.log.remember(decision(f"{tenant}{i:04d}", tenant=tenant))
        if i % 100 == 99:
            await entries(stores)  # which writes what waits
    await entries(stores)


async def held_by(stores: Stores) -> Counter[str]:
    return Counter(entry.tenant for entry in await entries(stores))  # type: ignore[attr-defined]


async def test_a_tenant_that_floods_the_log_pushes_out_its_own_entries(url: str, clock: Clock) -> None:
    async with open_stores(keeping(url, "log_entries=500"), clock=clock) as stores:
        await remembered(stores, "quiet", 200)
        await remembered(stores, "small", 40)
        await remembered(stores, "flood", 3000)
        held = await held_by(stores)
        assert (held["quiet"], held["small"]) == (200, 40)
        assert 260 <= held["flood"] <= 260 + SLACK
        newest = [entry.decision_id for entry in await entries(stores)][-1]  # type: ignore[attr-defined]
        assert newest == "flood2999"
        assert await stores.log.judge(Feedback("quiet0000", 1, 1.0, tenant="quiet"))


async def test_tenants_that_all_flood_the_log_share_it(url: str, clock: Clock) -> None:
    async with open_stores(keeping(url, "log_entries=300"), clock=clock) as stores:
        for _ in range(3):
            for tenant in ("a", "b", "c"):
                await remembered(stores, tenant, 400)
        held = await held_by(stores)
        assert min(held.values()) >= 100 - 32
        assert sum(held.values()) <= 300 + SLACK


async def test_many_tenants_with_one_entry_each_are_bounded_too(url: str, clock: Clock) -> None:
    async with open_stores(keeping(url, "log_entries=20"), clock=clock) as stores:
        for i in range(700):
            await stores.log.remember(decision(f"d{i:04d}", tenant=f"t{i}"))
            if i % 100 == 99:
                await entries(stores)
        assert 20 <= len(await entries(stores)) <= 20 + SLACK


async def test_a_judgement_that_is_replaced_again_and_again_is_refused(url: str, clock: Clock) -> None:
    async with open_stores(url, clock=clock) as stores:
        await stores.log.remember(decision("a"))
        for i in range(MOST_JUDGEMENTS):
            assert await stores.log.judge(Feedback("a", i, i % 2, replace=True, tenant="acme"))
        with pytest.raises(Conflict, match=str(MOST_JUDGEMENTS)):
            await stores.log.judge(Feedback("a", 99, 0.5, replace=True, tenant="acme"))
        assert not await stores.log.judge(Feedback("a", 99, (MOST_JUDGEMENTS - 1) % 2, tenant="acme"))
        assert len(await entries(stores)) == 1 + MOST_JUDGEMENTS
