"""Work begun eagerly: done at once where it never waits, and to its end where its caller is cancelled."""

import asyncio

import pytest

from router.gateway.run_eagerly import begin

pytestmark = pytest.mark.anyio


async def test_work_that_never_waits_is_done_on_return() -> None:
    steps = []

    async def work() -> None:
        steps.append("done")

    assert begin(work()) is None
    assert steps == ["done"]


async def test_a_failure_before_the_first_wait_is_kept_for_who_asks() -> None:
    async def work() -> None:
        raise KeyError("gone")

    begun = begin(work())
    assert begun is not None
    with pytest.raises(KeyError):
        await begun


async def test_work_that_waits_goes_on_when_its_caller_is_cancelled() -> None:
    gate, steps = asyncio.Event(), []

    async def work() -> None:
        steps.append("begun")
        await gate.wait()
        await asyncio.sleep(0)
        steps.append("ended")

    begun: list[asyncio.Future[None]] = []

    async def caller() -> None:
        future = begin(work())
        assert future is not None
        begun.append(future)
        await asyncio.shield(future)

    calling = asyncio.create_task(caller())
    await asyncio.sleep(0)
    assert steps == ["begun"]
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    gate.set()
    await begun[0]
    assert steps == ["begun", "ended"]


async def test_an_exception_from_what_it_waits_for_reaches_the_work() -> None:
    future, met = asyncio.get_running_loop().create_future(), []

    async def work() -> None:
        try:
            await future
        except ValueError:
            met.append("caught")

    begun = begin(work())
    assert begun is not None
    future.set_exception(ValueError())
    await begun
    assert met == ["caught"]
