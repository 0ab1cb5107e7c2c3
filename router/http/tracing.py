"""ASGI middleware: a span for each request that calls a model, below its client's trace; needs the extra `otel`.

A trace that is not recorded goes by at the price of a look at its header: OpenTelemetry is not asked.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.gateway.traced import OPERATIONS, RECORDED, RecordedTrace

_CONTEXT = TraceContextTextMapPropagator()
_NAMES = (b"traceparent", b"tracestate")
_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]([0-9a-f])(-.*)?")
_SAMPLED = b"13579bdf"  # last digits of flags that say so


class Tracing:
    """Wraps an application. `path_of` gives the path of a request that calls a model, and None for all others.

    `drawn` says whether a request is recorded whose client says nothing of a trace.
    """

    def __init__(
        self, app: ASGIApp, tracer: Tracer, path_of: Callable[[Scope], str | None], *, drawn: Callable[[], bool]
    ) -> None:
        self._app = app
        self._tracer = tracer
        self._path_of = path_of
        self._drawn = drawn

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path = self._path_of(scope)
        if path is None or not self._is_recorded(scope):
            return self._app(scope, receive, send)
        return self._recorded(path, scope, receive, send)

    def _is_recorded(self, scope: Scope) -> bool:
        """As its client decided, where that can be read, and else by chance."""
        said = next((value for name, value in scope["headers"] if name == b"traceparent"), None)
        parent = _PARENT.fullmatch(said) if said is not None else None
        return self._drawn() if parent is None else parent[1] in _SAMPLED

    async def _recorded(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _NAMES}
        span = self._tracer.start_span(f"POST {path}", context=_CONTEXT.extract(carrier), kind=SpanKind.SERVER)
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
