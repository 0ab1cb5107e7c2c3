"""Groups of access, orders and tags of a LiteLLM file, before engines on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import serving

pytestmark = pytest.mark.anyio
COST = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
CHAT = "/v1/chat/completions"
MASTER = {"Authorization": "Bearer sk-1234"}


@asynccontextmanager
async def gateway(
    folder: Path, entries: list[dict[str, Any]], broken: tuple[str, ...] = (), **router: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, ScriptedServer]]:
    """Entries are {name, model, info, and what else stands in litellm_params}."""
    names = [each["model"] for each in entries]
    lines = {name: Line(trouble="500") if name in broken else Line(text=f"from {name}") for name in names}
    async with ScriptedServer(by_model(lines)) as engine:
        listed = [
            {
                "model_name": each["name"],
                "litellm_params": {
                    "model": f"hosted_vllm/{each['model']}",
                    "api_base": f"{engine.url}/v1",
                    **{key: value for key, value in each.items() if key not in {"name", "model", "info"}},
                },
                "model_info": {**COST, **each.get("info", {})},
            }
            for each in entries
        ]
        own = {"state_dir": str(folder / "state"), "policy": {"name": "cheapest"}}
        tree = {
            "state_dir": own["state_dir"],
            "model_list": listed,
            "router_settings": {"num_retries": 0, **router},
            "general_settings": {"master_key": "sk-1234"},
            "pointsman": own,
        }
        async with serving(folder, tree) as running:
            async with httpx.AsyncClient(base_url=running.url, timeout=30, headers=MASTER) as client:
                yield client, engine


async def ask(client: httpx.AsyncClient, model: str, *, key: str = "", **more: Any) -> httpx.Response:
    headers = {**more.pop("headers", {}), **({"Authorization": f"Bearer {key}"} if key else {})}
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20, **more}
    return await client.post(CHAT, json=body, headers=headers)


async def said(client: httpx.AsyncClient, model: str, **more: Any) -> str:
    answer = await ask(client, model, **more)
    return str(answer.json()["choices"][0]["message"]["content"]) if answer.is_success else str(answer.status_code)


async def generate(client: httpx.AsyncClient, **given: Any) -> str:
    answer = await client.post("/key/generate", json=given)
    assert answer.is_success, answer.text
    return str(answer.json()["key"])


async def test_a_key_for_a_group_may_use_its_models_alone(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [
        {"name": "new", "model": "m-new", "info": {"access_groups": ["beta", "all"]}},
        {"name": "old", "model": "m-old", "info": {"access_groups": ["all"]}},
        {"name": "hidden", "model": "m-hidden"},
        {"name": "many/*", "model": "*", "info": {"access_groups": ["stars"]}},
    ]
    async with gateway(tmp_path, entries) as (client, _):
        beta, every = await generate(client, models=["beta"]), await generate(client, models=["all"])
        both = await generate(client, models=["beta", "hidden"])
        for key, may in ((beta, {"new"}), (every, {"new", "old"}), (both, {"new", "hidden"})):
            answered = {name for name in ("new", "old", "hidden") if (await ask(client, name, key=key)).is_success}
            assert answered == may
            page = (await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})).json()
            assert {each["id"] for each in page["data"]} & {"new", "old", "hidden"} == may
            assert (await said(client, "auto", key=key)).removeprefix("from m-") in may
        stars = await generate(client, models=["stars"])
        assert [(await ask(client, name, key=stars)).is_success for name in ("many/m-new", "new")] == [True, False]
        assert not (await ask(client, "many/m-new", key=beta)).is_success
        info = (await client.get("/key/info", params={"key": beta})).json()["info"]
        assert info["models"] == ["beta"]  # as it was asked for: a model that joins the group later is its own too


async def test_servers_of_a_higher_order_are_asked_where_none_of_a_lower_one_can_answer(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [
        {"name": "a", "model": "second", "order": 2},
        {"name": "a", "model": "first", "order": "1"},
        {"name": "b", "model": "broken", "order": 1},
        {"name": "b", "model": "spare", "order": 2},
    ]
    async with gateway(tmp_path, entries, ("broken",), num_retries=1) as (client, _):
        assert {await said(client, "a") for _ in range(12)} == {"from first"}
        assert {await said(client, "b") for _ in range(6)} == {"from spare"}


async def test_requests_go_by_their_tags_and_others_by_default(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [
        {"name": "a", "model": "free", "tags": ["free"]},
        {"name": "a", "model": "paid", "tags": ["paid", "vip"]},
        {"name": "a", "model": "usual", "tags": ["default"]},
        {"name": "strict", "model": "only-paid", "tags": ["paid"]},
        {"name": "strict", "model": "only-vip", "tags": ["vip"]},
        {"name": "open", "model": "anybodys"},
    ]
    async with gateway(tmp_path, entries, enable_tag_filtering=True) as (client, engine):
        for _ in range(5):
            assert await said(client, "a") == "from usual"
            assert await said(client, "a", metadata={"tags": ["free"]}) == "from free"
            assert await said(client, "a", tags=["vip"]) == "from paid"
            assert await said(client, "a", headers={"x-litellm-tags": "unheard, paid"}) == "from paid"
            assert await said(client, "a", metadata={"tags": ["unheard"]}) == "from usual"
            assert await said(client, "strict", tags=["vip"]) == "from only-vip"
            assert await said(client, "open", tags=["free"]) == "from anybodys"
        assert not [each for each in engine.heard if b"tags" in each.body]  # providers refuse lists in metadata
        await ask(client, "a", metadata={"tags": ["free"], "run": "7"})
        assert engine.heard[-1].json()["metadata"] == {"run": "7"}
        heard = len(engine.heard)
        refused = await ask(client, "strict", metadata={"tags": ["free"]})
        assert (refused.status_code, len(engine.heard)) == (400, heard)
        assert "other tags" in refused.json()["error"]["message"]
        assert await said(client, "auto", metadata={"tags": ["free"]}) in {"from free", "from anybodys"}
        key = await generate(client, metadata={"tags": ["paid"]})
        assert await said(client, "a", key=key) == "from paid"
        assert await said(client, "a", metadata={"tags": [7, None, {"x": []}]}) == "from usual"
