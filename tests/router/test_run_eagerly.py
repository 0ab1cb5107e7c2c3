"""Work that is awaited in place, and goes on to its end where its caller is cancelled."""

import asyncio

import pytest

from router.gateway.run_eagerly import to_its_end

pytestmark = pytest.mark.anyio


async def test_work_that_never_waits_is_done_within_the_step_that_asks() -> None:
    steps = []

    async def work() -> None:
        steps.append("done")

    calling = asyncio.create_task(to_its_end(work()))
    await asyncio.sleep(0)
    assert calling.done()
    assert steps == ["done"]


async def test_a_failure_reaches_who_asks() -> None:
    async def work() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError):
        await to_its_end(work())


async def test_a_failure_after_a_wait_reaches_who_asks() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise KeyError("gone")

    with pytest.raises(KeyError):
        await to_its_end(work())


async def test_work_that_waits_is_done_by_its_caller_and_no_task_of_its_own() -> None:
    future, seen = asyncio.get_running_loop().create_future(), []

    async def work() -> None:
        seen.append(asyncio.current_task())
        await future
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    asyncio.get_running_loop().call_soon(future.set_result, None)
    await to_its_end(work())
    assert seen == [asyncio.current_task()] * 2


@pytest.mark.parametrize("turns", range(5))
async def test_work_that_waits_goes_on_when_its_caller_is_cancelled_at_any_turn(turns: int) -> None:
    gate, steps, ended = asyncio.Event(), [], asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        steps.append("begun")
        await gate.wait()
        await asyncio.sleep(0)
        steps.append("ended")
        ended.set()

    calling = asyncio.create_task(to_its_end(work()))
    for _ in range(turns):
        await asyncio.sleep(0)
    if turns:  # what never began has nothing to end
        calling.cancel()
        gate.set()
        assert isinstance((await asyncio.gather(calling, return_exceptions=True))[0], asyncio.CancelledError)
    gate.set()
    await asyncio.wait_for(ended.wait(), 5)
    assert steps == ["begun", "ended"]


async def test_who_is_cancelled_in_the_turn_in_which_it_is_done_loses_nothing() -> None:
    future, steps, ended = asyncio.get_running_loop().create_future(), [], asyncio.Event()

    async def work() -> None:
        steps.append(await future)
        ended.set()

    calling = asyncio.create_task(to_its_end(work()))
    await asyncio.sleep(0)
    future.set_result("told")
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    await asyncio.wait_for(ended.wait(), 5)
    assert steps == ["told"]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_exception_from_what_it_waits_for_reaches_the_work(cancelled: bool) -> None:
    future, met, ended = asyncio.get_running_loop().create_future(), [], asyncio.Event()

    async def work() -> None:
        try:
            await future
        except ValueError:
            met.append("caught")
        ended.set()

    calling = asyncio.create_task(to_its_end(work()))
    await asyncio.sleep(0)
    if cancelled:
        calling.cancel()
        await asyncio.sleep(0)
    future.set_exception(ValueError())
    await asyncio.gather(calling, return_exceptions=True)
    await asyncio.wait_for(ended.wait(), 5)
    assert met == ["caught"]
