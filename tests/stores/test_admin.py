"""The admin API over real stores."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.http import admin
from router.http.app import shape_errors
from router.http.auth import Authentication
from router.settings import load
from router.settings.credentials import Credentials
from router.stores.keys import CachedKeys
from router.stores.open import Stores
from tests.stores.conftest import Clock
from tests.stores.making import buy, principal

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api(stores: Stores, clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    callers = Credentials(load(None), CachedKeys(stores.keys))
    authentication = Authentication(callers, clock=lambda: clock() / 1000)
    app = FastAPI()
    app.include_router(admin.routes(stores, authentication, clock=lambda: clock() / 1000))
    shape_errors(app, lambda *_: None)
    _, secret = await stores.keys.create("operators", admin=True)
    headers = {"Authorization": f"Bearer {secret}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway/admin/v1", headers=headers) as client:
        yield client


async def test_only_an_admin_key_gets_in(api: httpx.AsyncClient, stores: Stores) -> None:
    _, secret = await stores.keys.create("acme")
    assert (await api.get("/keys", headers={"Authorization": f"Bearer {secret}"})).status_code == 403
    assert (await api.get("/keys", headers={"Authorization": "Bearer sk-no"})).status_code == 401


async def test_a_key_is_made_shown_once_rotated_and_disabled(
    api: httpx.AsyncClient, stores: Stores, clock: Clock
) -> None:
    body = {"tenant": "acme", "name": "app", "budgets": [{"limit": 5, "period": "month"}], "preference": 0.3}
    made = (await api.post("/keys", json=body)).raise_for_status().json()
    found = await stores.keys.find(made["secret"], clock())
    assert found is not None
    assert found.budgets[0].limit == 5_000_000_000
    shown = (await api.get(f"/keys/{made['id']}")).json()
    assert "secret" not in shown
    assert "digest" not in shown
    rotated = (await api.post(f"/keys/{made['id']}/rotate", json={})).json()
    assert await stores.keys.find(made["secret"], clock()) is None
    assert await stores.keys.find(rotated["secret"], clock()) is not None
    await api.post(f"/keys/{made['id']}/disable")
    assert await stores.keys.find(rotated["secret"], clock()) is None
    kinds = [entry["kind"] for entry in (await api.get("/audit")).json()["data"]]
    assert kinds == ["key.created", "key.rotated", "key.disabled"]


async def test_tenants_and_teams_are_put_and_listed(api: httpx.AsyncClient) -> None:
    await api.put("/tenants/acme", json={"budgets": [{"limit": 1, "period": "60s", "model": "large"}]})
    await api.put("/teams/lab", json={"tenant": "acme", "limits": [{"requests_per_minute": 9}]})
    assert (await api.get("/tenants/acme")).json()["terms"]["budgets"][0]["model"] == "large"
    assert (await api.get("/budgets?tenant=acme")).json()["data"][0]["scope"] == "tenant:acme|model:large"
    assert [t["name"] for t in (await api.get("/teams")).json()["data"]] == ["lab"]
    assert (await api.get("/tenants/nobody")).status_code == 404


async def test_an_unknown_field_or_a_bad_budget_is_refused(api: httpx.AsyncClient) -> None:
    assert (await api.put("/tenants/acme", json={"budget": 3})).status_code == 400
    for bad in ("1 USD per eon", {"limit": -1, "period": "day"}, {"limit": 2**80, "period": "day"}, {"limit": 1}):
        assert (await api.put("/tenants/acme", json={"budgets": [bad]})).status_code == 400
    assert (await api.put("/tenants/acme", json={"policy": "oracle"})).status_code == 400
    assert (await api.put("/tenants/a%7Cb", json={})).status_code == 400


async def test_what_the_api_shows_of_terms_may_be_put_back(api: httpx.AsyncClient) -> None:
    terms = {"budgets": ["5 USD per day", "0.15 USD per 30d soft"], "limits": {"concurrent": 2, "model": "large"}}
    shown = (await api.put("/tenants/acme", json=terms)).json()["terms"]
    assert (await api.put("/tenants/acme", json=shown)).json()["terms"] == shown
    assert [each["limit"] for each in shown["budgets"]] == ["5", "0.15"]


async def test_spend_is_reported_as_json_and_csv(api: httpx.AsyncClient, stores: Stores, clock: Clock) -> None:
    for tenant in ("acme", "acme", "bolt"):
        await buy(stores, principal(tenant=tenant), 1_500_000, now_ms=clock())
    span = {"since": "2027-01-01", "until": "2027-02-01"}
    data = (await api.get("/spend", params={**span, "by": "tenant"})).json()["data"]
    assert [(d["tenant"], d["requests"], d["cost_usd"]) for d in data] == [("acme", 2, 0.003), ("bolt", 1, 0.0015)]
    text = (await api.get("/spend", params={**span, "by": "day", "tenant": "acme", "format": "csv"})).text
    header, line = text.splitlines()
    assert header.startswith("day,tenant")
    assert line.startswith("2027-01-15,")
    assert (await api.get("/spend", params={**span, "by": "colour"})).status_code == 400


async def test_balances_of_a_tenant_are_shown(api: httpx.AsyncClient) -> None:
    await api.put("/tenants/acme", json={"budgets": ["2 USD per 1h"]})
    data = (await api.get("/budgets", params={"tenant": "acme"})).json()["data"]
    assert (data[0]["remaining_usd"], data[0]["held_usd"]) == (2, 0)


LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [
            "5 USD per day",
            "day",
            "30d",
            "0.15",
            "\ud800",
            "a|b",
            "9" * 5000,
            "1e999999",
            "large",
            "neighbours",
            -0.0,
            2**63,
        ]
    )
)
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
BUDGET = st.fixed_dictionaries(
    {}, optional={"limit": VALUE, "period": VALUE, "hard": VALUE, "model": VALUE, "scope": VALUE}
)
LIMIT = st.fixed_dictionaries(
    {}, optional={"requests_per_minute": VALUE, "tokens_per_minute": VALUE, "concurrent": VALUE, "model": VALUE}
)
ODD_TERMS = st.fixed_dictionaries(
    {},
    optional={
        "budgets": st.lists(BUDGET | VALUE, max_size=2) | VALUE,
        "limits": st.lists(LIMIT, max_size=2) | LIMIT | VALUE,
        "allowed_models": VALUE,
        "local_only": VALUE,
        "preference": VALUE,
        "policy": VALUE,
        "metadata": st.dictionaries(st.text(max_size=4), VALUE, max_size=2) | VALUE,
        "disabled": VALUE,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=ODD_TERMS, key=st.fixed_dictionaries({}, optional={"name": VALUE, "team": VALUE, "expires_ms": VALUE}))
async def test_no_body_is_an_error_of_the_gateways_own(api: httpx.AsyncClient, body: Any, key: Any) -> None:
    """What is taken in comes back, and whatever else is refused with a 4xx."""
    for method, path, sent in (
        ("PUT", "/tenants/acme", body),
        ("PUT", "/teams/lab", {**body, "tenant": "acme"}),
        ("POST", "/keys", {**body, **key, "tenant": "acme"}),
    ):
        content = json.dumps(sent).encode()
        answer = await api.request(method, path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code < 500, (path, sent, answer.text)
        if answer.status_code < 300 and method == "PUT":
            shown = answer.json()["terms"]
            again = await api.put("/tenants/again", json=shown)
            assert (again.status_code, again.json()["terms"]) == (200, shown)


async def test_the_clock_is_shown_and_confirmed_where_there_is_one(api: httpx.AsyncClient, stores: Stores) -> None:
    shown = await api.get("/clock")
    if stores.clock is None:
        assert shown.status_code == 404
        return
    assert shown.json()["jump_ms"] == 0
    assert (await api.post("/clock/confirm")).status_code == 200
    assert [entry.kind for entry in await stores.audit.read()][-1] == "clock.confirmed"
