"""Management routes as LiteLLM's clients know them, over the same keys, limits and spend as /admin/v1.

A field that would limit money or rates and is not kept here is a 400; others that have no meaning here go into the
key's metadata. A deleted key is disabled for good: what it spent stays in the reports.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from router.amounts import period
from router.errors import Conflict, InvalidRequest, NotFound
from router.gateway.serving import Gateway
from router.http.auth import Authentication, key_first, secret_of
from router.http.litellm_spend import spend_routes
from router.http.models import may_use
from router.settings.litellm_file.owners import UNKEPT, row_of, terms_of
from router.stores.keys import Key, Team, digest_of
from router.stores.open import Stores
from router.types import NANO_PER_USD, Model, Principal

Json = dict[str, Any]
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOTES = ("user_id", "tags")  # kept in the metadata, where they mean nothing else
_PARTS: Mapping[str, frozenset[str]] = {  # of terms, by the fields that say them
    "budgets": frozenset({"max_budget", "budget_duration", "soft_budget", "budget_limits", "model_max_budget"}),
    "limits": frozenset({"rpm_limit", "tpm_limit", "max_parallel_requests", "model_rpm_limit", "model_tpm_limit"}),
    "allowed_models": frozenset({"models"}),
    "metadata": frozenset({"metadata", *_NOTES}),
    "disabled": frozenset({"blocked"}),
}
_TERMS = frozenset().union(*_PARTS.values()) | set(UNKEPT)
_BUDGET_ID = ("budget_id", "end_user_budget_id")
_PER_TOKEN = 1_000_000 * NANO_PER_USD
_MODES = {"chat": "chat", "embeddings": "embedding", "completions": "completion"}
DELETED = "litellm.deleted"


class KeyPages:
    """Keys by whatever LiteLLM's clients call them: the secret, its hash, the id or the alias."""

    def __init__(self, stores: Stores, clock: Callable[[], float]) -> None:
        self._stores, self._clock = stores, clock

    async def find(self, name: str) -> Key:
        """Raises: NotFound."""
        if name.startswith("k_"):
            return await self._stores.keys.get(Key, name)
        return await self._stores.keys.of_digest(bytes.fromhex(name) if _DIGEST.fullmatch(name) else digest_of(name))

    async def aliased(self, alias: str) -> AsyncIterator[Key]:
        """Every key of this alias."""
        async for key in self._stores.keys.all(Key):
            if key.name == alias and DELETED not in key.terms.metadata:
                yield key

    async def generate(self, body: Json, tenant: str) -> tuple[Key, str]:
        """Raises: InvalidRequest, NotFound, Conflict."""
        secret, team = body.get("key"), body.get("team_id")
        if secret is not None and not str(secret).startswith("sk-"):
            raise InvalidRequest("key: expected a key that begins with sk-", param="key")
        if secret is not None and await self._exists(str(secret)):
            raise Conflict("key: there is one already", param="key")
        if team is not None:
            tenant = (await self._stores.keys.get(Team, str(team))).tenant
        return await self._stores.keys.create(
            tenant,
            team=team,
            name=str(body.get("key_alias") or ""),
            expires_ms=self._expiry(body.get("duration")),
            terms=terms_of(_row(body, {})),
            admin=body.get("key_type") == "management",
            secret=secret,
        )

    async def update(self, key: Key, body: Json) -> Key:
        """The key with what the body names changed, and nothing else. Raises: InvalidRequest, NotFound."""
        fresh = terms_of(_row(body, row_of(key.terms)))
        said = {part: getattr(fresh, part) for part, fields in _PARTS.items() if fields & body.keys()}
        changed = replace(key, terms=key.terms.model_copy(update=said))
        if "key_alias" in body:
            changed = replace(changed, name=str(body["key_alias"] or ""))
        if "duration" in body:
            changed = replace(changed, expires_ms=self._expiry(body["duration"]))
        if body.get("team_id", key.team) != key.team:
            raise InvalidRequest("team_id: a key stays in its team; generate another", param="team_id")
        await self._stores.keys.put(changed)
        return changed

    async def delete(self, key: Key) -> None:
        """Refuse it from now on and for good."""
        terms = key.terms.model_copy(update={"disabled": True, "metadata": {**key.terms.metadata, DELETED: "true"}})
        await self._stores.keys.put(replace(key, terms=terms))

    async def shown(self, key: Key) -> Json:
        """LiteLLM's row of a key, without its hash."""
        since = dt.datetime.fromtimestamp(key.created_ms / 1000, dt.UTC).date().isoformat()
        lines = await self._stores.spend.lines(since=since, until=self.today())
        spent = sum(line.cost_nanousd for line in lines if line.key == key.id)
        metadata = dict(key.terms.metadata)
        return {
            **row_of(key.terms),
            "key_name": f"{key.prefix}...",
            "key_alias": key.name or None,
            "spend": spent / NANO_PER_USD,
            "expires": _time(key.expires_ms),
            "created_at": _time(key.created_ms),
            "user_id": metadata.get("user_id"),
            "team_id": key.team,
            "organization_id": key.tenant,
            "status": self._status(key),
        }

    async def page(self, number: int, size: int, wanted: Callable[[Key], bool]) -> Json:
        """LiteLLM's page of hashes."""
        found = [each async for each in self._stores.keys.all(Key) if DELETED not in each.terms.metadata]
        found = [each for each in found if wanted(each)]
        shown = found[(number - 1) * size : number * size]
        pages = -(-len(found) // size)
        names = [each.digest.hex() for each in shown]
        return {"keys": names, "total_count": len(found), "current_page": number, "total_pages": pages}

    async def _exists(self, secret: str) -> bool:
        try:
            await self.find(secret)
        except NotFound:
            return False
        return True

    def _status(self, key: Key) -> str:
        if DELETED in key.terms.metadata:
            return "deleted"
        if key.expires_ms is not None and key.expires_ms <= self._clock() * 1000:
            return "expired"
        return "revoked" if key.terms.disabled else "active"

    def _expiry(self, duration: object) -> int | None:
        if duration is None or duration == "-1":
            return None
        try:
            return int((self._clock() + period(duration).seconds) * 1000)
        except ValueError as error:
            raise InvalidRequest(f"duration: got {str(duration)[:40]!r}, {error}", param="duration") from None

    def today(self) -> str:
        """The day it is, UTC."""
        return dt.datetime.fromtimestamp(self._clock(), dt.UTC).date().isoformat()


def routes(
    gateway: Gateway,
    stores: Stores,
    authentication: Authentication,
    *,
    clock: Callable[[], float],
    changed: Callable[[], None],
) -> APIRouter:
    """The router. `changed` is called after every change of a key."""
    router = APIRouter(tags=["litellm"])
    pages = KeyPages(stores, clock)
    _keys(router, pages, stores, key_first(authentication, admin=True), changed)
    _info(router, pages, gateway, key_first(authentication))
    spend_routes(router, pages, stores, key_first(authentication, admin=True))
    return router


def _keys(router: APIRouter, pages: KeyPages, stores: Stores, admins: Any, changed: Callable[[], None]) -> None:
    managed = APIRouter(route_class=admins)

    async def note(request: Request, kind: str, key: Key) -> None:
        changed()
        await stores.audit.note(kind, key.id, {"tenant": key.tenant, "by": request.state.principal.key_id})

    @managed.post("/key/generate")
    async def generate(request: Request, body: Json) -> Json:
        """Make a key. `key` is shown this once."""
        key, secret = await pages.generate(body, request.state.principal.tenant)
        await note(request, "key.created", key)
        token = key.digest.hex()
        return {**await pages.shown(key), "key": secret, "token": token, "token_id": token}

    @managed.post("/key/update")
    async def update(request: Request, body: Json) -> Json:
        """Change what the body names."""
        key = await pages.update(await pages.find(str(body.get("key", ""))), body)
        await note(request, "key.put", key)
        return {"key": body["key"], **await pages.shown(key)}

    @managed.post("/key/delete")
    async def delete(request: Request, body: Json) -> Json:
        """Refuse keys from now on and for good."""
        found = [await pages.find(str(name)) for name in body.get("keys") or ()]
        for alias in body.get("key_aliases") or ():
            found += [key async for key in pages.aliased(str(alias))]
        if not found:
            raise NotFound("keys: there is none of these", param="keys")
        for key in found:
            await pages.delete(key)
            await note(request, "key.disabled", key)
        return {"deleted_keys": [*(body.get("keys") or ()), *(body.get("key_aliases") or ())]}

    @managed.get("/key/list")
    async def listed(page: int = 1, size: int = 10, team_id: str | None = None, key_alias: str | None = None) -> Json:
        """Hashes of keys."""
        if page < 1 or not 1 <= size <= 1000:
            raise InvalidRequest("page is at least 1 and size from 1 to 1000", param="size")
        return await pages.page(page, size, lambda key: team_id in (None, key.team) and key_alias in (None, key.name))

    router.include_router(managed)


def _info(router: APIRouter, pages: KeyPages, gateway: Gateway, known: Any) -> None:
    open_to_keys = APIRouter(route_class=known)

    @open_to_keys.get("/key/info")
    async def info(request: Request, key: str | None = None) -> Json:
        """One key: one's own, or any for an admin."""
        own = secret_of(dict(request.scope["headers"])) or ""
        found = await pages.find(key or own)
        asking: Principal = request.state.principal
        if not asking.admin and found.id != asking.key_id:
            raise NotFound("There is no such key.", param="key")
        return {"key": key or found.digest.hex(), "info": await pages.shown(found)}

    @open_to_keys.get("/model/info")
    @open_to_keys.get("/v1/model/info")
    async def models(request: Request, litellm_model_id: str | None = None) -> Json:
        """Every model the key may use, with its price and abilities."""
        allowed = request.state.principal.allowed_models
        mine = [each for each in gateway.decider.catalogue.models if may_use(each, allowed)]
        if litellm_model_id is not None:
            mine = [each for each in mine if each.name == litellm_model_id]
            if not mine:
                raise NotFound(f"there is no model {litellm_model_id!r}", param="litellm_model_id")
        return {"data": [_model(each) for each in mine]}

    @open_to_keys.get("/model_group/info")
    async def groups(request: Request, model_group: str | None = None) -> Json:
        """The same by name, with the kinds of server."""
        allowed = request.state.principal.allowed_models
        mine = [each for each in gateway.decider.catalogue.models if may_use(each, allowed)]
        return {"data": [_group(each) for each in mine if model_group in (None, each.name)]}

    router.include_router(open_to_keys)


def _row(body: Mapping[str, Any], old: Mapping[str, Any]) -> Json:
    """The row that a body and what was there before give. Raises: InvalidRequest for a limit that is not kept."""
    for field in _BUDGET_ID:
        if body.get(field):
            raise InvalidRequest(f"{field}: budgets have no ids here, expected max_budget", param=field)
    given = {name: body[name] for name in _TERMS if name in body}
    metadata = given.get("metadata", old.get("metadata")) or {}
    if not isinstance(metadata, Mapping):
        raise InvalidRequest("metadata: expected a mapping", param="metadata")
    notes = {name: body[name] for name in _NOTES if body.get(name)}
    return {**old, **given, "metadata": {**metadata, **notes}}


def _model(model: Model) -> Json:
    return {
        "model_name": model.name,
        "litellm_params": {"model": model.upstream},
        "model_info": {"id": model.name, "db_model": False, "key": model.upstream, **_facts(model)},
    }


def _group(model: Model) -> Json:
    return {"model_group": model.name, "providers": [model.backend], **_facts(model)}


def _facts(model: Model) -> Json:
    able = model.capabilities
    return {
        "mode": next((mode for each, mode in _MODES.items() if each in able), None),
        "max_tokens": model.max_output_tokens,
        "max_input_tokens": model.context_tokens,
        "max_output_tokens": model.max_output_tokens,
        "input_cost_per_token": model.price.prompt / _PER_TOKEN,
        "output_cost_per_token": model.price.completion / _PER_TOKEN,
        "litellm_provider": model.backend,
        "supports_function_calling": "tools" in able,
        "supports_vision": "vision" in able,
    }


def _time(ms: int | None) -> str | None:
    return None if ms is None else dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat()
