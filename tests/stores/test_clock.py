"""A clock that lies: on one machine the money's time neither jumps unasked nor runs backwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.errors import StoreUnavailable
from router.stores.open import Stores, open_stores
from router.types import RELEASED
from tests.stores.conftest import T0, Clock
from tests.stores.making import budget, buy, offer, principal, reservation, spend, spent_and_held

pytestmark = pytest.mark.anyio

DAY_S, DAY_MS = 86_400, 86_400_000
WHO, DAILY = principal(budget(100, calendar="day")), budget(100, calendar="day")


class Machine:
    """A wall clock that can be set and a clock that runs since the machine was booted."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"
        self.wall, self.boot = Clock(), Clock(5_000_000)

    def pass_s(self, seconds: float) -> None:
        for clock in (self.wall, self.boot):
            clock.pass_s(seconds)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Stores]:
        async with open_stores(self.url, clock=self.wall, boot=self.boot) as stores:
            yield stores


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "pointsman.db")


async def kinds(stores: Stores) -> list[str]:
    return [entry.kind for entry in await stores.audit.read()]


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S, 61, -61])
async def test_a_clock_that_jumps_stops_reservations_until_it_is_confirmed(machine: Machine, jump_s: int) -> None:
    async with machine.opened() as one, machine.opened() as other:
        assert one.clock is not None
        assert other.clock is not None
        await buy(one, WHO, 90, now_ms=machine.wall())
        machine.pass_s(2)
        await other.ledger.tend()
        machine.wall.pass_s(jump_s)
        for stores in (one, other):
            with pytest.raises(StoreUnavailable, match="has jumped"):
                await buy(stores, WHO, 1, now_ms=machine.wall())
        assert abs(one.clock.jump_ms()) == abs(jump_s) * 1000
        await other.clock.confirm_clock("test")
        await one.ledger.tend()
        assert (one.clock.jump_ms(), other.clock.jump_ms()) == (0, 0)
        for stores in (one, other):
            await buy(stores, WHO, 1, now_ms=machine.wall())
        assert "clock.confirmed" in await kinds(one)


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
async def test_what_is_under_way_when_the_clock_jumps_is_charged_as_if_it_had_not(
    machine: Machine, jump_s: int
) -> None:
    async with machine.opened() as stores:
        hold, unsent = [
            await stores.ledger.reserve(reservation(WHO, offer(20), now_ms=machine.wall(), longest_ms=600_000))
            for _ in range(2)
        ]
        await stores.ledger.mark(hold)
        machine.wall.pass_s(jump_s)
        await stores.ledger.tend()
        assert await spent_and_held(stores, DAILY, machine.wall()) == (0, 40)  # no lease has ended
        await stores.ledger.settle(hold, spend(7))
        await stores.ledger.settle(unsent, RELEASED)
        assert await spent_and_held(stores, DAILY, machine.wall()) == (7, 0)
        lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
        assert [line.day for line in lines] == ["2027-01-15"]
        assert "clock.jumped" in await kinds(stores)


async def test_a_budget_is_not_reset_by_a_clock_that_is_moved_ahead_and_back(machine: Machine) -> None:
    async with machine.opened() as stores:
        await buy(stores, WHO, 100, now_ms=machine.wall())
        machine.wall.pass_s(DAY_S)
        with pytest.raises(StoreUnavailable):
            await buy(stores, WHO, 1, now_ms=machine.wall())
        machine.wall.pass_s(-DAY_S)
        assert await spent_and_held(stores, DAILY, machine.wall()) == (100, 0)
        assert stores.clock is not None
        assert stores.clock.jump_ms() == 0


@pytest.mark.parametrize("correction_s", [0.4, 59, -59])
async def test_small_corrections_are_followed(machine: Machine, correction_s: float) -> None:
    async with machine.opened() as stores:
        for _ in range(5):
            machine.pass_s(60)
            machine.wall.pass_s(correction_s)
            await buy(stores, WHO, 1, now_ms=machine.wall())


async def test_time_goes_on_where_a_clock_that_was_moved_back_is_confirmed(machine: Machine) -> None:
    """It never runs backwards past the newest row, and nobody is refused for a day."""
    minute = principal(budget(10, period_s=60))
    async with machine.opened() as stores:
        assert stores.clock is not None
        await buy(stores, minute, 10, now_ms=machine.wall())
        machine.wall.pass_s(-DAY_S)
        await stores.clock.confirm_clock("test")
        machine.pass_s(62)
        await buy(stores, minute, 10, now_ms=machine.wall())
        lines = await stores.spend.lines(since="2027-01-01", until="2027-12-31")
        assert {line.day for line in lines} == {"2027-01-15"}


async def test_a_start_accepts_a_clock_that_is_ahead_and_says_so(machine: Machine) -> None:
    async with machine.opened() as stores:
        await buy(stores, WHO, 100, now_ms=machine.wall())
    machine.wall.pass_s(DAY_S)
    async with machine.opened() as stores:
        await buy(stores, WHO, 100, now_ms=machine.wall())
        entry = (await stores.audit.read())[0]
        assert (entry.kind, entry.detail["newest_ms"]) == ("clock.ahead", T0)


async def test_who_opens_a_store_without_watching_the_clock_says_nothing_of_it(machine: Machine) -> None:
    """A verb of the command line, on a store that rested."""
    async with machine.opened() as stores:
        await buy(stores, WHO, 100, now_ms=machine.wall())
    machine.pass_s(1800)
    async with open_stores(machine.url, clock=machine.wall) as stores:
        assert await stores.audit.read() == []
    async with machine.opened() as stores:
        assert await kinds(stores) == ["clock.ahead"]


async def test_a_start_with_a_clock_behind_the_newest_row_reserves_nothing_until_it_is_confirmed(
    machine: Machine,
) -> None:
    async with machine.opened() as stores:
        await buy(stores, WHO, 60, now_ms=machine.wall())
    machine.wall.pass_s(-DAY_S)
    async with machine.opened() as stores:
        assert stores.clock is not None
        assert await spent_and_held(stores, DAILY, machine.wall()) == (60, 0)
        with pytest.raises(StoreUnavailable, match="jumped back by 86400 s"):
            await buy(stores, WHO, 1, now_ms=machine.wall())
        await stores.clock.confirm_clock("test")
        await buy(stores, WHO, 1, now_ms=machine.wall())
        assert await spent_and_held(stores, DAILY, machine.wall()) == (61, 0)


async def test_leases_end_though_the_clock_was_moved_back_while_nobody_ran(machine: Machine) -> None:
    """The money's time goes on from the newest row, and nothing is reserved."""
    async with machine.opened() as stores:
        await stores.ledger.reserve(reservation(WHO, offer(40), now_ms=machine.wall(), ttl_ms=30_000))
    machine.wall.pass_s(-DAY_S)
    async with machine.opened() as stores:
        assert stores.clock is not None
        assert await spent_and_held(stores, DAILY, machine.wall()) == (0, 40)
        machine.pass_s(31)
        await stores.ledger.tend()
        assert await spent_and_held(stores, DAILY, machine.wall()) == (0, 0)
        with pytest.raises(StoreUnavailable, match="jumped back by 86400 s"):
            await buy(stores, WHO, 1, now_ms=machine.wall())
        machine.wall.pass_s(DAY_S)
        await buy(stores, WHO, 1, now_ms=machine.wall())


async def test_a_lease_that_was_renewed_ends_as_soon_behind_a_clock_that_was_moved_back(machine: Machine) -> None:
    async with machine.opened() as stores:
        await stores.ledger.reserve(reservation(WHO, offer(40), now_ms=machine.wall(), longest_ms=600_000))
        for _ in range(10):
            machine.pass_s(25)
            await stores.ledger.tend()
    machine.wall.pass_s(-DAY_S)
    async with machine.opened() as stores:
        machine.pass_s(31)
        await stores.ledger.tend()
        assert await spent_and_held(stores, DAILY, machine.wall()) == (0, 0)
