"""What names tenants and their spend is for operators: by a key, by this machine, or by a listener of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from pydantic import SecretStr

from router.errors import PointsmanError
from router.http import operations
from router.http.auth import Authentication
from router.http.operations import Operators
from router.settings.telemetry_section import Telemetry
from router.types import Principal
from tests.http.conftest import engine, serving, settings_for
from tests.stores.conftest import free_port

pytestmark = pytest.mark.anyio
CLOSED = ("/metrics", "/docs", "/openapi.json")
ROOT, PLAIN, SCRAPER = "sk-root-root-r", "sk-plain-plain", "scrape-scrape"


class Known:
    """Two keys, and anybody is somebody where keys are not required."""

    anonymous: Principal | None = Principal("anonymous", "guests")

    async def find(self, secret: str, now_ms: int) -> Principal | None:
        found = {ROOT: Principal("k_root", "ops", admin=True), PLAIN: Principal("k_plain", "acme")}
        return found.get(secret, self.anonymous)


async def page() -> bytes:
    return b"spend_of_acme 1"


@asynccontextmanager
async def asking(rules: Telemetry, peer: str, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    authentication = Authentication(Known(), clock=lambda: 0.0)  # type: ignore[arg-type]  # as much of Credentials
    app.include_router(operations.routes(app, Operators(authentication, rules), page))

    @app.exception_handler(PointsmanError)
    async def known(_: Request, error: PointsmanError) -> Response:
        return Response(status_code=error.status)

    transport = httpx.ASGITransport(app, client=(peer, 40_000))
    async with httpx.AsyncClient(transport=transport, **options) as client:
        yield client


async def statuses(rules: Telemetry, peer: str, host: str = "127.0.0.1:8080", **headers: str) -> set[int]:
    async with asking(rules, peer, base_url=f"http://{host}", headers=headers) as client:
        return {(await client.get(path)).status_code for path in CLOSED}


@pytest.mark.parametrize(
    ("peer", "host"), [("127.0.0.1", "localhost:8080"), ("::1", "[::1]:8080"), ("127.9.9.9", "127.0.0.1")]
)
async def test_this_machine_sees_them_without_a_key(peer: str, host: str) -> None:
    assert await statuses(Telemetry(), peer, host) == {200}


@pytest.mark.parametrize("peer", ["10.0.0.5", "192.168.1.9", "203.0.113.7", "fe80::1", "not an address"])
async def test_nobody_else_does(peer: str) -> None:
    assert await statuses(Telemetry(), peer) == {401}
    assert await statuses(Telemetry(), peer, authorization=f"Bearer {PLAIN}") == {403}
    assert await statuses(Telemetry(), peer, authorization="Bearer sk-unknown") == {403}  # of anonymous callers
    assert await statuses(Telemetry(), peer, authorization=f"Bearer {ROOT}") == {200}


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "via", "x-real-ip", "X-Forwarded-Host"])
async def test_what_a_proxy_on_this_machine_passes_on_is_not_of_this_machine(header: str) -> None:
    assert await statuses(Telemetry(), "127.0.0.1", **{header: "127.0.0.1"}) == {401}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", ":", "[::1"])
async def test_a_page_that_names_this_machine_otherwise_is_not_of_this_machine(host: str) -> None:
    async with asking(Telemetry(), "127.0.0.1", base_url="http://127.0.0.1") as client:
        assert (await client.get("/metrics", headers={"host": host})).status_code == 401


async def test_a_key_for_these_alone_opens_them_and_only_it(tmp_path: Path) -> None:
    rules = Telemetry(open_to="nobody", key=SecretStr(SCRAPER))
    assert await statuses(rules, "127.0.0.1") == {401}
    assert await statuses(rules, "10.0.0.5", authorization=f"Bearer {SCRAPER}") == {200}
    assert await statuses(rules, "10.0.0.5", authorization=f"Bearer {SCRAPER}x") == {403}
    assert await statuses(rules, "10.0.0.5", authorization="Bearer ") == {401}
    assert await statuses(Telemetry(open_to="everyone"), "10.0.0.5") == {200}


@pytest.mark.unpublished("what the listener for operators has not is no page of OpenAI's API")
async def test_a_gateway_has_a_listener_for_operators_and_its_key_is_no_key_of_the_api(tmp_path: Path) -> None:
    port = free_port()
    telemetry = {"open_to": "nobody", "key": SCRAPER, "listen": f"127.0.0.1:{port}"}
    async with engine() as one:
        settings = settings_for(tmp_path, {"one": one}, telemetry=telemetry, auth={"admin_key": ROOT})
        async with serving(tmp_path, settings, "--workers", "2") as gateway, gateway.client() as client:
            assert [(await client.get(path)).status_code for path in CLOSED] == [403] * 3
            client.headers["authorization"] = f"Bearer {SCRAPER}"
            assert [(await client.get(path)).status_code for path in CLOSED] == [200] * 3
            assert (await client.get("/v1/models")).status_code == 401
            assert (await client.get("/admin/v1/tenants")).status_code == 401
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as inside:
                assert "pointsman_" in (await inside.get("/metrics")).text
                assert (await inside.get("/health")).json() == {"status": "ok"}
                for path in ("/docs", "/openapi.json", "/v1/models", "/admin/v1/tenants", "/v1/route"):
                    assert (await inside.get(path)).status_code == 404
        assert SCRAPER not in gateway.log.read_text()


async def test_a_listener_that_is_taken_stops_the_start_and_names_its_setting(tmp_path: Path) -> None:
    async with engine() as one:
        settings = settings_for(tmp_path, {"one": one}, telemetry={"listen": f"127.0.0.1:{one.port}"})
        with pytest.raises(AssertionError, match=r"telemetry\.listen"):
            async with serving(tmp_path, settings):
                pass


async def test_the_audit_log_names_the_admin_key_that_acted(tmp_path: Path) -> None:
    async with engine() as one:
        settings = settings_for(tmp_path, {"one": one}, auth={"admin_key": ROOT})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            client.headers["authorization"] = f"Bearer {ROOT}"
            second = (await client.post("/admin/v1/keys", json={"tenant": "ops", "admin": True})).json()
            client.headers["authorization"] = f"Bearer {second['secret']}"
            await client.put("/admin/v1/tenants/acme", json={})
            third = (await client.post("/admin/v1/keys", json={"tenant": "acme"})).json()
            await client.post(f"/admin/v1/keys/{third['id']}/disable")
            entries = (await client.get("/admin/v1/audit")).json()["data"]
    acted = [(each["kind"], each["detail"]["by"]) for each in entries if "by" in each["detail"]]
    own = second["id"]
    assert acted == [("key.created", "admin"), ("tenant.put", own), ("key.created", own), ("key.disabled", own)]
