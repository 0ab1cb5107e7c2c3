"""/admin/v1/proof: the latest report on what the log proves, and the making of a new one in a process of its own.

A report that could not be made is said, and the one before stays.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
from fastapi import APIRouter

from router.http.auth import Authentication, key_first
from router.learning.proof_worker import prove_elsewhere
from router.settings.paths import store_url
from router.wiring import Runtime, now_ms

LOG = logging.getLogger("pointsman.proof")
ROOM, OWNER = "proof", "log"  # of the archive


class Prover:
    """Makes one report at a time, and keeps the latest in the store for all workers."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._making: asyncio.Task[None] | None = None
        self.failed = ""

    @property
    def is_making(self) -> bool:
        """Whether this worker makes one now."""
        return self._making is not None and not self._making.done()

    def start(self) -> None:
        """Make one, unless one is being made."""
        if not self.is_making:
            self._making = asyncio.get_running_loop().create_task(self._make())

    async def latest(self) -> Any:
        """The report that was made last; None where there is none. Raises: StoreUnavailable."""
        kept = [each.body async for each in self._runtime.stores.archive.each(ROOM, OWNER)]
        return msgspec.json.decode(kept[-1]) if kept else None

    async def _make(self) -> None:
        archive = self._runtime.stores.archive
        try:
            report = await prove_elsewhere(store_url(self._runtime.settings))
            made = msgspec.json.encode({"made_ms": now_ms(), **msgspec.json.decode(report)})
            await archive.drop(ROOM, OWNER)
            await archive.put(ROOM, OWNER, {"latest": made})
            self.failed = ""
        except Exception as error:
            self.failed = "the report could not be made; the gateway's log says why"
            LOG.error("no proof was made: %s", error)


def routes(runtime: Runtime, authentication: Authentication) -> APIRouter:
    """The router, for holders of an admin key."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"], route_class=key_first(authentication, admin=True))
    prover = Prover(runtime)

    async def state() -> dict[str, object]:
        return {
            "object": "proof",
            "making": prover.is_making,
            "failed": prover.failed or None,
            "report": await prover.latest(),
        }

    @router.get("/proof")
    async def proof() -> dict[str, object]:
        """The latest report: quality over time, what other policies would have earned and cost, and what was saved."""
        return await state()

    @router.post("/proof", status_code=202)
    async def prove() -> dict[str, object]:
        """Make a new one from the log as it is now; it takes seconds to minutes."""
        prover.start()
        return await state()

    return router
