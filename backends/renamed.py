"""A backend that knows its model by a name of its own: replicas of one model may be served under different names."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from backends.types import Backend, Reply, Request


@dataclass(frozen=True, slots=True)
class Renamed:
    """Sends every request to `backend` with `model` in place of the request's own."""

    backend: Backend
    model: str

    async def send(self, request: Request) -> Reply:
        """See Backend.send."""
        return await self.backend.send(msgspec.structs.replace(request, model=self.model))

    async def ping(self) -> bool:
        """See Backend.ping."""
        return await self.backend.ping()

    async def aclose(self) -> None:
        """See Backend.aclose."""
        await self.backend.aclose()
