"""The engine alone as an OpenAI-compatible HTTP server, with the endpoints and metric names of vLLM.

Errors are OpenAI's `{"error": …}`: 400 and 404 for what the caller did wrong, 429 when the queue is full.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from backends.anyprec.engine.requests import Rejected
from backends.anyprec.engine.responses import event
from backends.anyprec.engine.service import CHAT, TEXT, Broken, Exchange, Service
from backends.anyprec.engine.tokenizer import BadMessages
from backends.anyprec.engine.worker import QueueFull

HANG_UP_POLL_S = 0.1  # how soon a plain answer nobody waits for is cut off


def names_of(folders: Iterable[Path]) -> dict[str, Path]:
    """Model names for store folders: each folder's own name."""
    return {Path(folder).resolve().name: Path(folder) for folder in folders}


def serve(dirs: Iterable[Path], *, host: str = "127.0.0.1", port: int = 8000, queue: int = 64) -> None:
    """Serve stores until interrupted; each is named after its folder. Raises: AnyprecError while opening them."""
    uvicorn.run(application(names_of(dirs), queue=queue), host=host, port=port, log_level="warning")


def application(stores: Mapping[str, Path], *, queue: int = 64) -> Starlette:
    """The ASGI application. Raises: AnyprecError for a store that cannot be opened."""
    service = Service(stores, queue=queue)
    endpoints = Endpoints(service)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    routes = [
        Route("/v1/models", endpoints.models),
        Route(CHAT, endpoints.generate, methods=["POST"]),
        Route(TEXT, endpoints.generate, methods=["POST"]),
        Route("/tokenize", endpoints.tokenize, methods=["POST"]),
        Route("/health", endpoints.health),
        Route("/metrics", endpoints.metrics),
    ]
    handlers: Mapping[Any, Any] = {Rejected: _rejected, QueueFull: _full, Broken: _broken, HTTPException: _http}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


class Endpoints:
    """What each path answers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def models(self, _: Request) -> Response:
        """Every store and every width, with its parent."""
        data = [
            {
                "id": model.name,
                "object": "model",
                "created": 0,
                "owned_by": "pointsman",
                "root": str(model.path),
                "parent": model.parent,
                "max_model_len": model.context_tokens,
            }
            for model in self._service.models()
        ]
        return _json({"object": "list", "data": data})

    async def health(self, _: Request) -> Response:
        """200 while the worker runs."""
        return Response(status_code=200 if self._service.alive else 503)

    async def metrics(self, _: Request) -> Response:
        """vLLM's gauges, one series a store."""
        gauges: dict[str, list[str]] = {
            "vllm:num_requests_running": [],
            "vllm:num_requests_waiting": [],
            "vllm:kv_cache_usage_perc": [],
        }
        for name, load in self._service.loads().items():
            values = (load.running, load.waiting, load.cache_usage)
            for lines, value in zip(gauges.values(), values, strict=True):
                lines.append(f'{{model_name="{name}"}} {float(value)}')
        text = "".join(
            f"# TYPE {gauge} gauge\n" + "".join(f"{gauge}{line}\n" for line in lines) for gauge, lines in gauges.items()
        )
        return Response(text, media_type="text/plain; version=0.0.4")

    async def tokenize(self, request: Request) -> Response:
        """Ids of a `prompt`, or of `messages` through the chat template."""
        body = await _fields(request)
        loaded, _ = self._service.resolve(str(body.get("model", "")))
        text: Any = body.get("prompt")
        if "messages" in body:
            try:
                text = loaded.tokenizer.prompt(body["messages"], tools=body.get("tools"))
            except BadMessages as error:
                raise Rejected(str(error), param="messages") from error
        if not isinstance(text, str):
            raise Rejected("prompt must be a string", param="prompt", code="invalid_type")
        tokens = loaded.tokenizer.encode(text)
        return _json({"count": len(tokens), "max_model_len": loaded.model.context, "tokens": tokens})

    async def generate(self, request: Request) -> Response:
        """A chat answer or a completion, whole or as a stream."""
        fields = await _fields(request)
        exchange = self._service.ask(request.url.path, fields, request_id=request.headers.get("x-request-id"))
        if exchange.streams:
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(_events(exchange), media_type="text/event-stream", headers=headers)
        try:
            return Response(await _unless_gone(request, exchange), media_type="application/json")
        finally:
            exchange.close()


async def _events(exchange: Exchange) -> AsyncIterator[bytes]:
    try:
        while block := await exchange.read():
            yield block
    except Broken as error:
        yield event({"error": {"message": str(error), "type": "internal_server_error", "param": None, "code": None}})
    finally:
        exchange.close()


async def _unless_gone(request: Request, exchange: Exchange) -> bytes:
    """The body, unless the client hangs up first. Raises: ClientDisconnect, Broken."""
    task = asyncio.ensure_future(exchange.body())
    try:
        while not (await asyncio.wait({task}, timeout=HANG_UP_POLL_S))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
        return await task
    finally:
        task.cancel()


async def _fields(request: Request) -> dict[str, Any]:
    try:
        return msgspec.json.decode(await request.body(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Rejected(f"the body is not a JSON object: {error}") from error


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = content if isinstance(content, bytes) else msgspec.json.encode(content)
    return Response(body, status_code=status, media_type="application/json", headers=headers)


def _error(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


async def _rejected(_: Request, error: Rejected) -> Response:
    return _json(error.body, error.status)


async def _full(_: Request, error: QueueFull) -> Response:
    return _json(_error(str(error), "rate_limit_error"), 429, {"Retry-After": "1"})


async def _broken(_: Request, error: Broken) -> Response:
    return _json(_error(str(error), "internal_server_error"), 500)


async def _http(_: Request, error: HTTPException) -> Response:
    return _json(_error(str(error.detail), "invalid_request_error"), error.status_code)
