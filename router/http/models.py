"""Models and health: what clients and load balancers look at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

from router.errors import NotFound
from router.gateway.serving import Gateway
from router.gateway.types import Options
from router.http.auth import Authentication
from router.types import Model

Ready = Callable[[], Awaitable[dict[str, str]]]


def routes(gateway: Gateway, authentication: Authentication) -> APIRouter:
    """The router of what may be asked for."""
    router = APIRouter()

    @router.get("/v1/models")
    async def models(request: Request) -> dict[str, object]:
        """Aliases and an application's own names first, then every model the key may use."""
        principal = await authentication.of(request.scope["headers"])
        allowed = principal.allowed_models
        mine = [m for m in gateway.decider.catalogue.models if allowed is None or m.name in allowed]
        named = [alias(name) for name in alias_names(gateway.decider.options)]
        return {"object": "list", "data": named + [describe(model) for model in mine]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, object]:
        allowed = (await authentication.of(request.scope["headers"])).allowed_models
        if name in alias_names(gateway.decider.options):
            return alias(name)
        for each in gateway.decider.catalogue.models:
            if each.name == name and (allowed is None or name in allowed):
                return describe(each)
        raise NotFound(f"there is no model {name!r}", param="model", code="model_not_found")

    return router


def health(ready: Ready) -> APIRouter:
    """The router of whether it works. `ready` names what is not: an empty answer is ready."""
    router = APIRouter()

    @router.get("/health")
    @router.get("/health/liveliness")
    async def alive() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.get("/ready")
    @router.get("/health/readiness")
    async def readiness(response: Response) -> dict[str, object]:
        """The stores answer and at least one backend is up."""
        missing = await ready()
        response.status_code = 503 if missing else 200
        return {"status": "not ready" if missing else "ready", "missing": missing}

    return router


def alias_names(options: Options) -> list[str]:
    """What a client may ask for instead of a model."""
    return ["auto", *(f"auto:{name}" for name in options.aliases), *options.names.mapped]


def alias(name: str) -> dict[str, object]:
    """An alias in OpenAI's shape of a model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "pointsman"}


def describe(model: Model) -> dict[str, object]:
    """A model in OpenAI's shape, with what is particular here beside it."""
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": model.backend,
        "parent": model.parent,
        "max_model_len": model.context_tokens,
        "capabilities": sorted(model.capabilities),
        "bits": model.bits,
        "draining": model.draining,
    }
