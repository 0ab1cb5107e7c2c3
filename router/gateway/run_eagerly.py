"""Work that goes on when its caller is cancelled, in a task of its own only where that happens."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

Work = Coroutine[Any, Any, None]
Future = asyncio.Future[Any]
_GOING_ON: set[asyncio.Task[None]] = set()  # or nobody would hold them


async def to_its_end(work: Work) -> None:
    """Await `work`. Where the caller is cancelled meanwhile a task goes on with it: one for all would cost more, with
    its turns of the loop, than settling a request does."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            waited_for: Future | None = work.send(None)
        except StopIteration:
            return
        woken = loop.create_future()
        if waited_for is None:  # it only lets others go first
            loop.call_soon(_wake, woken)
        else:
            waited_for.add_done_callback(partial(_wake, woken))
        try:
            await woken
        except asyncio.CancelledError:
            task = loop.create_task(_rest(work, waited_for))
            _GOING_ON.add(task)
            task.add_done_callback(_GOING_ON.discard)
            raise


def _wake(woken: Future, _: Future | None = None) -> None:
    if not woken.done():
        woken.set_result(None)


async def _rest(work: Work, waited_for: Future | None) -> None:
    await _resumed(work, waited_for)


@types.coroutine
def _resumed(work: Work, waited_for: Future | None) -> Generator[Any, Any, None]:
    """What is left of a coroutine that already waits for something."""
    step: Callable[[Any], Any]
    given: Any
    while True:
        try:
            given = None if waited_for is not None and waited_for.done() else (yield waited_for)
            step = work.send
        except BaseException as problem:
            given, step = problem, work.throw
        try:
            waited_for = step(given)
        except StopIteration:
            return
