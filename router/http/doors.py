"""Where clients knock: paths with and without /v1, Azure's paths, JSON under any content type, an id on every answer.

An ASGI middleware that changes the scope alone; it reads no body. It cannot fail.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from router.http.schemas import PATHS

DEPLOYMENT = "pointsman.deployment"  # key of the scope: the model that an Azure path names
REQUEST_ID = "pointsman.request_id"  # … the id of a request that calls no model
_ROUTES = frozenset({"chat", "completions", "embeddings", "responses", "messages", "models", "route", "feedback"})
_AZURE = re.compile(r"/openai/deployments/(?P<name>.+?)(?P<rest>/(?:chat/completions|completions|embeddings))")
_JSON = (b"content-type", b"application/json")


class Doors:
    """Brings every path that clients of OpenAI, Azure and Anthropic use to the one it stands for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _brought(scope)
        if scope["method"] == "POST" and scope["path"] in PATHS:  # its answers have their ids
            await self._app(scope, receive, send)
        else:
            scope = _as_json(scope)
            await self._app(scope, receive, _with_id(scope, send))


def _brought(scope: Scope) -> Scope:
    """The scope with the path that is served here."""
    path: str = scope["path"]
    if path.startswith("/v1/"):
        return scope
    root = scope.get("root_path", "")
    path = path.removeprefix(root)
    if (azure := _AZURE.fullmatch(path)) is not None:
        return {**scope, "path": f"{root}/v1{azure['rest']}", DEPLOYMENT: azure["name"]}
    path = path.removeprefix("/openai")
    first = path.removeprefix("/v1").split("/", 2)[1] if path.count("/") else ""
    if first in _ROUTES:
        return {**scope, "path": f"{root}/v1{path.removeprefix('/v1')}"}
    return scope


def _as_json(scope: Scope) -> Scope:
    """Every body here is JSON, whatever `curl -d` calls it."""
    if scope["method"] not in {"POST", "PUT", "PATCH"}:
        return scope
    others = [header for header in scope["headers"] if header[0] != b"content-type"]
    return {**scope, "headers": [*others, _JSON]}


def _with_id(scope: Scope, send: Send) -> Send:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    request_id = scope[REQUEST_ID] = given or b"req-%b" % secrets.token_hex(12).encode()

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if all(name.lower() != b"x-request-id" for name, _ in headers):
                message = {**message, "headers": [*headers, (b"x-request-id", request_id)]}
        await send(message)

    return sending
