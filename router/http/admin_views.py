"""Tenants, teams, keys and balances as the admin API says them, and terms as a body changes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from router.amounts import Period
from router.errors import InvalidRequest
from router.http.declared import name_of
from router.stores.forecasts import forecast
from router.stores.keys import Key, Team, Tenant
from router.terms import Terms
from router.types import NANO_PER_USD, Balance

FILE = "file"  # where a tenant, team or key comes from; otherwise it is of this API


async def listed_together(
    declared: Sequence[Tenant | Team | Key], stored: AsyncIterator[Any], after: str, limit: int
) -> dict[str, object]:
    """Those of the file and those of the store as one list, in the order of their names."""
    found = {name_of(each): view(each, source=FILE) for each in declared if name_of(each) > after}
    count = 0
    async for thing in stored:
        found.setdefault(name_of(thing), view(thing))
        count += 1
        if count == limit:
            break
    return {"object": "list", "data": [found[name] for name in sorted(found)][:limit]}


def patched(terms: Terms, given: Mapping[str, Any]) -> Terms:
    """The terms with these instead of their own. Raises: InvalidRequest."""
    try:
        return Terms.model_validate({**shown_terms(terms), **given})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, found["loc"]))
        raise InvalidRequest(f"{place}: {found['msg']}", param=place or None, code="invalid_value") from None


def view(thing: Tenant | Team | Key, *, source: str = "api") -> dict[str, object]:
    """A tenant, team or key as JSON values; digests stay inside."""
    shown: dict[str, object] = {"source": source, "terms": shown_terms(thing.terms)}
    if isinstance(thing, Tenant):
        return {"object": "tenant", "name": thing.name, **shown}
    if isinstance(thing, Team):
        return {"object": "team", "name": thing.name, "tenant": thing.tenant, "parent": thing.parent, **shown}
    return {
        "object": "key",
        "id": thing.id,
        "prefix": thing.prefix,
        "tenant": thing.tenant,
        "team": thing.team,
        "name": thing.name,
        "created_ms": thing.created_ms,
        "expires_ms": thing.expires_ms,
        "admin": thing.admin,
        **shown,
    }


def shown_terms(terms: Terms) -> dict[str, object]:
    """As a body may say it again."""
    return terms.model_dump(mode="json")


def balance_view(balance: Balance) -> dict[str, object]:
    """What is left of a budget, and how long it will last, as JSON values."""
    budget = balance.budget
    return {
        "scope": budget.scope,
        "limit_usd": budget.limit / NANO_PER_USD,
        "period": str(Period(budget.period_s, budget.calendar)),
        "hard": budget.hard,
        "spent_usd": balance.spent / NANO_PER_USD,
        "held_usd": balance.held / NANO_PER_USD,
        "remaining_usd": balance.remaining / NANO_PER_USD,
        "reset_s": balance.reset_ms / 1000,
        "forecast": asdict(forecast(balance)),
    }
