"""Whether the client of a request is still there and its time not over: if not, the request's task is cancelled.

Watching needs a task, which costs more than relaying a short answer does, so it begins after 20 ms.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal, cast

from starlette.types import Receive

WATCHED_AFTER_S: Final = 0.02


class Presence:
    """Made by the task it may cancel, which releases it; `ended` says why it did."""

    def __init__(self, receive: Receive, *, longest_s: float) -> None:
        self.ended: Literal["gone", "overdue"] | None = None
        self._receive = receive
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._loop = asyncio.get_running_loop()
        self._over_at = self._loop.time() + longest_s
        self._timer = self._loop.call_later(min(WATCHED_AFTER_S, longest_s), self._watch)
        self._watching: asyncio.Task[None] | None = None

    def release(self) -> None:
        """Look no longer: the answer is about to be whole."""
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _watch(self) -> None:
        self._watching = self._loop.create_task(self._until_gone())
        self._timer = self._loop.call_at(self._over_at, self._end, "overdue")

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end("gone")

    def _end(self, why: Literal["gone", "overdue"]) -> None:
        if self.ended is None:
            self.ended = why
            self._task.cancel()
