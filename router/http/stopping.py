"""How the gateway stops: not ready first, then a grace in which it serves as before, then the server's own drain.

SIGTERM begins it. A second one, or SIGINT, ends the grace at once. Where signals are not its to take (another thread
than the main one) the server stops as it would without it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopping:
    """Whether it has begun, and the requests that are still served."""

    def __init__(self, grace_s: float) -> None:
        self.began = False
        self.in_flight = 0
        self.at_its_end: Callable[[], None] = lambda: None  # of the grace
        self._grace_s = grace_s

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Stand before the server's own handler while the context is open."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, server = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def finish() -> None:
            self.at_its_end()
            signal.signal(signal.SIGTERM, server)
            os.kill(os.getpid(), signal.SIGTERM)

        def begin(number: int, frame: FrameType | None) -> None:
            wait_s, self.began = 0.0 if self.began else self._grace_s, True
            loop.call_soon_threadsafe(loop.call_later, wait_s, finish)

        signal.signal(signal.SIGTERM, begin)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, server)

    async def quiet(self, within_s: float) -> None:
        """Until no request is served, or the time is over."""
        self.began = True
        until = asyncio.get_running_loop().time() + within_s
        while self.in_flight and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110  (once in a life)
            await asyncio.sleep(0.01)
