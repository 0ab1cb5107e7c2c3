"""What every ledger promises of one gateway or many, on SQLite and Redis alike."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from backends.types import TokenParts
from router.errors import BudgetExceeded, Conflict, RateLimited, StoreUnavailable
from router.stores.open import Stores, open_stores
from router.types import RELEASED, Budget, NanoUsd, RateLimit, Spend
from tests.stores.conftest import Clock, replicas
from tests.stores.making import budget, buy, offer, principal, reservation, spend, spent_and_held

pytestmark = pytest.mark.anyio


async def test_a_hold_counts_until_it_is_settled_and_the_spend_afterwards(stores: Stores, clock: Clock) -> None:
    b = budget(1000)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(300), now_ms=clock()))
    assert await spent_and_held(stores, b, clock()) == (0, 300)
    await stores.ledger.settle(hold, spend(120))
    assert await spent_and_held(stores, b, clock()) == (120, 0)


async def test_settling_twice_changes_nothing(stores: Stores, clock: Clock) -> None:
    b = budget(1000)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(300), now_ms=clock()))
    for cost in (120, 120, 299):
        await stores.ledger.settle(hold, spend(cost))
    assert await spent_and_held(stores, b, clock()) == (120, 0)


async def test_an_id_that_is_held_cannot_be_reserved_again(stores: Stores, clock: Clock) -> None:
    b = budget(1000)
    asked = reservation(principal(b), offer(300), now_ms=clock(), id="same")
    await stores.ledger.reserve(asked)
    with pytest.raises(Conflict):
        await stores.ledger.reserve(asked)
    assert await spent_and_held(stores, b, clock()) == (0, 300)


async def test_a_released_id_may_be_reserved_and_settled_again(stores: Stores, clock: Clock) -> None:
    b = budget(1000)
    asked = reservation(principal(b), offer(300), now_ms=clock(), id="again")
    await stores.ledger.settle(await stores.ledger.reserve(asked), RELEASED)
    await stores.ledger.settle(await stores.ledger.reserve(asked), spend(50))
    assert await spent_and_held(stores, b, clock()) == (50, 0)


async def test_the_first_offer_that_fits_is_taken(stores: Stores, clock: Clock) -> None:
    b = budget(1000)
    offers = (offer(2000, model="large"), offer(800, model="medium"), offer(10, model="small"))
    hold = await stores.ledger.reserve(reservation(principal(b), *offers, now_ms=clock()))
    assert (hold.model, hold.amount) == ("medium", 800)


async def test_a_model_without_capacity_is_passed_over(stores: Stores, clock: Clock) -> None:
    full = offer(100, model="large", budgets=(budget(50, scope="model:large"),))
    hold = await stores.ledger.reserve(reservation(principal(budget(1000)), full, offer(100), now_ms=clock()))
    assert hold.model == "small"


async def test_a_refusal_says_when_the_rolling_window_makes_room(stores: Stores, clock: Clock) -> None:
    who = principal(budget(100, period_s=60))
    await buy(stores, who, 60, now_ms=clock())
    clock.pass_s(20)
    with pytest.raises(BudgetExceeded) as refused:
        await stores.ledger.reserve(reservation(who, offer(50), now_ms=clock()))
    assert refused.value.retry_after_s is not None
    assert 40 <= refused.value.retry_after_s <= 41
    clock.pass_s(refused.value.retry_after_s)
    assert (await stores.ledger.reserve(reservation(who, offer(50), now_ms=clock()))).amount == 50


async def test_no_rolling_window_ever_holds_more_than_the_limit(stores: Stores, clock: Clock) -> None:
    who, bought = principal(budget(100, period_s=30)), []
    for _ in range(200):
        clock.pass_s(0.7)
        try:
            await buy(stores, who, 7, now_ms=clock())
        except BudgetExceeded:
            continue
        bought.append(clock())
    assert max(sum(7 for other in bought if at <= other < at + 30_000) for at in bought) <= 100
    assert len(bought) * 7 > 100 * 140 / 30 * 0.8  # and the budget is used


@pytest.mark.parametrize(("calendar", "seconds"), [("day", 43_200), ("week", 86_400), ("month", 15 * 86_400)])
async def test_a_calendar_budget_starts_again_with_its_period(
    stores: Stores, clock: Clock, calendar: str, seconds: int
) -> None:
    clock.now_ms = 1_798_761_600_000 - seconds * 1000  # before Friday, 1 January 2027, 00:00 UTC
    who = principal(budget(100, calendar=calendar, period_s=86_400))
    await buy(stores, who, 100, now_ms=clock())
    with pytest.raises(BudgetExceeded) as refused:
        await stores.ledger.reserve(reservation(who, offer(1), now_ms=clock()))
    assert refused.value.retry_after_s is not None
    clock.pass_s(refused.value.retry_after_s)
    assert (await stores.ledger.reserve(reservation(who, offer(100), now_ms=clock()))).amount == 100


@pytest.mark.parametrize("period_s", [30, 3600, 86_400, 366 * 86_400])
async def test_a_hold_outlives_the_window_it_was_taken_in(stores: Stores, clock: Clock, period_s: int) -> None:
    b = budget(100, period_s=period_s)
    long = period_s * 2000
    asked = reservation(principal(b), offer(80), now_ms=clock(), ttl_ms=long)
    await stores.ledger.reserve(asked)
    clock.pass_s(period_s * 1.5)
    assert await spent_and_held(stores, b, clock()) == (0, 80)


async def test_every_scope_must_have_room(stores: Stores, clock: Clock) -> None:
    scopes = ("tenant:acme", "team:research", "key:k_acme")
    for tight in scopes:
        who = principal(*(budget(50 if scope == tight else 1000, scope=f"{scope}{tight}") for scope in scopes))
        with pytest.raises(BudgetExceeded, match=tight):
            await stores.ledger.reserve(reservation(who, offer(60), now_ms=clock()))


async def test_a_limit_for_one_model_holds_for_that_model_only(stores: Stores, clock: Clock) -> None:
    who = principal(RateLimit("key:k_acme|model:large", requests_per_minute=0))
    hold = await stores.ledger.reserve(
        reservation(who, offer(1, model="large"), offer(1, model="small"), now_ms=clock())
    )
    assert hold.model == "small"


async def test_requests_a_minute_are_counted_from_their_start(stores: Stores, clock: Clock) -> None:
    who = principal(RateLimit("key:k", requests_per_minute=2))
    for _ in range(2):
        await buy(stores, who, 1, now_ms=clock())
    clock.pass_s(30)
    with pytest.raises(RateLimited) as refused:
        await buy(stores, who, 1, now_ms=clock())
    assert refused.value.retry_after_s == pytest.approx(31, abs=1)
    clock.pass_s(refused.value.retry_after_s or 0)
    await buy(stores, who, 1, now_ms=clock())


async def test_tokens_a_minute_are_reserved_at_their_most_and_corrected(stores: Stores, clock: Clock) -> None:
    who = principal(RateLimit("key:k", tokens_per_minute=100))
    hold = await stores.ledger.reserve(reservation(who, offer(1, tokens=90), now_ms=clock()))
    with pytest.raises(RateLimited):
        await stores.ledger.reserve(reservation(who, offer(1, tokens=20), now_ms=clock()))
    clock.pass_s(5)
    await stores.ledger.settle(hold, spend(1, prompt=10, completion=20))
    again = await stores.ledger.reserve(reservation(who, offer(1, tokens=70), now_ms=clock()))
    assert again.tokens is not None
    assert (again.tokens.limit, again.tokens.remaining) == (100, 0)


async def test_requests_at_once_are_counted_until_they_end(stores: Stores, clock: Clock) -> None:
    who = principal(RateLimit("key:k", concurrent=1))
    hold = await stores.ledger.reserve(reservation(who, offer(1), now_ms=clock()))
    with pytest.raises(RateLimited):
        await stores.ledger.reserve(reservation(who, offer(1), now_ms=clock()))
    await stores.ledger.settle(hold, RELEASED)
    await stores.ledger.reserve(reservation(who, offer(1), now_ms=clock()))


async def test_a_release_gives_everything_back(stores: Stores, clock: Clock) -> None:
    b, limit = budget(100), RateLimit("key:k", requests_per_minute=1, tokens_per_minute=10, concurrent=1)
    who = principal(b, limit)
    for _ in range(3):
        hold = await stores.ledger.reserve(reservation(who, offer(100, tokens=10), now_ms=clock()))
        clock.pass_s(2)
        await stores.ledger.settle(hold, RELEASED)
    assert await spent_and_held(stores, b, clock()) == (0, 0)


async def test_what_is_left_of_a_rate_limit_comes_with_the_hold(stores: Stores, clock: Clock) -> None:
    who = principal(RateLimit("key:k", requests_per_minute=5), RateLimit("tenant:acme", requests_per_minute=3))
    hold = await stores.ledger.reserve(reservation(who, offer(1), now_ms=clock()))
    assert hold.requests is not None
    assert (hold.requests.limit, hold.requests.remaining) == (3, 2)
    assert hold.tokens is None


async def test_a_soft_budget_warns_and_does_not_refuse(stores: Stores, clock: Clock) -> None:
    who = principal(budget(100, hard=False))
    warnings = []
    for _ in range(4):
        hold = await stores.ledger.reserve(reservation(who, offer(40), now_ms=clock()))
        await stores.ledger.settle(hold, spend(40))
        warnings.append(hold.warnings)
    assert warnings == [(), ("tenant:acme 80%",), ("tenant:acme 100%",), ("tenant:acme 100%",)]
    kinds = [entry.kind for entry in await stores.audit.read()]
    assert kinds == ["budget.80%", "budget.100%"]


async def test_an_expired_hold_of_which_nothing_was_sent_is_released(stores: Stores, clock: Clock) -> None:
    b = budget(100)
    await stores.ledger.reserve(reservation(principal(b), offer(100), now_ms=clock(), ttl_ms=5000, id="lost"))
    clock.pass_s(5)
    assert (await stores.ledger.reserve(reservation(principal(b), offer(100), now_ms=clock()))).amount == 100
    entry = (await stores.audit.read())[0]
    assert (entry.kind, entry.subject, entry.detail["charged"]) == ("hold.released", "lost", 0)


async def test_an_expired_hold_of_which_bytes_were_sent_is_charged_at_its_worst(stores: Stores, clock: Clock) -> None:
    b = budget(100)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(70), now_ms=clock(), ttl_ms=5000))
    await stores.ledger.mark(hold)
    clock.pass_s(6)
    assert await spent_and_held(stores, b, clock()) == (70, 0)
    assert (await stores.audit.read())[0].kind == "hold.expired"


async def test_a_late_settlement_corrects_what_the_expiry_charged(stores: Stores, clock: Clock) -> None:
    b = budget(100)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(70), now_ms=clock(), ttl_ms=5000))
    await stores.ledger.mark(hold)
    clock.pass_s(6)
    assert await spent_and_held(stores, b, clock()) == (70, 0)
    for _ in range(2):
        await stores.ledger.settle(hold, spend(20))
    assert await spent_and_held(stores, b, clock()) == (20, 0)
    assert [entry.kind for entry in await stores.audit.read()] == ["hold.expired", "hold.late"]


async def test_a_late_settlement_of_a_released_hold_is_refused_and_charges_nothing(
    stores: Stores, clock: Clock
) -> None:
    """Its room has been given away: an answer of which nothing was sent must not be sent any more."""
    b = budget(100)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(70), now_ms=clock(), ttl_ms=5000))
    clock.pass_s(6)
    await buy(stores, principal(b), 100, now_ms=clock())
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await stores.ledger.settle(hold, spend(20))
        await stores.ledger.tend()
    assert await spent_and_held(stores, b, clock()) == (100, 0)


async def test_an_answer_whose_lease_has_ended_must_not_begin(stores: Stores, clock: Clock) -> None:
    b = budget(100)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(70), now_ms=clock(), ttl_ms=5000))
    clock.pass_s(6)
    await buy(stores, principal(b), 100, now_ms=clock())
    with pytest.raises(StoreUnavailable):
        await stores.ledger.mark(hold)
    await stores.ledger.settle(hold, RELEASED)
    assert await spent_and_held(stores, b, clock()) == (100, 0)


async def test_what_is_marked_is_marked_for_every_gateway_at_once(url: str, clock: Clock) -> None:
    """The process may die in the moment after."""
    b = budget(100)
    async with replicas(url, clock) as (sends, other):
        hold = await sends.ledger.reserve(reservation(principal(b), offer(70), now_ms=clock(), ttl_ms=5000))
        await sends.ledger.mark(hold)
        clock.pass_s(6)
        assert await spent_and_held(other, b, clock()) == (70, 0)


async def test_a_release_after_the_lease_gives_back_what_its_end_charged(stores: Stores, clock: Clock) -> None:
    """The mark was written, but nobody could be told: nothing was sent."""
    b = budget(100)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(70), now_ms=clock(), ttl_ms=5000))
    await stores.ledger.mark(hold)
    clock.pass_s(6)
    assert await spent_and_held(stores, b, clock()) == (70, 0)
    await stores.ledger.settle(hold, RELEASED)
    assert await spent_and_held(stores, b, clock()) == (0, 0)
    lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
    assert [(line.requests, line.cost_nanousd) for line in lines] in ([], [(0, 0)])


async def test_a_late_settlement_counts_once_where_two_budgets_share_a_meter(stores: Stores, clock: Clock) -> None:
    b, soft = budget(1000), budget(500, hard=False)
    asked = reservation(principal(b, soft), offer(70), now_ms=clock(), ttl_ms=5000)
    hold = await stores.ledger.reserve(asked)
    await stores.ledger.mark(hold)
    clock.pass_s(6)
    assert await spent_and_held(stores, b, clock()) == (70, 0)
    await stores.ledger.settle(hold, spend(60))
    assert await spent_and_held(stores, b, clock()) == (60, 0)


async def test_spend_shows_tokens_by_kind_also_of_a_late_settlement(stores: Stores, clock: Clock) -> None:
    kinds = TokenParts(cached=40, cache_write_1h=3, reasoning=7, searches=1, service_tier="flex")
    for name, late in (("a", False), ("b", True)):
        asked = replace(reservation(principal(budget(1000)), offer(70), now_ms=clock(), ttl_ms=5000), decision_id=name)
        hold = await stores.ledger.reserve(asked)
        await stores.ledger.mark(hold)
        clock.pass_s(6 if late else 1)
        if late:
            assert await spent_and_held(stores, budget(1000), clock()) == (70 + 60, 0)
        await stores.ledger.settle(hold, replace(spend(60), parts=kinds))
        await stores.ledger.settle(hold, replace(spend(60), parts=kinds))  # twice changes nothing
    (line,) = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
    assert (line.cached, line.cache_write, line.cache_write_1h, line.reasoning, line.searches) == (80, 0, 6, 14, 2)
    assert line.requests == 2


async def test_an_answer_more_expensive_than_its_worst_case_is_charged_and_shown(stores: Stores, clock: Clock) -> None:
    b = budget(100)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(10), now_ms=clock()))
    await stores.ledger.settle(hold, spend(15))
    assert await spent_and_held(stores, b, clock()) == (15, 0)
    assert [entry.kind for entry in await stores.audit.read()] == ["hold.over"]


async def test_more_than_was_held_counts_in_every_budget_and_limit(stores: Stores, clock: Clock) -> None:
    """An engine reported more than the worst case; the room that is missing is refused to the next."""
    b, key, limit = budget(100), budget(200, scope="key:k_acme"), RateLimit("key:k_acme", tokens_per_minute=1000)
    who = principal(b, key, limit)
    hold = await stores.ledger.reserve(reservation(who, offer(10, tokens=20), now_ms=clock()))
    await stores.ledger.mark(hold)
    for _ in range(2):
        await stores.ledger.settle(hold, spend(150, prompt=400, completion=500))
    assert [await spent_and_held(stores, each, clock()) for each in (b, key)] == [(150, 0), (150, 0)]
    with pytest.raises(BudgetExceeded):
        await stores.ledger.reserve(reservation(who, offer(1), now_ms=clock()))
    with pytest.raises(RateLimited):
        await stores.ledger.reserve(reservation(principal(limit), offer(1, tokens=200), now_ms=clock()))
    entries = await stores.audit.read()
    assert [(e.kind, e.subject, e.detail["held"], e.detail["charged"]) for e in entries] == [
        ("hold.over", hold.decision_id, 10, 150)
    ]


async def test_a_late_settlement_of_more_than_was_held_is_charged_in_full(stores: Stores, clock: Clock) -> None:
    b = budget(1000)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(70), now_ms=clock(), ttl_ms=5000))
    await stores.ledger.mark(hold)
    clock.pass_s(6)
    assert await spent_and_held(stores, b, clock()) == (70, 0)
    for _ in range(2):
        await stores.ledger.settle(hold, spend(90))
    assert await spent_and_held(stores, b, clock()) == (90, 0)


async def test_sums_of_large_budgets_stay_exact(stores: Stores, clock: Clock) -> None:
    b = budget(2**53)
    odd = 1_234_567_890_123_457
    for _ in range(3):
        await buy(stores, principal(b), odd, now_ms=clock())
    assert await spent_and_held(stores, b, clock()) == (3 * odd, 0)


async def test_two_hundred_tasks_on_two_gateways_spend_exactly_the_budget(url: str, clock: Clock) -> None:
    b, served = budget(100), 0
    async with replicas(url, clock) as gateways:

        async def one(i: int) -> bool:
            try:
                await buy(gateways[i % 2], principal(b), 1, now_ms=clock())
            except BudgetExceeded:
                return False
            return True

        served = sum(await asyncio.gather(*(one(i) for i in range(200))))
        seen = [await spent_and_held(gateway, b, clock()) for gateway in gateways]
    assert served == 100
    assert seen == [(100, 0), (100, 0)]


async def test_two_hundred_tasks_never_exceed_what_runs_at_once(url: str, clock: Clock) -> None:
    who, running, most = principal(RateLimit("key:k", concurrent=7)), 0, 0
    async with replicas(url, clock) as gateways:

        async def one(i: int) -> None:
            nonlocal running, most
            gateway = gateways[i % 2]
            try:
                hold = await gateway.ledger.reserve(reservation(who, offer(1), now_ms=clock()))
            except RateLimited:
                return
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            await gateway.ledger.settle(hold, spend(1))

        await asyncio.gather(*(one(i) for i in range(200)))
    assert most <= 7


async def test_a_restart_loses_nothing(url: str, clock: Clock) -> None:
    budgets = (budget(1000), Budget("key:k_acme", NanoUsd(500), 86_400, True, "day"))
    who = principal(*budgets)
    async with open_stores(url, clock=clock) as before:
        await buy(before, who, 30, now_ms=clock())
        await before.ledger.reserve(reservation(who, offer(7), now_ms=clock()))
        await before.ledger.settle(await before.ledger.reserve(reservation(who, offer(5), now_ms=clock())), RELEASED)
    async with open_stores(url, clock=clock) as after:
        assert [await spent_and_held(after, b, clock()) for b in budgets] == [(30, 7), (30, 7)]


async def test_another_gateway_ends_the_holds_of_one_that_died(url: str, clock: Clock) -> None:
    b = budget(100)
    async with replicas(url, clock) as (dead, alive):
        await dead.ledger.reserve(reservation(principal(b), offer(100), now_ms=clock(), ttl_ms=1000))
        with pytest.raises(BudgetExceeded):
            await buy(alive, principal(b), 1, now_ms=clock())
        clock.pass_s(1)
        await buy(alive, principal(b), 100, now_ms=clock())
        assert await spent_and_held(dead, b, clock()) == (100, 0)


async def test_the_lease_of_a_long_answer_is_renewed_until_its_end(stores: Stores, clock: Clock) -> None:
    b = budget(100)
    asked = reservation(principal(b), offer(100), now_ms=clock(), ttl_ms=1000, longest_ms=10_000)
    await stores.ledger.reserve(asked)
    clock.pass_s(0.9)
    held = [await _held_after_a_tick(stores, b, clock)]
    clock.pass_s(0.9)
    held.append(await _held_after_a_tick(stores, b, clock))
    clock.pass_s(9)
    held.append(await _held_after_a_tick(stores, b, clock))
    assert held == [100, 100, 0]


async def _held_after_a_tick(stores: Stores, b: Budget, clock: Clock) -> int:
    await stores.ledger.tend()
    return (await spent_and_held(stores, b, clock()))[1]


async def test_spend_is_reported_by_day_tenant_key_and_model(stores: Stores, clock: Clock) -> None:
    for tenant, cost in (("acme", 5), ("acme", 6), ("bolt", 7)):
        await buy(stores, principal(budget(100, scope=f"tenant:{tenant}"), tenant=tenant), cost, now_ms=clock())
    clock.pass_s(86_400)
    await buy(stores, principal(tenant="acme", team="research"), 8, now_ms=clock())
    lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
    found = {(line.day, line.tenant, line.team, line.model): (line.requests, line.cost_nanousd) for line in lines}
    assert found == {
        ("2027-01-15", "acme", "", "small"): (2, 11),
        ("2027-01-15", "bolt", "", "small"): (1, 7),
        ("2027-01-16", "acme", "research", "small"): (1, 8),
    }


async def test_a_hold_must_be_settled_as_it_was_given(stores: Stores, clock: Clock) -> None:
    hold = await stores.ledger.reserve(reservation(principal(), offer(1), now_ms=clock()))
    with pytest.raises(TypeError):
        await stores.ledger.settle(type(hold)(hold.decision_id, hold.model, hold.amount, hold.expires_at_ms), RELEASED)


async def test_spend_of_a_free_model_still_ends_the_hold(stores: Stores, clock: Clock) -> None:
    b = budget(10)
    hold = await stores.ledger.reserve(reservation(principal(b), offer(10), now_ms=clock()))
    await stores.ledger.settle(hold, Spend(NanoUsd(0), 5, 5, "settled"))
    assert await spent_and_held(stores, b, clock()) == (0, 0)


async def test_a_client_that_leaves_while_reserving_leaves_no_hold(stores: Stores, clock: Clock) -> None:
    b = budget(10_000)
    for turns in range(4):
        asked = [reservation(principal(b), offer(10), now_ms=clock()) for _ in range(5)]
        tasks = [asyncio.create_task(stores.ledger.reserve(each)) for each in asked]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        for hold in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(hold, BaseException):
                await stores.ledger.settle(hold, RELEASED)
    await stores.ledger.tend()
    assert await spent_and_held(stores, b, clock()) == (0, 0)
