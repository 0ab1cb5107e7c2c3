"""The application: what calls a model by way of Inference, everything else by FastAPI, both over one runtime.

It is ASGI and no more, for any server and under any middleware. Opening the runtime is its lifespan; what cannot be
opened stops the start.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.errors import InvalidRequest, NoCandidate, PointsmanError
from router.gateway.types import ServedRequest
from router.http import (
    admin,
    conversations,
    counting,
    decisions,
    histories,
    litellm_api,
    operations,
    overview,
    prices,
    proofs,
)
from router.http import models as surface
from router.http.auth import Authentication
from router.http.connections import CONNECTIONS
from router.http.conversations import ResponsesKept
from router.http.declared import DeclaredOwners
from router.http.doors import REQUEST_ID, Doors
from router.http.errors import error_body, error_headers
from router.http.head_limits import Connections, HeadLimits
from router.http.inference import GONE, Inference, path_of
from router.http.intake import BodyLimits, Intake
from router.http.models import Ready
from router.http.operations import Operators
from router.http.page import about, files
from router.http.schemas import PATHS
from router.http.stopping import Stopping
from router.settings.server_section import Server as ServerSection
from router.types import Principal
from router.wiring import Runtime

LOG = logging.getLogger("pointsman")
_CORS: dict[str, Any] = {"allow_methods": ["*"], "allow_headers": ["*"], "expose_headers": ["*"]}
SETTLING_S = 5.0  # for what the server cut at the end of its drain to be settled before the stores close
REFUSED = "refused"  # in the state of a request: the code of its error
GARBAGE = 20_000  # containers made and not yet freed before the collector looks at the young ones
Open = Callable[[], AbstractAsyncContextManager[Runtime]]


class App:
    """ASGI. `open_runtime` opens stores, backends and views, and closes them again."""

    def __init__(self, open_runtime: Open) -> None:
        self._open_runtime = open_runtime
        self._serve: ASGIApp | None = None  # once it is open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await (self._serve or _not_open)(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._open_runtime() as runtime:
                await self._run(runtime, scope, receive, send)
        except PointsmanError as error:
            await send({"type": "lifespan.startup.failed", "message": error.message})
        except Exception as error:
            LOG.exception("the gateway could not start")
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def _run(self, runtime: Runtime, scope: Scope, receive: Receive, send: Send) -> None:
        stopping = Stopping(runtime.settings.server.grace_s)
        async with _telemetry(runtime, stopping):
            with stopping.on_sigterm():
                self._serve = build(runtime, stopping)
                connections = Connections(head_limits(runtime.settings.server), runtime.metrics.refused_early)
                stopping.at_its_end = connections.end
                scope.setdefault("state", {})[CONNECTIONS] = connections
                _settle_garbage()
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await stopping.quiet(SETTLING_S)


def counted(app: ASGIApp, answered: Callable[[ServedRequest, str], None]) -> ASGIApp:
    """Tells of each request what became of it, and the pattern of its route."""

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        status, began = GONE, time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, sending)
        finally:
            if scope["type"] == "http":
                route = str(getattr(scope.get("route"), "path", "other"))
                answered(_served_request(scope, status, time.perf_counter() - began), route)

    return counting


def _served_request(scope: Scope, status: int, seconds: float) -> ServedRequest:
    state = scope.get("state", {})
    reason = "ok" if status < 400 else str(state.get(REFUSED, "client_gone" if status == GONE else "http_error"))
    request_id = scope.get(REQUEST_ID, b"-").decode("latin-1")
    return ServedRequest(
        time.time(), scope["method"], seconds, path_of(scope), request_id, status, reason, state.get("principal")
    )


async def _not_open(scope: Scope, receive: Receive, send: Send) -> None:
    """Where a server began without the lifespan, or before it."""
    body = error_body(NoCandidate("the gateway is not open", code="not_open"), path_of(scope))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _telemetry(runtime: Runtime, stopping: Stopping) -> AbstractAsyncContextManager[None]:
    """The listener of its own for operators, where the settings ask for one."""
    app = operations.unguarded(readiness(runtime, stopping), runtime.metrics_page)
    return operations.listening(runtime.settings.telemetry.listen, app)


def _settle_garbage() -> None:
    """What the start made stays: the collector need not look at it again, nor at requests before thousands are open."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 20)


def readiness(runtime: Runtime, stopping: Stopping) -> Ready:
    """What names the parts that keep the gateway from serving."""

    async def missing() -> dict[str, str]:
        return {"gateway": "it is stopping"} if stopping.began else await runtime.missing()

    return missing


def build(runtime: Runtime, stopping: Stopping) -> ASGIApp:
    """The whole application, over an open runtime."""
    server = runtime.settings.server
    authentication = Authentication(runtime.keys, clock=runtime.clock)
    kept = ResponsesKept(runtime.stores.conversations, runtime.settings.responses)
    inference = Inference(runtime.gateway, authentication, kept, stopping, runtime.crowd, longest_s=server.longest_s)
    rest = other_routes(runtime, authentication, kept, readiness(runtime, stopping))

    noted = counted(rest, runtime.metrics.answered)

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        hot = scope["type"] == "http" and scope["method"] == "POST" and path_of(scope) in PATHS
        if hot:
            await inference(scope, receive, send)
            return
        with contextlib.suppress(Exception):  # the handlers have told and logged it; what had begun is cut short
            await noted(scope, receive, send)

    served: ASGIApp = route
    if server.cors_origins:
        served = CORSMiddleware(route, **_CORS, allow_origins=server.cors_origins)
    if runtime.tracer is not None:
        served = _traced(served, runtime)
    return Intake(Doors(served), body_limits(server), stopping)


def _traced(app: ASGIApp, runtime: Runtime) -> ASGIApp:
    from router.http.tracing import Tracing  # noqa: PLC0415  (only with the extra `otel`)

    traces, chance = runtime.settings.telemetry.traces, random.Random()  # seeded by the system in each process
    share = traces.share if traces is not None else 0.0

    def path(scope: Scope) -> str | None:
        is_model_route = scope["type"] == "http" and scope["method"] == "POST" and path_of(scope) in PATHS
        return path_of(scope) if is_model_route else None

    return Tracing(app, runtime.tracer, path, drawn=lambda: chance.random() < share)


def head_limits(server: ServerSection) -> HeadLimits:
    """What a connection may send before it is a request."""
    return HeadLimits(
        head_bytes=server.max_head_bytes,
        headers=server.max_headers,
        head_s=server.head_s,
        idle_s=server.idle_s,
        stalled_s=server.stalled_s,
        connections=server.max_connections,
        per_address=server.max_connections_per_address,
        body_bytes=server.max_body_bytes,
    )


def body_limits(server: ServerSection) -> BodyLimits:
    """What a request may send."""
    return BodyLimits(
        body_bytes=server.max_body_bytes,
        grace_s=server.body_s,
        bytes_per_s=server.body_bytes_per_s,
        longest_s=server.longest_s,
    )


def other_routes(runtime: Runtime, authentication: Authentication, kept: ResponsesKept, ready: Ready) -> FastAPI:
    """What calls no model."""
    declared = DeclaredOwners(lambda: runtime.settings, runtime.path)
    rest = FastAPI(title="Pointsman", version=runtime.version, docs_url=None, redoc_url=None, openapi_url=None)
    rest.include_router(
        operations.routes(rest, Operators(authentication, runtime.settings.telemetry), runtime.metrics_page)
    )
    rest.include_router(surface.health(ready))
    rest.include_router(about.routes(lambda: runtime.settings, version=runtime.version))
    rest.include_router(files.routes(lambda: runtime.settings.page))
    rest.include_router(surface.routes(runtime.gateway, authentication))
    rest.include_router(
        decisions.routes(runtime.gateway, runtime.stores, authentication, rules=runtime.settings.feedback)
    )
    rest.include_router(counting.routes(runtime.gateway, authentication))
    rest.include_router(
        admin.routes(
            runtime.stores,
            authentication,
            clock=runtime.clock,
            changed=runtime.keys.forget,
            declared=declared,
            forget=runtime.gateway.forget_answers,
        )
    )
    rest.include_router(overview.routes(runtime, authentication))
    rest.include_router(proofs.routes(runtime, authentication))
    rest.include_router(prices.routes(runtime, authentication))
    rest.include_router(histories.routes(runtime.gateway, runtime.stores, authentication, runtime.learning))
    rest.include_router(
        litellm_api.routes(
            runtime.gateway, runtime.stores, authentication, clock=runtime.clock, changed=runtime.keys.forget
        )
    )
    rest.include_router(conversations.routes(kept, authentication))
    shape_errors(rest, runtime.metrics.turned_away)
    return rest


def shape_errors(rest: FastAPI, turned_away: Callable[[int, str, str], None]) -> None:
    """Every error leaves in the API's own shape, never FastAPI's `detail`."""

    @rest.exception_handler(PointsmanError)
    async def known(request: Request, error: PointsmanError) -> Response:
        principal: Principal | None = getattr(request.state, "principal", None)
        setattr(request.state, REFUSED, error.code or error.type)
        turned_away(error.status, error.code or error.type, principal.tenant if principal is not None else "")
        headers = {key.decode(): value.decode() for key, value in error_headers(error)}
        return Response(error_body(error, request.url.path), error.status, headers)

    @rest.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return await known(request, _first(error))

    @rest.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        wrong_method = request.url.path in PATHS  # a POST there never comes here
        status, detail = (405, "this path takes POST") if wrong_method else (error.status_code, error.detail)
        code = {404: "unknown_url", 405: "method_not_allowed"}.get(status, "http_error")
        if detail == "Not Found":
            detail = f"there is no such path. Models of text are served, at {', '.join(PATHS)}"
        message = f"{request.method} {request.url.path}: {detail}"
        return await known(request, InvalidRequest(message, status=status, code=code))

    @rest.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return await known(request, PointsmanError("the gateway failed on this request; its log says why"))


def _first(error: RequestValidationError) -> InvalidRequest:
    """The first thing pydantic found, with its place; inputs are not echoed."""
    found: dict[str, Any] = dict(error.errors()[0])
    place = ".".join(str(part) for part in found["loc"] if part not in ("body", "query", "path"))
    text = str(found["msg"]).removeprefix("Value error, ")
    return InvalidRequest(f"{place}: {text}" if place else text, param=place or None, code="invalid_value")
