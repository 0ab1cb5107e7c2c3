"""/admin/v1/prices: what models cost, and other prices for those that the settings file does not price.

How it fails: a model that the file prices, and a program, are a Conflict; a name that no engine has is NotFound.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from router.catalogue.price_overrides import priced_by_file
from router.errors import Conflict, NotFound
from router.http.admin_views import FILE
from router.http.auth import Authentication, key_first
from router.settings.price_sections import PriceSection, written
from router.types import Model
from router.wiring import Runtime

API, LIST, STEPS = "api", "list", "steps"  # where a price is from, beside the file


def routes(runtime: Runtime, authentication: Authentication) -> APIRouter:
    """The router, for holders of an admin key. Other gateways follow within seconds."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"], route_class=key_first(authentication, admin=True))
    prices = runtime.fleet.prices  # the same for every fleet of this runtime

    async def change(request: Request, name: str, section: PriceSection | None) -> dict[str, object]:
        await prices.put(name, section)
        runtime.gateway.decider.catalogue = runtime.fleet.catalogue()
        by = request.state.principal.key_id
        said = None if section is None else _plain(section)
        await runtime.stores.audit.note("price.put" if section else "price.deleted", name, {"price": said, "by": by})
        found = [each for each in runtime.gateway.decider.catalogue.models if each.name == name]
        return _view(runtime, found[0]) if found else {"object": "price", "model": name, "source": API}

    @router.get("/prices")
    async def listed() -> dict[str, object]:
        """What every model costs today in USD per million tokens, where that is from, and what it will cost later."""
        data = [_view(runtime, each) for each in runtime.gateway.decider.catalogue.models]
        return {"object": "list", "data": data}

    @router.put("/prices/{model:path}")
    async def put(model: str, body: PriceSection, request: Request) -> dict[str, object]:
        """Another price for a model, in the form of `models[].price`: at once, and by `changes` from days to come."""
        _must_be_free(runtime, model)
        return await change(request, model, body)

    @router.delete("/prices/{model:path}")
    async def delete(model: str, request: Request) -> dict[str, object]:
        """Back to what its engine, its provider's list or `default_price` says, also where the file prices it now."""
        await prices.refresh()
        if model not in prices.sections:
            raise NotFound(f"The model {model!r} has no price of this API.", param="model")
        return await change(request, model, None)

    return router


def _must_be_free(runtime: Runtime, name: str) -> None:
    """Raises: Conflict, NotFound."""
    models = {each.name: each for each in runtime.gateway.decider.catalogue.models}
    if priced_by_file(runtime.settings, name) or (name in models and models[name].replica_prices):
        raise Conflict(f"The price of {name!r} is in {runtime.path or 'the settings'}: change it there.", param="model")
    if name in runtime.settings.programs:
        raise Conflict(f"{name!r} is a program, which costs what its steps do: change their prices.", param="model")
    found = {each.name for backend in runtime.fleet.backends.values() for each in backend.models}
    if name not in found | models.keys() | runtime.fleet.prices.sections.keys():
        raise NotFound(f"There is no model {name!r}.", param="model")


def _view(runtime: Runtime, model: Model) -> dict[str, object]:
    of_file = next((each.price for each in runtime.settings.models if each.name == model.name), None)
    section = of_file or runtime.fleet.prices.sections.get(model.name)
    if model.program is not None:
        source, section = STEPS, None
    elif of_file is not None or model.replica_prices:
        source = FILE
    else:
        source = LIST if section is None else API
    return {
        "object": "price",
        "model": model.name,
        "backend": model.backend,
        "source": source,
        "read_only": source in (FILE, STEPS),
        "price": written(model.price),
        "section": None if section is None else _plain(section),
    }


def _plain(section: PriceSection) -> dict[str, Any]:
    """As a body may say it again."""
    return section.model_dump(mode="json", exclude_unset=True)
