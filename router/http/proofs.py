"""/admin/v1/proof: the latest report on what the log proves, and the making of a new one in a process of its own.

Report and progress are in the store, so that every worker and gateway says the same. A report that could not be made is
said, and the one before stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import APIRouter

from router.errors import StoreUnavailable
from router.http.auth import Authentication, key_first
from router.learning.proof_worker import prove_elsewhere
from router.ports import Archive
from router.settings.paths import store_url
from router.types import now_ms
from router.wiring import Runtime

LOG = logging.getLogger("pointsman.proof")
ROOM, PROGRESS, OWNER = "proof", "proof_progress", "log"  # of the archive
MARK_EVERY_S = 5.0  # while one is made …
STALE_S = 30.0  # … and one without a mark for so long is made no more
_FAILED = "the report could not be made; the gateway's log says why"
_ENDED = "the gateway that made a report ended before it was done"


class Progress(msgspec.Struct, frozen=True):
    """What the gateway that makes, or made, a report says of it."""

    at_ms: int
    making: bool
    failed: str | None = None

    def seen(self, at_ms: int) -> Progress:
        """As it is to be read now."""
        if self.making and at_ms - self.at_ms > STALE_S * 1000:
            return Progress(self.at_ms, making=False, failed=_ENDED)
        return self


class Prover:
    """Makes one report at a time, for all who share the store. `prove`: a report as JSON."""

    def __init__(self, archive: Archive, prove: Callable[[], Awaitable[bytes]], *, clock: Callable[[], int]) -> None:
        self._archive, self._prove, self._clock = archive, prove, clock
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make one, unless one is being made. Raises: StoreUnavailable."""
        async with self._starting:
            if not (await self.progress()).making:
                await self._mark(making=True)
                self._task = asyncio.get_running_loop().create_task(self._make())

    async def progress(self) -> Progress:
        """Whether one is being made, and why the last was not. Raises: StoreUnavailable."""
        kept = await self._newest(PROGRESS)
        return (
            Progress(0, making=False) if kept is None else msgspec.json.decode(kept, type=Progress).seen(self._clock())
        )

    async def latest(self) -> Any:
        """The report that was made last; None where there is none. Raises: StoreUnavailable."""
        kept = await self._newest(ROOM)
        return None if kept is None else msgspec.json.decode(kept)

    async def _newest(self, room: str) -> bytes | None:
        kept = [each.body async for each in self._archive.each(room, OWNER)]
        return kept[-1] if kept else None

    async def _replace(self, room: str, body: bytes) -> None:
        """At no moment is there none."""
        await self._archive.put(room, OWNER, {f"{self._clock()}-{secrets.token_hex(4)}": body}, most=1)

    async def _mark(self, *, making: bool, failed: str | None = None) -> None:
        await self._replace(PROGRESS, msgspec.json.encode(Progress(self._clock(), making, failed)))

    async def _make(self) -> None:
        marking = asyncio.ensure_future(self._keep_marking())
        failed = None
        try:
            report = msgspec.json.decode(await self._prove())
            await self._replace(ROOM, msgspec.json.encode({"made_ms": self._clock(), **report}))
        except Exception as error:
            failed = _FAILED
            LOG.error("no proof was made: %s", error)
        finally:
            marking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await marking
        with contextlib.suppress(StoreUnavailable):  # the mark goes stale
            await self._mark(making=False, failed=failed)

    async def _keep_marking(self) -> None:
        while True:
            await asyncio.sleep(MARK_EVERY_S)
            with contextlib.suppress(StoreUnavailable):  # the next one may get through
                await self._mark(making=True)


def routes(runtime: Runtime, authentication: Authentication) -> APIRouter:
    """The router, for holders of an admin key."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"], route_class=key_first(authentication, admin=True))
    prover = Prover(runtime.stores.archive, lambda: prove_elsewhere(store_url(runtime.settings)), clock=now_ms)

    async def state() -> dict[str, object]:
        progress = await prover.progress()
        return {
            "object": "proof",
            "making": progress.making,
            "failed": progress.failed,
            "report": await prover.latest(),
        }

    @router.get("/proof")
    async def proof() -> dict[str, object]:
        """The latest report: quality over time, what other policies would have earned and cost, and what was saved."""
        return await state()

    @router.post("/proof", status_code=202)
    async def prove() -> dict[str, object]:
        """Make a new one from the log as it is now; it takes seconds to minutes."""
        await prover.start()
        return await state()

    return router
