"""Work that goes on when its caller is cancelled, without a task of its own where it never has to wait."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")
Work = Coroutine[Any, Any, T]


def begin(work: Work[T]) -> asyncio.Future[T]:
    """Run `work` up to its first wait, and the rest in a task: `await asyncio.shield(begin(…))` cannot be cut short.

    Work that never waits is done on return, and no task is made: a task and its turn of the loop cost more than
    settling a request does.
    """
    try:
        waited_for = work.send(None)
    except StopIteration as end:
        return _ended(end.value)
    except Exception as problem:
        failed: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        failed.set_exception(problem)
        return failed
    return asyncio.ensure_future(_resumed(work, waited_for))


def _ended(value: T) -> asyncio.Future[T]:
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


async def _resumed(work: Work[T], waited_for: Any) -> T:
    return await _rest(work, waited_for)


@types.coroutine
def _rest(work: Work[T], waited_for: Any) -> Generator[Any, Any, T]:
    """What is left of a coroutine that already waits for something."""
    step: Callable[[Any], Any]
    while True:
        try:
            given = yield waited_for
            step = work.send
        except BaseException as problem:
            given, step = problem, work.throw
        try:
            waited_for = step(given)
        except StopIteration as end:
            result: T = end.value
            return result
