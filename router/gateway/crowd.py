"""New requests wait while the event loop is behind, so that answers that have begun go on in time.

A loop that is late serves everybody late, the more the more it takes in. What it may take in is told by how late it was
when it last woke. Those that wait are let in as they came, a part of them at each look that finds the loop in time.
Beyond a number, and after a time, they are refused with Retry-After.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from router.errors import NoCandidate

PART: Final = 8  # of those that wait, one in so many is let in at each look, and never fewer than these
RETRY_AFTER_S: Final = 1.0
LOOK_EVERY_S: Final = 0.1


class Crowd:
    """Those that wait, in one worker."""

    def __init__(self, *, lag_s: float, waiting: int, wait_s: float) -> None:
        """lag_s: how late the loop may be; waiting: how many may wait, and wait_s, for how long."""
        self._lag_s = lag_s
        self._most = waiting
        self._wait_s = wait_s
        self._is_behind = False
        self.is_closed = False  # whether a request has to ask for its turn: the loop is behind, or others wait
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    def lagged(self, seconds: float) -> None:
        """How late the loop just woke."""
        self._is_behind = seconds > self._lag_s
        if not self._is_behind:
            for _ in range(min(len(self._waiting), max(PART, len(self._waiting) // PART))):
                turn = self._waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
        self.is_closed = self._is_behind or bool(self._waiting)

    async def turn(self) -> None:
        """At once where the loop is in time and nobody waits. Raises: NoCandidate, 503 with Retry-After."""
        if not self.is_closed:
            return
        if len(self._waiting) >= self._most:
            raise _refused(f"{self._most} requests wait already")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as problem:  # who was let in is no longer in the queue: nothing to look for there
            if turn in self._waiting:
                self._waiting.remove(turn)
            if isinstance(problem, TimeoutError):
                raise _refused(f"this one waited {self._wait_s:g} s") from None
            raise


async def watch_loop(*listeners: Callable[[float], None]) -> None:
    """Tell how much later than asked for the loop wakes what sleeps."""
    while True:
        due = time.perf_counter() + LOOK_EVERY_S
        await asyncio.sleep(LOOK_EVERY_S)
        late_s = max(0.0, time.perf_counter() - due)
        for listener in listeners:
            listener(late_s)


def _refused(why: str) -> NoCandidate:
    message = f"the gateway is behind with what it has taken in, and {why}; come again later"
    return NoCandidate(message, code="overloaded", retry_after_s=RETRY_AFTER_S)
