"""/admin/v1: tenants, teams, keys, budgets, spend and audit, for holders of an admin key."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import Field

from router.errors import Conflict, InvalidRequest, NotFound
from router.http.admin_views import FILE, balance_view, listed_together, patched, shown_terms, view
from router.http.auth import Authentication, key_first
from router.http.declared import DeclaredOwners
from router.stores.keys import Key, Registry, Team, Tenant, Thing
from router.stores.open import MoneyClock, Stores
from router.stores.reports import GROUPS, KnownNames, SpendLine, as_csv, as_rows, grouped
from router.terms import KeyTerms, Level, OwnerName, Section, Terms

MOST_LISTED = 1000
LAST_MS = 253_402_300_799_999  # the year 9999
_ACTING: ContextVar[str] = ContextVar("acting")  # the admin key of the request under way


class TeamBody(Terms):
    """A team of a tenant, perhaps within another team."""

    tenant: OwnerName
    parent: OwnerName | None = None


class KeyBody(KeyTerms):
    """A new key."""

    tenant: OwnerName
    expires_ms: Annotated[int, Field(ge=0, le=LAST_MS)] | None = Field(None, description="milliseconds since 1970")


class RotateBody(Section):
    """How long the old secret works on."""

    grace_s: int = Field(0, ge=0, le=30 * 86_400)


def routes(
    stores: Stores,
    authentication: Authentication,
    *,
    clock: Callable[[], float],
    changed: Callable[[], None] = lambda: None,
    forget: Callable[[str], Awaitable[int]] | None = None,
    declared: DeclaredOwners | None = None,
) -> APIRouter:
    """The router. `clock` gives seconds since 1970; `changed` is called after every change of a tenant, team or key.

    `forget` drops a tenant's stored answers, also those that wait to be stored. `declared` are
    those of the settings file: they are listed with the others, and to change one is a Conflict.
    """
    declared = declared or DeclaredOwners()

    async def acting(request: Request) -> None:
        _ACTING.set(request.state.principal.key_id)

    async def note(kind: str, subject: str, **detail: object) -> None:
        changed()
        await stores.audit.note(kind, subject, {**detail, "by": _ACTING.get()})

    router = APIRouter(
        prefix="/admin/v1",
        tags=["admin"],
        route_class=key_first(authentication, admin=True),
        dependencies=[Depends(acting)],
    )
    _shared(router, stores.keys, note, declared, Tenant)
    _shared(router, stores.keys, note, declared, Team)
    _shared(router, stores.keys, note, declared, Key)
    for add in (_tenants, _teams, _keys, _secrets):
        add(router, stores.keys, note, declared)
    _answers(router, forget or stores.answers.forget, note)
    _reports(router, stores, clock, declared)
    _clock(router, stores.clock)
    return router


Note = Callable[..., Awaitable[None]]
Position = Annotated[str, Query(pattern=r"^([0-9]{1,18}(-[0-9]{1,18})?)?$")]


def _days(since: dt.date | None, until: dt.date | None, today: dt.date) -> tuple[dt.date, dt.date]:
    """The first and the last day to look at; none of the days to come holds anything. Raises: InvalidRequest."""
    last = min(until or today, today + dt.timedelta(days=1))
    first = since or dt.date.fromordinal(max(1, last.toordinal() - 29))
    if since is not None and until is not None and since > until:
        raise InvalidRequest(f"since is {since}, after until, {until}", param="since")
    return first, last


def _shared(router: APIRouter, keys: Registry, note: Note, declared: DeclaredOwners, kind: type[Thing]) -> None:
    """List, look at and change tenants, teams or keys. A secret is never among what is shown."""
    word = kind.__name__.lower()
    at = f"/{word}s/{{key_id}}" if kind is Key else f"/{word}s/{{name}}"
    named: str = Path(alias="key_id" if kind is Key else "name")

    @router.get(f"/{word}s", name=f"{word}s", description=f"All {word}s in the order of their names.")
    async def listed(after: str = "", limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100) -> dict[str, object]:
        return await listed_together(declared.all(kind), keys.all(kind, after=after), after, limit)

    @router.get(at, name=word, description=f"One {word}.")
    async def one(name: str = named) -> dict[str, object]:
        found = declared.find(kind, name)
        return view(await keys.get(kind, name)) if found is None else view(found, source=FILE)

    @router.patch(at, name=f"patch_{word}", description=f"Change some terms of a {word}.")
    async def patch(body: dict[str, Any], name: str = named) -> dict[str, object]:
        declared.must_not_have(kind, name)
        found = await keys.get(kind, name)
        terms = patched(found.terms, body)
        await keys.put(replace(found, terms=terms))
        await note(f"{word}.put", name, terms=shown_terms(terms))
        return view(await keys.get(kind, name))

    if kind is not Key:

        @router.delete(at, name=f"delete_{word}", description=f"Disable a {word} with all its keys; it stays listed.")
        async def delete(name: str = named) -> dict[str, object]:
            return await patch({"disabled": True}, name)


def _tenants(router: APIRouter, keys: Registry, note: Note, declared: DeclaredOwners) -> None:
    @router.put("/tenants/{name}")
    async def put_tenant(name: str, body: Terms) -> dict[str, object]:
        """Make a tenant, or replace its terms."""
        declared.must_not_have(Tenant, name)
        await keys.put(Tenant(name, body))
        await note("tenant.put", name, terms=shown_terms(body))
        return view(await keys.get(Tenant, name))

    @router.post("/tenants/{name}", status_code=201)
    async def make_tenant(name: str, body: Terms) -> dict[str, object]:
        """Make a tenant that does not exist."""
        if name in {each.name for each in declared.all(Tenant)} or await exists(keys, name):
            raise Conflict(f"There is a tenant {name!r} already.", param="tenant")
        return await put_tenant(name, body)


def _answers(router: APIRouter, forget: Callable[[str], Awaitable[int]], note: Note) -> None:
    @router.delete("/tenants/{name}/cache")
    async def purge(name: str) -> dict[str, object]:
        """Forget all answers that are stored of a tenant."""
        count = await forget(name)
        await note("cache.purged", name, answers=count)
        return {"object": "cache.purged", "tenant": name, "answers": count}


def _teams(router: APIRouter, keys: Registry, note: Note, declared: DeclaredOwners) -> None:
    @router.put("/teams/{name}")
    async def put_team(name: str, body: TeamBody) -> dict[str, object]:
        """Make a team, or replace its terms."""
        declared.must_not_have(Team, name)
        await keys.put(Team(name, body.tenant, body.parent, body.bare()))
        await note("team.put", name, terms=shown_terms(body))
        return view(await keys.get(Team, name))


def _keys(router: APIRouter, keys: Registry, note: Note, declared: DeclaredOwners) -> None:
    @router.post("/keys", status_code=201)
    async def create(body: KeyBody) -> dict[str, object]:
        """Make a key. `secret` is shown this once."""
        made, secret = await keys.create(
            body.tenant,
            team=body.team,
            name=body.name,
            expires_ms=body.expires_ms,
            terms=body.bare(),
            admin=body.admin,
        )
        await note("key.created", made.id, tenant=made.tenant, name=made.name)
        return {**view(made), "secret": secret}

    @router.put("/keys/{key_id}")
    async def put_key(key_id: str, body: Terms) -> dict[str, object]:
        """Replace the terms of a key."""
        declared.must_not_have(Key, key_id)
        await keys.put(replace(await keys.get(Key, key_id), terms=body))
        await note("key.put", key_id, terms=shown_terms(body))
        return view(await keys.get(Key, key_id))


def _secrets(router: APIRouter, keys: Registry, note: Note, declared: DeclaredOwners) -> None:
    @router.post("/keys/{key_id}/rotate")
    async def rotate(key_id: str, body: RotateBody) -> dict[str, object]:
        """Give a key a new secret, shown this once."""
        declared.must_not_have(Key, key_id)
        made, secret = await keys.rotate(key_id, grace_s=body.grace_s)
        await note("key.rotated", key_id, grace_s=body.grace_s)
        return {**view(made), "secret": secret}

    async def turn(key_id: str, *, disabled: bool) -> dict[str, object]:
        declared.must_not_have(Key, key_id)
        made = await keys.disable(key_id, disabled=disabled)
        await note("key.disabled" if disabled else "key.enabled", key_id)
        return view(made)

    @router.delete("/keys/{key_id}", name="delete_key")
    @router.post("/keys/{key_id}/disable")
    async def disable(key_id: str) -> dict[str, object]:
        """Refuse a key from now on, on every gateway; it stays in the list, since what it spent does."""
        return await turn(key_id, disabled=True)

    @router.post("/keys/{key_id}/enable")
    async def enable(key_id: str) -> dict[str, object]:
        """Accept a disabled key again."""
        return await turn(key_id, disabled=False)


def _reports(router: APIRouter, stores: Stores, clock: Callable[[], float], declared: DeclaredOwners) -> None:
    @router.get("/budgets")
    async def budgets(tenant: str | None = None, team: str | None = None, key: str | None = None) -> dict[str, object]:
        """What is left of the budgets of a tenant, a team or a key."""
        level = await _level_of(stores.keys, declared, tenant=tenant, team=team, key=key)
        budgets = [each.budget(level.scope) for each in level.terms.budgets]
        balances = await stores.ledger.balances(budgets, int(clock() * 1000))
        return {"object": "list", "data": [balance_view(b) for b in balances]}

    @router.get("/spend", response_model=None)
    async def spend(
        since: dt.date | None = None,
        until: dt.date | None = None,
        by: str = "day,tenant,team,key,model",
        tenant: str | None = None,
        team: str | None = None,
        key: str | None = None,
        model: str | None = None,
        form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
    ) -> Response | dict[str, object]:
        """What was settled from one UTC day to another (default: the last 30), summed over what is not in `by`."""
        first, last = _days(since, until, dt.datetime.fromtimestamp(clock(), dt.UTC).date())
        groups = _groups(by)
        asked = {"tenant": tenant, "team": team, "key": key, "model": model}
        lines = await stores.spend.lines(since=first.isoformat(), until=last.isoformat())
        found = await asyncio.to_thread(_summed, lines, asked, groups, declared.names())  # there may be a million
        if form == "csv":
            return Response(as_csv(found), media_type="text/csv")
        return {"object": "list", "since": first.isoformat(), "until": last.isoformat(), "data": as_rows(found)}

    @router.get("/audit")
    async def audit(
        after: Position = "", limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100
    ) -> dict[str, object]:
        """What happened to money and keys, oldest first. `next` is the position to go on after."""
        entries = await stores.audit.read(after=after, limit=limit)
        data = [
            {"position": e.position, "at_ms": e.at_ms, "kind": e.kind, "subject": e.subject, "detail": e.detail}
            for e in entries
        ]
        return {"object": "list", "data": data, "next": entries[-1].position if entries else after}


def _clock(router: APIRouter, clock: MoneyClock | None) -> None:
    def known() -> MoneyClock:
        if clock is None:
            raise NotFound("The clock of Redis orders the money; there is nothing to confirm here.")
        return clock

    @router.get("/clock")
    async def state() -> dict[str, object]:
        """By how many milliseconds the machine's clock has jumped; while this is not 0, nothing is reserved."""
        return {"object": "clock", "jump_ms": known().jump_ms()}

    @router.post("/clock/confirm")
    async def confirm() -> dict[str, object]:
        """Believe the machine's clock as it is now."""
        await known().confirm_clock(_ACTING.get())
        return {"object": "clock", "jump_ms": known().jump_ms()}


def _summed(
    lines: list[SpendLine], asked: Mapping[str, str | None], groups: list[str], known: KnownNames
) -> list[SpendLine]:
    """Sums over the lines that were asked for."""
    wanted = [(name, value) for name, value in asked.items() if value is not None]
    found = [line for line in lines if all(getattr(line, name) == value for name, value in wanted)]
    return grouped(found, groups, known=known)


def _groups(by: str) -> list[str]:
    groups = [name for name in by.split(",") if name]
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise InvalidRequest(f"by names {', '.join(unknown)}; it may name {', '.join(GROUPS)}.", param="by")
    return groups


async def _level_of(
    keys: Registry, declared: DeclaredOwners, *, tenant: str | None, team: str | None, key: str | None
) -> Level:
    async def terms(kind: type[Thing], name: str) -> Terms:
        return (declared.find(kind, name) or await keys.get(kind, name)).terms

    if key is not None:
        return Level(f"key:{key}", await terms(Key, key))
    if team is not None:
        return Level(f"team:{team}", await terms(Team, team))
    if tenant is not None:
        return Level(f"tenant:{tenant}", await terms(Tenant, tenant))
    raise InvalidRequest("Name a tenant, a team or a key.", param="tenant")


async def exists(keys: Registry, name: str) -> bool:
    """Whether the store has a tenant of this name."""
    try:
        await keys.get(Tenant, name)
    except NotFound:
        return False
    return True
