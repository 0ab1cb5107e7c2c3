"""What operators look at: /metrics, /docs and the schema. They name tenants with their spend, so they are not for all.

Open to an admin's key, to the key made for it, and, unless the settings say otherwise, to this machine itself. A
listener of its own may serve /metrics, /health and /ready without a key, for a network that keeps others away.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from router.errors import Forbidden, SettingsError, Unauthenticated
from router.http.auth import Authentication, secret_of
from router.http.connections import Connection
from router.http.docs_page import HEADERS, page_of
from router.http.intake import BodyLimits, Intake
from router.http.models import Ready, health
from router.http.openapi import documented
from router.http.stopping import Stopping
from router.settings.telemetry_section import Telemetry

Page = Callable[[], Awaitable[bytes]]
_PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_HINT = "send an admin key or telemetry.key as 'Authorization: Bearer …', or ask from the gateway's own machine"


class Operators:
    """Who may look at operations."""

    def __init__(self, authentication: Authentication, rules: Telemetry) -> None:
        self._authentication = authentication
        self._key = rules.key.get_secret_value() if rules.key is not None else None
        self._open_to = rules.open_to

    async def check(self, request: Request) -> None:
        """Raises: Unauthenticated without a key, Forbidden with one that may not, StoreUnavailable."""
        if self._open_to == "everyone" or (self._open_to == "loopback" and is_loopback(request)):
            return
        found = dict(request.scope["headers"])
        secret = secret_of(found)
        if secret is None:
            raise Unauthenticated(f"{request.url.path} is for operators; {_HINT}")
        if self._key is not None and hmac.compare_digest(secret.encode(), self._key.encode()):
            return
        if not (await self._authentication.principal(secret)).admin:
            raise Forbidden(f"{request.url.path} is for operators; {_HINT}")


def is_loopback(request: Request) -> bool:
    """Whether this machine itself asks, and neither a proxy on it nor a page in its browser that named it otherwise."""
    if request.client is None or any(name in request.headers for name in _PROXIED):
        return False
    host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
    return _is_loopback(request.client.host) and (host == "localhost" or _is_loopback(host.strip("[]")))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def routes(app: FastAPI, operators: Operators, metrics: Page) -> APIRouter:
    """The router; `app` is the application whose schema is shown."""
    router = APIRouter(include_in_schema=False)

    @router.get("/metrics")
    async def metric(request: Request) -> Response:
        """Prometheus text."""
        await operators.check(request)
        return Response(await metrics(), media_type=_TEXT)

    @router.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        await operators.check(request)
        return HTMLResponse(page_of(documented(app), str(request.base_url)), headers=dict(HEADERS))

    @router.get("/openapi.json")
    async def schema(request: Request) -> dict[str, object]:
        await operators.check(request)
        return documented(app)

    return router


def unguarded(ready: Ready, metrics: Page) -> FastAPI:
    """What a listener of its own serves, to whoever reaches it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(health(ready))

    @app.get("/metrics")
    async def metric() -> Response:
        return Response(await metrics(), media_type=_TEXT)

    return app


class _Quiet(uvicorn.Server):
    """A server beside the one that handles the process's signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: they are the other's."""
        yield


@asynccontextmanager
async def listening(address: str | None, app: FastAPI) -> AsyncIterator[None]:
    """`app` at HOST:PORT while the context is open; worker processes share the port. Raises: SettingsError."""
    if address is None:
        yield
        return
    limited = Intake(app, BodyLimits(), Stopping(0))  # which tells the connection when a request ends
    config = uvicorn.Config(
        limited, http=Connection, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False
    )
    server = _Quiet(config)
    with _bound(address) as listener:
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving


def _bound(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, int(port)))
    except (OSError, OverflowError, ValueError) as error:
        listener.close()
        message = f"telemetry.listen: cannot listen on {address}: {error}"
        raise SettingsError(message, param="telemetry.listen") from None
    return listener
