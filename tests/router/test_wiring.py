"""What is opened is closed."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from router.wiring import _running

pytestmark = pytest.mark.anyio


async def test_a_loop_that_swallows_one_cancellation_is_stopped_all_the_same() -> None:
    asked = 0

    async def deaf() -> None:
        nonlocal asked
        for _ in range(2):
            asked += 1
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    async with asyncio.timeout(10):
        async with _running(deaf):
            await asyncio.sleep(0)
    assert asked == 2
