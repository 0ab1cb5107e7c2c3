"""/openapi.json lists every route with who may ask and an example that works; /docs shows it from here alone."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from router.http.app import other_routes, readiness
from router.http.auth import Authentication
from router.http.conversations import ResponsesKept
from router.http.openapi import documented
from router.http.schemas import PATHS
from router.http.stopping import Stopping
from router.settings import build
from router.wiring import open_runtime
from tests.http.conftest import Running
from tests.http.module import candidates, gateway_over

ADMIN, KEY = "sk-admin-0123456789", "sk-plain-0123456789"
METHODS = ("get", "post", "put", "patch", "delete")
STRANGE = {  # what an example answers here where it is not 2xx: what it names is not there, or nobody can do it
    "POST /v1/feedback": 404,
    "GET /v1/decisions/{decision_id}": 404,
    "GET /v1/models/{name}": 404,
    "GET /v1/responses/{name}": 404,
    "DELETE /v1/responses/{name}": 404,
    "GET /v1/responses/{name}/input_items": 404,
    "PUT /admin/v1/keys/{key_id}": 404,
    "POST /admin/v1/keys/{key_id}/rotate": 404,
    "POST /admin/v1/keys/{key_id}/disable": 404,
    "POST /admin/v1/keys/{key_id}/enable": 404,
    "GET /admin/v1/keys/{key_id}": 404,
    "PATCH /admin/v1/keys/{key_id}": 404,
    "DELETE /admin/v1/keys/{key_id}": 404,
    "PUT /admin/v1/prices/{model}": 409,  # the file has it
    "DELETE /admin/v1/prices/{model}": 404,
    "POST /key/update": 404,
    "POST /key/delete": 404,
    "GET /key/info": 404,
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The routes that call no model, of a gateway of its own."""
    settings = build({"state_dir": str(tmp_path_factory.mktemp("routes"))}, {})

    async def made() -> FastAPI:
        async with open_runtime(settings, None) as runtime:
            authentication = Authentication(runtime.keys, clock=runtime.clock)
            kept = ResponsesKept(runtime.stores.conversations, settings.responses)
            return other_routes(runtime, authentication, kept, readiness(runtime, Stopping(0)))

    return asyncio.run(made())


def served(routes: Any) -> Iterator[tuple[str, str]]:
    """(method, path) of each route."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from served(route.original_router.routes)
        else:
            path = re.sub(r":path\}", "}", route.path)
            yield from ((method, path) for method in route.methods - {"HEAD"})


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        yield from ((method.upper(), path, operation) for method, operation in methods.items())


def test_every_route_is_listed_and_no_other(app: FastAPI) -> None:
    listed = {(method, path) for method, path, _ in operations(documented(app))}
    own = {(method, path) for method, path in served(app.routes) if not path.startswith("/page/")}
    assert listed == own | {("POST", path) for path in PATHS}


def test_it_is_openapi(app: FastAPI) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="needs the extra `test`")
    validator.validate(documented(app))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("openapi")
    able = ["chat", "completions", "embeddings", "responses", "messages"]

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        made = candidates(folder, engine, {"small@4bit": {"capabilities": able}})
        tenants = {"house": {"keys": [{"secret": KEY}]}}
        return {**made, "tenants": tenants, "auth": {"admin_key": ADMIN}, "log": {"keep_text": True}}

    with gateway_over(folder, by_model({"small@4bit": Line(text="42")}), settings) as (running, _):
        yield running


@pytest.fixture(scope="module")
def document(gateway: Running) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(gateway.url + "/openapi.json", timeout=30).json()
    return found


def test_without_a_key_only_those_routes_answer_that_say_so(gateway: Running, document: dict[str, Any]) -> None:
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        for method, path, operation in operations(document):
            if operation["security"] == [{"operator": []}]:
                continue  # this machine may: tests/http/test_operations.py has the others
            filled = re.sub(r"\{\w+\}", "x", path)
            refused = client.request(method, filled, json={}).status_code == 401
            assert refused == bool(operation["security"]), (method, path)


def test_a_plain_key_is_refused_where_an_admins_is_needed(gateway: Running, document: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=gateway.url, timeout=30, headers=headers) as client:
        for method, path, operation in operations(document):
            filled = re.sub(r"\{\w+\}", "x", path)
            if operation["security"] == [{"admin": []}]:
                assert client.request(method, filled, json={}).status_code == 403, (method, path)


def test_every_example_is_answered(gateway: Running, document: dict[str, Any], tmp_path: Path) -> None:
    """The lines as they are pasted into a shell; what has to be there first comes first."""
    order = {"POST /admin/v1/tenants/{name}": 0, "PUT /admin/v1/tenants/{name}": 1, "PUT /admin/v1/teams/{name}": 2}
    every = sorted(operations(document), key=lambda each: order.get(f"{each[0]} {each[1]}", 9))
    lines = [f"URL={gateway.url} KEY={ADMIN}"]
    for _, _, operation in every:
        (sample,) = operation["x-codeSamples"]
        lines.append(f"{sample['source'].replace('curl', 'curl -s -o /dev/null -w %{http_code} -m 30', 1)}; echo")
    done = subprocess.run(["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=True)
    routes = [f"{method} {path}" for method, path, _ in every]
    statuses = dict(zip(routes, map(int, done.stdout.split()), strict=True))
    strange = {route: status for route, status in statuses.items() if not 200 <= status < 300}
    assert strange == STRANGE, "an example that is not answered: router/http/examples.json has those of each route"


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("href", "src", "action")]


def test_the_page_of_it_needs_no_other_origin_and_no_script(gateway: Running, document: dict[str, Any]) -> None:
    answer = httpx.get(gateway.url + "/docs")
    found = Links()
    found.feed(answer.text)
    assert found.addresses == ["openapi.json"]
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.text.count("<details>") == len(list(operations(document)))
    for method, path, _ in operations(document):
        assert f"<b>{method}</b> <code>{path}</code>" in answer.text
