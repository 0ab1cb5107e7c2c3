"""New requests wait while the loop is behind; nobody waits for ever, and nobody is passed over."""

from __future__ import annotations

import asyncio
import time

import pytest

from router.errors import NoCandidate
from router.gateway.crowd import PART, Crowd, watch_loop

pytestmark = pytest.mark.anyio


def crowd(**changes: float) -> Crowd:
    return Crowd(**({"lag_s": 0.5, "waiting": 100, "wait_s": 60} | changes))  # type: ignore[arg-type]


async def test_a_loop_in_time_lets_everybody_in_at_once() -> None:
    door = crowd()
    door.lagged(0.5)
    await door.turn()
    assert door.waiting == 0


async def test_who_came_first_is_let_in_first_and_a_part_at_each_look() -> None:
    door, order = crowd(), list[int]()
    door.lagged(0.6)

    async def request(number: int) -> None:
        await door.turn()
        order.append(number)

    tasks = [asyncio.create_task(request(number)) for number in range(3 * PART)]
    await asyncio.sleep(0)
    assert door.waiting == 3 * PART
    door.lagged(0.6)
    await asyncio.sleep(0.01)
    assert order == []
    door.lagged(0.0)
    await asyncio.sleep(0.01)
    assert order == list(range(PART))
    tasks.append(asyncio.create_task(request(99)))  # in time, but others were before it
    await asyncio.sleep(0.01)
    assert order == list(range(PART))
    while door.waiting:
        door.lagged(0.0)
    await asyncio.gather(*tasks)
    assert order == [*range(3 * PART), 99]


async def test_beyond_a_number_and_after_a_time_they_are_refused_and_told_when_to_come_again() -> None:
    door = crowd(waiting=1, wait_s=0.05)
    door.lagged(0.6)
    first = asyncio.create_task(door.turn())
    await asyncio.sleep(0)
    with pytest.raises(NoCandidate) as second:
        await door.turn()
    with pytest.raises(NoCandidate) as waited:
        await first
    for refused in (second.value, waited.value):
        assert (refused.status, refused.code, refused.retry_after_s) == (503, "overloaded", 1.0)
    assert door.waiting == 0


async def test_who_leaves_takes_no_ones_place() -> None:
    door = crowd(waiting=2)
    door.lagged(0.6)
    gone, stays = asyncio.create_task(door.turn()), asyncio.create_task(door.turn())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert door.waiting == 1
    door.lagged(0.0)
    await asyncio.wait_for(stays, 5)


async def test_a_loop_that_was_held_up_is_found_out_by_its_own_watch() -> None:
    door = crowd(lag_s=0.2)
    watch = asyncio.create_task(watch_loop(door.lagged))
    await asyncio.sleep(0)
    time.sleep(0.6)  # noqa: ASYNC251  (that is what it is about)
    for _ in range(3):  # turns of the loop: the watch wakes in one of them
        await asyncio.sleep(0)
    late = asyncio.create_task(door.turn())
    await asyncio.sleep(0)
    assert door.waiting == 1
    await asyncio.wait_for(late, 20)
    watch.cancel()
