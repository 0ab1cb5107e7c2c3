"""Models and health: what clients and load balancers look at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from backends.declared import NOTHING, Declared
from router.gateway.eligibility import nobody, not_up
from router.gateway.serving import Gateway
from router.gateway.types import Options
from router.http.auth import Authentication
from router.types import Model

Ready = Callable[[], Awaitable[dict[str, str]]]


def routes(gateway: Gateway, authentication: Authentication) -> APIRouter:
    """The router of what may be asked for."""
    router = APIRouter()

    def shown(model: Model) -> dict[str, object]:
        backend = gateway.decider.catalogue.backends.get(model.backend)
        declared = (
            next((each.declared for each in backend.models if each.name == model.upstream), NOTHING)
            if backend
            else NOTHING
        )
        return describe(model, not_up(model, lambda name: name not in gateway.decider.down), declared)

    def unroutable() -> Mapping[str, str]:
        return gateway.decider.options.names.unroutable

    @router.get("/v1/models")
    async def models(request: Request, return_wildcard_routes: bool = False) -> dict[str, object]:
        """Aliases and an application's own names first, then every model the key may use.

        `not_routable` beside them: entries of the settings that nothing can be sent to, each with the line to add.
        `return_wildcard_routes` adds the wildcards, and every model under them that has a price.
        """
        allowed = (await authentication.of(request.scope["headers"])).allowed_models
        catalogue = gateway.decider.catalogue
        mine = [shown(m) for m in catalogue.models if may_use(m, allowed)]
        if return_wildcard_routes and catalogue.wildcards:
            mine += [alias(name) for name in catalogue.wildcards.names if allowed is None or name in allowed]
            mine += [shown(m) for m in await asyncio.to_thread(catalogue.wildcards.listed) if may_use(m, allowed)]
        names = [alias(name) for name in alias_names(gateway.decider.options)]
        gone = [{"id": name, "reason": why} for name, why in unroutable().items() if allowed is None or name in allowed]
        return {"object": "list", "data": names + mine, "not_routable": gone}

    @router.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, object]:
        allowed = (await authentication.of(request.scope["headers"])).allowed_models
        if name in alias_names(gateway.decider.options):
            return alias(name)
        for each in gateway.decider.catalogue.among(name):
            if each.name == name and may_use(each, allowed):
                return shown(each)
        raise nobody(name, {}, unroutable() if allowed is None or name in allowed else {})

    return router


def health(ready: Ready) -> APIRouter:
    """The router of whether it works. `ready` names what is not: an empty answer is ready."""
    router = APIRouter()

    def look(path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # monitors often ask by HEAD
        return lambda answer: router.get(path)(router.head(path, include_in_schema=False)(answer))

    @look("/health")
    async def alive() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @look("/health/liveliness")
    @look("/health/liveness")
    async def liveliness() -> str:
        """The same in LiteLLM's words."""
        return "I'm alive!"

    @look("/ready")
    async def readiness(response: Response) -> dict[str, object]:
        """The stores answer and at least one backend is up."""
        missing = await ready()
        response.status_code = 503 if missing else 200
        return {"status": "not ready" if missing else "ready", "missing": missing}

    @look("/health/readiness")
    async def healthy(response: Response) -> dict[str, object]:
        """The same in LiteLLM's words."""
        missing = await ready()
        response.status_code = 503 if missing else 200
        db = "disconnected" if "store" in missing else "connected"
        return {"status": "unhealthy" if missing else "healthy", "db": db}

    return router


def alias_names(options: Options) -> list[str]:
    """What a client may ask for instead of a model."""
    return ["auto", *(f"auto:{name}" for name in options.aliases), *options.names.mapped]


def may_use(model: Model, allowed: Collection[str] | None) -> bool:
    """Whether a key that allows these names, all where it is None, allows this model."""
    return allowed is None or model.name in allowed or model.wildcard in allowed


def alias(name: str) -> dict[str, object]:
    """An alias in OpenAI's shape of a model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "pointsman"}


def describe(model: Model, unavailable: str | None, declared: Declared) -> dict[str, object]:
    """A model in OpenAI's shape, with what is particular here beside it. Why nobody is sent there now, and which pages
    of its engine said what it lacks: the settings count before them, the provider's list after."""
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": model.backend,
        "parent": model.parent,
        "max_model_len": model.context_tokens,
        "capabilities": sorted(model.capabilities),
        "lacks": sorted(model.lacks),
        "reported_by": list(declared.sources),
        "bits": model.bits,
        "draining": model.draining,
        "unavailable": unavailable,
    }
