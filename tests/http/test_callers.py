"""Who may call, and that what the settings say of a tenant holds for every way in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.scripted_server import ScriptedServer
from router.stores.open import open_stores
from tests.http.conftest import Running, chat, engine, serving, settings_for, until
from tests.http.test_sdks import made_key

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
BROKE = {"budgets": ["0.000001 USD per day"]}


async def ask(gateway: Running, key: str | None) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        return await client.post(CHAT, json=chat(), headers=headers)


def settings(folder: Path, one: ScriptedServer, **more: Any) -> dict[str, Any]:
    return settings_for(folder, {"one": one}, **more)


async def test_where_keys_are_not_required_the_tenants_budget_still_holds(tmp_path: Path) -> None:
    async with engine() as one:
        open_to_all = settings(tmp_path, one, auth={"required": False, "tenant": "guests"}, tenants={"guests": BROKE})
        async with serving(tmp_path, open_to_all) as gateway:
            for key in (None, "sk-anything"):
                assert (await ask(gateway, key)).json()["error"]["code"] == "insufficient_quota"
    assert not one.heard


async def test_a_key_made_for_a_tenant_of_the_settings_has_its_budget(tmp_path: Path) -> None:
    async with engine() as one:
        async with serving(tmp_path, settings(tmp_path, one, tenants={"sdk": BROKE})) as gateway:
            assert (await ask(gateway, gateway.key or None)).status_code == 200
            assert (await ask(gateway, made_key(gateway))).json()["error"]["code"] == "insufficient_quota"


async def test_keys_and_budgets_in_the_settings_are_taken_up_while_running(tmp_path: Path) -> None:
    async with engine() as one:
        before = settings(tmp_path, one, tenants={"old": {"keys": [{"secret": "sk-old-tenant"}]}})
        async with serving(tmp_path, before) as gateway:
            assert (await ask(gateway, "sk-old-tenant")).status_code == 200
            gateway.rewrite(settings(tmp_path, one, tenants={"new": {"keys": [{"secret": "sk-new-tenant"}]}}))

            async def taken_up() -> bool:
                return (await ask(gateway, "sk-new-tenant")).status_code == 200

            await until(taken_up)
            assert (await ask(gateway, "sk-old-tenant")).status_code == 401


async def test_the_context_of_a_listed_model_is_asked_of_its_engine(tmp_path: Path) -> None:
    async with engine() as one:
        one.models = [{"id": "one", "object": "model", "max_model_len": 48}]
        async with serving(tmp_path, settings(tmp_path, one)) as gateway, gateway.client() as client:
            answer = await client.post(CHAT, json=chat("word " * 200))
    assert answer.json()["error"]["code"] == "context_length_exceeded"


async def test_a_first_key_is_made_once_for_a_store_and_shown_again(tmp_path: Path) -> None:
    async with engine() as one:
        async with serving(tmp_path, settings(tmp_path, one)) as gateway:
            first = gateway.key
        moved = settings(tmp_path, one, store={"sqlite": str(tmp_path / "state/pointsman.db")})
        async with serving(tmp_path, moved) as gateway:
            assert gateway.key == first
        elsewhere = {**moved, "state_dir": str(tmp_path / "elsewhere")}
        async with serving(tmp_path, elsewhere) as gateway:
            assert gateway.key == ""  # the store has a key already: a new replica makes no other
            assert (await ask(gateway, first)).status_code == 200
        fresh = {**moved, "store": {"sqlite": str(tmp_path / "fresh.db")}}
        async with serving(tmp_path, fresh) as gateway:
            assert gateway.key != first
            assert (await ask(gateway, gateway.key)).status_code == 200


async def test_no_secret_of_the_settings_reaches_the_log(tmp_path: Path) -> None:
    async with engine() as one:
        secretive = settings(
            tmp_path, one, auth={"admin_key": "hushhush-admin"}, tenants={"a": {"keys": [{"secret": "hushhush-key"}]}}
        )
        secretive["backends"]["one"] |= {"api_key": "hushhush-engine", "headers": {"x-team": "hushhush-header"}}
        async with serving(tmp_path, secretive) as gateway:
            await ask(gateway, "hushhush-key")
            await ask(gateway, "hushhush-wrong")
            secretive["backends"]["one"]["api_key"] = ["hushhush-list"]
            gateway.rewrite(secretive)
            await until(lambda: "api_key" in gateway.log.read_text())
            assert one.heard[0].headers["authorization"] == "Bearer hushhush-engine"
            assert "hushhush" not in gateway.log.read_text()


async def test_an_engine_that_lists_what_nothing_prices_keeps_its_other_models(tmp_path: Path) -> None:
    async with engine() as one:
        one.models = [{"id": "one", "object": "model"}]
        found = settings(tmp_path, one)
        found["backends"]["one"]["discover"] = True
        async with serving(tmp_path, found) as gateway, gateway.client() as client:
            one.models += [{"id": "stranger", "object": "model"}, {"id": "sql", "object": "model", "parent": "one"}]
            await until(lambda: "found stranger and nothing prices it" in gateway.log.read_text())
            assert (await client.post(CHAT, json=chat())).status_code == 200
            one.models = [each for each in one.models if each["id"] != "stranger"]
            await until(lambda: listed(client, "sql"))


async def listed(client: httpx.AsyncClient, name: str) -> bool:
    return name in [model["id"] for model in (await client.get("/v1/models")).json()["data"]]


async def test_a_key_that_is_disabled_through_the_admin_api_is_refused_at_once(tmp_path: Path) -> None:
    async with engine(text="fine") as one:
        settings = settings_for(tmp_path, {"one": one}, auth={"admin_key": "sk-admin-of-this-test"})
        async with serving(tmp_path, settings) as gateway, gateway.client() as admin, gateway.client() as client:
            admin.headers["Authorization"] = "Bearer sk-admin-of-this-test"
            made = (await admin.post("/admin/v1/keys", json={"tenant": "acme"})).json()
            client.headers["Authorization"] = f"Bearer {made['secret']}"
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
            await admin.post(f"/admin/v1/keys/{made['id']}/disable")
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 401


async def test_a_key_that_another_process_disables_is_refused_at_once(tmp_path: Path) -> None:
    """The gateway has the key in memory; the reservation learns that keys have changed."""
    async with engine(text="fine") as one:
        settings = settings_for(tmp_path, {"one": one})
        async with serving(tmp_path, settings) as gateway, open_stores(_store(tmp_path), clock=now_ms) as elsewhere:
            made, secret = await elsewhere.keys.create("acme")
            assert (await ask(gateway, secret)).status_code == 200
            await elsewhere.keys.disable(made.id)
            refused = await ask(gateway, secret)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"


def _store(folder: Path) -> str:
    return f"sqlite:///{next(folder.rglob('pointsman.db'))}"


def now_ms() -> int:
    return time.time_ns() // 1_000_000
