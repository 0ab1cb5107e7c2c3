"""Work begun eagerly: done at once where it never waits, and to its end where its caller is cancelled."""

import asyncio

import pytest

from router.gateway.eager import begin

pytestmark = pytest.mark.anyio


async def test_work_that_never_waits_is_done_on_return() -> None:
    async def work() -> int:
        return 7

    future = begin(work())
    assert future.done()
    assert future.result() == 7


async def test_a_failure_before_the_first_wait_is_kept_for_who_asks() -> None:
    async def work() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError):
        await begin(work())


async def test_work_that_waits_goes_on_when_its_caller_is_cancelled() -> None:
    gate, steps = asyncio.Event(), []

    async def work() -> str:
        steps.append("begun")
        await gate.wait()
        await asyncio.sleep(0)
        steps.append("ended")
        return "done"

    begun: list[asyncio.Future[str]] = []

    async def caller() -> None:
        begun.append(begin(work()))
        await asyncio.shield(begun[0])

    calling = asyncio.create_task(caller())
    await asyncio.sleep(0)
    assert steps == ["begun"]
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    gate.set()
    assert await begun[0] == "done"
    assert steps == ["begun", "ended"]


async def test_an_exception_from_what_it_waits_for_reaches_the_work() -> None:
    future = asyncio.get_running_loop().create_future()

    async def work() -> str:
        try:
            await future
        except ValueError:
            return "caught"
        return "missed"

    begun = begin(work())
    future.set_exception(ValueError())
    assert await begun == "caught"
