"""ASGI middleware: a span for each request that calls a model, below its client's trace; needs the extra `otel`.

A trace that is not recorded goes by at the price of a look at its header.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.gateway.traced import OPERATIONS, RECORDED, RecordedTrace

_CONTEXT = TraceContextTextMapPropagator()
_NAMES = (b"traceparent", b"tracestate")


class Tracing:
    """Wraps an application. `path_of` gives the path of a request that calls a model, and None for all others."""

    def __init__(self, app: ASGIApp, tracer: Tracer, path_of: Callable[[Scope], str | None]) -> None:
        self._app = app
        self._tracer = tracer
        self._path_of = path_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._path_of(scope)
        if path is None:
            await self._app(scope, receive, send)
            return
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _NAMES}
        parent = _CONTEXT.extract(carrier) if carrier else None
        span = self._tracer.start_span(f"POST {path}", context=parent, kind=SpanKind.SERVER)
        if not span.is_recording():
            await self._app(scope, receive, send)
            return
        await self._recorded(span, path, scope, receive, send)

    async def _recorded(self, span: trace.Span, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        found: dict[str, Any] = {"http.request.method": "POST", "http.route": path, "url.path": path}
        span.set_attributes(found | {"gen_ai.operation.name": OPERATIONS.get(path, "chat")})
        token = RECORDED.set(RecordedTrace(self._tracer, span, span))

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                _name_span(span, message)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            RECORDED.reset(token)
            span.end()


def _name_span(span: trace.Span, start: Message) -> None:
    """The head of the answer."""
    status = start["status"]
    span.set_attribute("http.response.status_code", status)
    headers = dict(start.get("headers", ()))
    if (request_id := headers.get(b"x-request-id")) is not None:
        span.set_attribute("pointsman.request.id", request_id.decode("latin-1"))
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
        span.set_attribute("error.type", str(status))
