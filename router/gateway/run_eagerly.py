"""Work that goes on when its caller is cancelled, without a task of its own where it never has to wait."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

Work = Coroutine[Any, Any, None]


def begin(work: Work) -> asyncio.Future[None] | None:
    """Run `work` up to its first wait, and the rest in a task: `await asyncio.shield(begin(…))` cannot be cut short.

    None where it never waits and is done: a task and its turn of the loop cost more than settling a request does.
    """
    try:
        waited_for = work.send(None)
    except StopIteration:
        return None
    except Exception as problem:
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        failed.set_exception(problem)
        return failed
    return asyncio.ensure_future(_resumed(work, waited_for))


async def _resumed(work: Work, waited_for: Any) -> None:
    await _rest(work, waited_for)


@types.coroutine
def _rest(work: Work, waited_for: Any) -> Generator[Any, Any, None]:
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
        except StopIteration:
            return
