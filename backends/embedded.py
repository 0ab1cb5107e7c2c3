"""The project's own engine as a backend: any-precision stores run by numpy in this process, off the event loop.

Fails with Refused for the caller's mistakes, with Overloaded when the queue is full, and with Failed when the engine
breaks before the first byte; opening a store raises AnyprecError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from backends.anyprec.engine.requests import Rejected
from backends.anyprec.engine.service import CHAT, TEXT, Broken, EmbeddedModel, Exchange, Service
from backends.anyprec.engine.worker import QueueFull
from backends.errors import Failed, Overloaded, Refused, UnsupportedRequest
from backends.openai import merged_fields
from backends.sse import EventStream
from backends.types import Reply, Request
from backends.unsupported import is_unsupported
from backends.whole import whole

RETRY_AFTER_S = 1.0


class EmbeddedBackend:
    """Stores by name; `name@3bit`, or vllm_xargs.anyprec_bits, chooses the width."""

    def __init__(self, stores: Mapping[str, Path], *, name: str = "embedded", queue: int = 64) -> None:
        """Opens every store and checks its checksums. Raises: AnyprecError."""
        self.name = name
        self._service = Service(stores, queue=queue)

    def models(self) -> list[EmbeddedModel]:
        """Every store and every width, as names to ask for."""
        return self._service.models()

    async def send(self, request: Request) -> Reply:
        """Returns when the first event, or the whole of a plain answer, is there. Raises: BackendError."""
        exchange = self._ask(request)
        try:
            if request.stream:
                return await self._stream(exchange, request)
            return whole(await exchange.body(), request=request, backend=self.name)
        except Broken as error:
            raise Failed(str(error), backend=self.name) from error
        except BaseException:
            exchange.close()
            raise

    @property
    def busy(self) -> bool:
        """Whether any answer is running or waiting."""
        return any(load.running or load.waiting for load in self._service.loads().values())

    async def ping(self) -> bool:
        """Whether the worker runs."""
        return self._service.alive

    async def aclose(self) -> None:
        """End what is under way and stop the worker's thread."""
        await asyncio.to_thread(self._service.close)

    def _ask(self, request: Request) -> Exchange:
        if request.path not in (CHAT, TEXT):
            rejected = Rejected(f"the embedded engine does not serve {request.path}", status=404, code="not_found")
            raise UnsupportedRequest(str(rejected), backend=self.name, status=404, body=rejected.body, no_path=True)
        try:
            fields = {**merged_fields(request), "stream": request.stream}
            return self._service.ask(request.path, fields, request_id=request.headers.get("x-request-id"))
        except Rejected as error:
            kind = UnsupportedRequest if is_unsupported(error.status, error.body) else Refused
            raise kind(str(error), backend=self.name, status=error.status, body=error.body) from error
        except QueueFull as error:
            raise Overloaded(str(error), backend=self.name, retry_after_s=RETRY_AFTER_S) from error

    async def _stream(self, exchange: Exchange, request: Request) -> Reply:
        async def read() -> bytes:
            try:
                return await exchange.read()
            except Broken as error:
                raise Failed(str(error), backend=self.name) from error

        reply = EventStream(
            read,
            exchange.close,
            request=request,
            backend=self.name,
        )
        await reply.start(read)
        return reply
