"""An event loop whose time passes only when nobody has anything to do, and processes in it that can be killed.

Everything runs in one thread and in one order. What is scheduled belongs to the process that scheduled it; once that
one is dead nothing of it runs any more, not even its `finally` blocks, as after kill -9.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")
BEGINNING_S = 1_800_000_000.0  # seconds since 1970 when every world begins


class Process:
    """Something that can be killed: between any two of its steps, after `steps` of them or at once."""

    def __init__(self, name: str, *, host: str = "", skew_s: float = 0.0) -> None:
        self.name, self.host, self.skew_s = name, host, skew_s
        self.alive = self.alive_until_end = True
        self.steps: int | None = None  # until it dies
        self.on_death: list[Callable[[], None]] = []

    def step(self) -> bool:
        """Whether it may schedule something."""
        if self.alive and self.steps is not None:
            self.steps -= 1
            if self.steps <= 0:
                self.die()
        return self.alive

    def die(self) -> None:
        """Nothing of it runs from now on."""
        if self.alive:
            self.alive = False
            for call in self.on_death:
                call()


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class _NoSockets(selectors.BaseSelector):
    """Waiting is moving the clock."""

    def __init__(self) -> None:
        self.now_s, self.ends_s = 0.0, float("inf")
        self._map: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self._map[fileobj] = key = selectors.SelectorKey(fileobj, int(fileobj), events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._map.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self.now_s += max(0.0, timeout)
        if self.now_s > self.ends_s:
            raise RuntimeError(f"it is {self.now_s:.0f} s, and somebody still waits")
        return []

    def get_map(self) -> Any:
        return self._map


class VirtualLoop(asyncio.SelectorEventLoop):
    """See above."""

    def __init__(self) -> None:
        self._clock = _NoSockets()
        self.begun: list[asyncio.Task[Any]] = []  # kept, so that nothing closes the coroutines of the dead
        self.is_over = False
        self.ahead_s = 0.0  # by which the clocks of all were set wrong
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s

    def must_end(self, after_s: float) -> None:
        """Who waits longer waits for somebody who is dead."""
        self._clock.ends_s = after_s

    def wall_s(self) -> float:
        """Seconds since 1970 by the clock of the process that asks."""
        process = PROCESS.get()
        return BEGINNING_S + self.ahead_s + self.time() + (process.skew_s if process else 0.0)

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        return self._owned(handle, context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        self._owned(handle, context)
        return handle

    def create_task(self, coro: Any, **more: Any) -> asyncio.Task[Any]:
        task = super().create_task(coro, **more)
        self.begun.append(task)
        return task

    def _owned(self, handle: asyncio.Handle, context: Context | None) -> asyncio.Handle:
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if self.is_over or (process is not None and not process.step()):
            handle.cancel()
        return handle

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """At once: a thread would have an order of its own."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def bury(self, process: Process) -> None:
        """Drop what a dead process had scheduled."""
        for handle in (*self._ready, *self._scheduled):  # type: ignore[attr-defined]
            if handle._context is not None and handle._context.get(PROCESS) is process:
                handle.cancel()

    def spawn(self, process: Process, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of this process, and of it whatever it begins."""
        context = copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(work, context=context)


def close_quietly(loop: VirtualLoop) -> None:
    """End a world: what is left of the living and the dead is closed without a word."""
    loop.set_exception_handler(lambda _loop, _context: None)
    loop.run_until_complete(_bury_all(loop))
    loop.close()


async def _bury_all(loop: VirtualLoop) -> None:
    """What they begin while they are closed is closed too, and never runs."""
    loop.is_over = True
    for task in loop.begun:
        if not task.done() and task is not asyncio.current_task():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            _close(task.get_coro())
    loop.is_over = False


def _close(coroutine: Any) -> None:
    """A coroutine that waits again while it is closed is closed again."""
    for _ in range(10):
        try:
            coroutine.close()
        except BaseException:
            continue
        return
