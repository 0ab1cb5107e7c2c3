"""LiteLLM's own file in front of engines on real sockets: names, chains, budgets and defaults are kept.

Files as they are found in public repositories lie in ../shared/litellm_files; where they are absent, they are skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import yaml

from backends import cost_map
from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from router.settings import build
from router.settings.source import parse
from tests.http.conftest import Running, serving

pytestmark = pytest.mark.anyio
PUBLIC = Path(__file__).parents[3] / "shared" / "litellm_files"
FILES = sorted(PUBLIC.glob("*.yaml"))
EACH = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
if not FILES:
    EACH = pytest.mark.skip(reason=f"no public LiteLLM files at {PUBLIC}")
COST = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
CHAT = "/v1/chat/completions"


def variables(path: Path) -> dict[str, str]:
    """A dummy for each variable a file refers to."""
    found = dict.fromkeys(re.findall(r"os\.environ/(\w+)", path.read_text()), "sk-dummy")
    found |= {name: "http://127.0.0.1:9/v1" for name in found if name.endswith("_BASE")}
    return found | {"RF_EXTRACT_MODEL": "anthropic/claude-haiku-4-5", "RF_VERIFY_MODEL": "openai/gpt-4o"}


def entry(name: str, engine: ScriptedServer, **more: Any) -> dict[str, Any]:
    params = {"model": f"hosted_vllm/{name}", "api_base": f"{engine.url}/v1", **more}
    return {"model_name": name, "litellm_params": params, "model_info": COST}


@asynccontextmanager
async def gateway(
    folder: Path, lines: dict[str, Line], params: dict[str, dict[str, Any]] | None = None, **sections: Any
) -> AsyncIterator[tuple[Running, httpx.AsyncClient, ScriptedServer]]:
    async with ScriptedServer(by_model(lines)) as engine:
        own = {"state_dir": str(folder / "state"), "policy": {"name": "cheapest"}}
        tree = {
            "state_dir": str(folder / "state"),
            "model_list": [entry(name, engine, **(params or {}).get(name, {})) for name in lines],
            "pointsman": own,
            **sections,
        }
        async with serving(folder, tree) as running, httpx.AsyncClient(base_url=running.url, timeout=30) as client:
            yield running, client, engine


async def ask(client: httpx.AsyncClient, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20, **more}
    return await client.post(CHAT, json={key: value for key, value in body.items() if value is not None})


@EACH
def test_a_public_file_starts_and_every_key_that_is_not_kept_is_named(path: Path) -> None:
    env = {**os.environ, **variables(path)}
    tree, command = yaml.safe_load(path.read_text()), [sys.executable, "-m", "pointsman", "check", str(path)]
    check = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    names_redis = "redis_host" in (tree.get("router_settings") or {})  # and none is there, so that no gateway starts
    assert check.returncode == (2 if names_redis else 0), check.stderr
    assert subprocess.run([*command, "--offline"], env=env, capture_output=True, check=False).returncode == 0
    said = check.stdout
    for section in ("general_settings", "litellm_settings", "router_settings"):
        for key in tree.get(section) or {}:
            kept = ("master_key", "drop_params", "default_model", "request_timeout", "num_retries", "fallbacks")
            money = ("max_budget", "budget_duration", "provider_budget_config", "redis_host")
            assert key in kept + money or f"{section}.{key}: has no effect here" in said


@EACH
def test_nothing_but_models_of_text_is_a_candidate_for_chat(path: Path) -> None:
    settings = build(parse(path.read_text()), variables(path))
    able = {model.name for model in settings.candidates() if "chat" in model.capabilities}
    assert able
    assert not able & {"govchat-embedding", "gpt-image-2", "veo-3.1", "grok-video", "tts-fast", "whisper"}


async def test_a_chain_of_fallbacks_holds_in_the_files_order(tmp_path: Path) -> None:
    lines = {
        "first": Line(trouble="500"),
        "second": Line(trouble="500"),
        "third": Line(text="from the third"),
        "fourth": Line(text="from the fourth"),
    }
    chains = {"fallbacks": [{"first": ["second", "third", "fourth"]}], "num_retries": 0}
    async with gateway(tmp_path, lines, router_settings=chains) as (_, client, engine):
        answer = (await ask(client, "first")).json()
        assert answer["model"] == "third"
        assert [heard.json()["model"] for heard in engine.heard] == ["first", "second", "third"]
        assert (await ask(client, "second")).status_code == 502  # a model without a chain has its own error


async def test_the_chain_of_a_name_that_cannot_be_called_answers_for_it(tmp_path: Path) -> None:
    chains = {"fallbacks": [{"gone": ["good"]}]}
    async with gateway(tmp_path, {"good": Line(text="here")}, router_settings=chains) as (_, client, _engine):
        assert (await ask(client, "gone")).json()["model"] == "good"
        assert (await ask(client, "never-heard-of")).status_code == 404


async def test_aliases_and_unknown_names_mean_what_the_file_says(tmp_path: Path) -> None:
    router, library = {"model_group_alias": {"gpt-4": "b"}}, {"default_model": "a"}
    lines = {"a": Line(text="from a"), "b": Line(text="from b")}
    async with gateway(tmp_path, lines, router_settings=router, litellm_settings=library) as (_, client, _engine):
        assert (await ask(client, "gpt-4")).json()["model"] == "b"
        assert "gpt-4" in [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
        assert (await ask(client, "whatever-else")).json()["model"] == "a"


async def test_defaults_hold_where_the_client_sets_none_and_dropped_fields_stay_here(tmp_path: Path) -> None:
    params = {"a": {"temperature": 0.25, "max_tokens": 7, "additional_drop_params": ["logit_bias"]}}
    async with gateway(tmp_path, {"a": Line(text="x")}, params) as (_, client, engine):
        await ask(client, "a", logit_bias={"1": 2}, max_tokens=None)
        await ask(client, "a", temperature=0.9)
        first, second = (heard.json() for heard in engine.heard)
        assert (first["temperature"], first["max_tokens"], "logit_bias" in first) == (0.25, 7, False)
        assert (second["temperature"], second["max_tokens"]) == (0.9, 20)


async def test_budgets_of_a_model_and_of_everybody_are_kept(tmp_path: Path) -> None:
    """A request's worst case is a few hundred tokens at a millionth of a dollar each."""
    lines, params = {"a": Line(text="x"), "b": Line(text="x")}, {"a": {"max_budget": 0.00005, "budget_duration": "1h"}}
    library = {"max_budget": 0.0003, "budget_duration": "1d"}
    async with gateway(tmp_path, lines, params, litellm_settings=library) as (_, client, engine):
        refused = await ask(client, "a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert "model:a" in refused.json()["error"]["message"]
        answers = [await ask(client, "b") for _ in range(60)]
        codes = [answer.status_code for answer in answers]
        assert codes[0] == 200
        assert codes[-1] == 429
        assert "models:gateway" in answers[-1].json()["error"]["message"]
        assert all(heard.json()["model"] == "b" for heard in engine.heard)


async def test_each_replica_is_charged_at_its_own_price_and_the_hold_covers_the_most_expensive(tmp_path: Path) -> None:
    lines = {"cheap": Line(text="one two three"), "expensive": Line(text="one two three")}
    async with ScriptedServer(by_model(lines)) as engine:
        entries = [
            {
                "model_name": "group",
                "litellm_params": {"model": f"hosted_vllm/{name}", "api_base": f"{engine.url}/v1"},
                "model_info": {"input_cost_per_token": price, "output_cost_per_token": price},
            }
            for name, price in (("cheap", 1e-7), ("expensive", 1e-4))
        ]
        own = {"state_dir": str(tmp_path / "state"), "policy": {"name": "cheapest"}}
        tree = {"state_dir": own["state_dir"], "model_list": entries, "pointsman": own}
        async with serving(tmp_path, tree) as running, httpx.AsyncClient(base_url=running.url, timeout=30) as client:
            for turn in range(8):
                answer = await ask(client, "group")
                usage = answer.json()["usage"]
                upstream = engine.heard[turn].json()["model"]
                price = {"cheap": 1e-7, "expensive": 1e-4}[upstream]
                tokens = usage["prompt_tokens"] + usage["completion_tokens"]
                assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx(tokens * price)
            assert {heard.json()["model"] for heard in engine.heard} == {"cheap", "expensive"}


async def test_a_name_under_a_wildcard_is_passed_on_charged_by_the_map_and_listed_when_asked_for(
    tmp_path: Path,
) -> None:
    lines = {name: Line(text="one two three") for name in ("deepseek-chat", "qwen", "base")}
    lines["not-there"] = Line(trouble="500")
    async with gateway(tmp_path, lines) as (_, _client, engine):
        own = {"state_dir": str(tmp_path / "own"), "policy": {"name": "cheapest"}, "log": {"keep_text": True}}
        own |= {"tenants": {"t": {"keys": [{"secret": "sk-narrow", "allowed_models": ["mine/*"]}]}}}
        tree = {
            "state_dir": own["state_dir"],
            "model_list": [
                {"model_name": "deepseek/*", "litellm_params": {"model": "deepseek/*", "api_base": f"{engine.url}/v1"}},
                {"model_name": "mine/*", "litellm_params": {"model": "openai/*", "api_base": f"{engine.url}/v1"}},
            ],
            "general_settings": {"master_key": "sk-1"},
            "router_settings": {"fallbacks": [{"*": ["mine/base"]}], "num_retries": 0},
            "pointsman": own,
        }
        folder = tmp_path / "second"
        folder.mkdir()
        async with serving(folder, tree) as running:
            headers = {"Authorization": "Bearer sk-1"}
            async with httpx.AsyncClient(base_url=running.url, timeout=30, headers=headers) as client:
                answer = await ask(client, "deepseek/deepseek-chat")
                assert answer.json()["model"] == answer.headers["x-pointsman-model"] == "deepseek/deepseek-chat"
                usage, cost = answer.json()["usage"], cost_map.find("deepseek/deepseek-chat")
                assert cost is not None
                worth = sum(
                    usage[f"{kind}_tokens"] * cost.costs[f"{way}_cost_per_token"]
                    for kind, way in (("prompt", "input"), ("completion", "output"))
                )
                assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx(worth, abs=2e-9)
                assert (await ask(client, "mine/qwen")).json()["model"] == "mine/qwen"
                assert engine.heard[-1].json()["model"] == "qwen"
                assert (await ask(client, "mine/not-there")).json()["model"] == "mine/base"  # its engine fails
                assert (await ask(client, "elsewhere/x")).status_code == 404
                assert (await ask(client, "auto")).status_code == 503
                feedback = {"decision_id": answer.headers["x-pointsman-decision-id"], "score": 1}
                assert (await client.post("/v1/feedback", json=feedback)).is_success
                assert "mine/*" not in await listed(client)
                assert {"mine/*", "deepseek/*", "deepseek/deepseek-chat"} <= await listed(client, ask_for_all="true")
                one = (await client.get("/v1/models/deepseek/deepseek-chat")).json()
                assert one["max_model_len"] == cost.context_tokens
                narrow = {"Authorization": "Bearer sk-narrow"}
                body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
                codes = [
                    (await client.post(CHAT, json={**body, "model": name}, headers=narrow)).status_code
                    for name in ("mine/qwen", "deepseek/deepseek-chat")
                ]
                assert codes[0] == 200
                assert codes[1] in (400, 403, 404)


async def listed(client: httpx.AsyncClient, ask_for_all: str = "false") -> set[str]:
    page = await client.get("/v1/models", params={"return_wildcard_routes": ask_for_all})
    return {each["id"] for each in page.json()["data"]}


async def test_headers_of_the_protocols_are_passed_on_and_a_clients_cookies_are_not(tmp_path: Path) -> None:
    passed = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "tools-1",
        "openai-beta": "assistants=v2",
        "openai-organization": "org-client",
    }
    kept = {"openai-project": "p", "cookie": "a=b"}
    async with gateway(tmp_path, {"a": Line(text="x")}) as (_, client, engine):
        body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        answer = await client.post(CHAT, json=body, headers=passed | kept)
        assert answer.status_code == 200, answer.text
        heard = engine.heard[-1].headers
        assert {name: heard.get(name) for name in passed} == passed
        assert kept.keys().isdisjoint(heard)


async def test_retired_unpriced_and_unreachable_entries_leave_the_others_and_are_listed_with_the_reason(
    tmp_path: Path,
) -> None:
    """`gone` by litellm's own map; the engine of `away` is not there; nothing prices `unpriced`."""
    gone = next(
        name
        for name in cost_map.under("together_ai")
        if (found := cost_map.find(name)) and found.mode == "chat" and (found.retires or "9") < "2026-11"
    )
    async with ScriptedServer(by_model({"good": Line(text="here")})) as engine:
        entries = [
            entry("good", engine),
            {"model_name": "gone", "litellm_params": {"model": gone, "api_key": "sk-x"}},
            {"model_name": "unpriced", "litellm_params": {"model": "openai/never-priced", "api_key": "sk-x"}},
            {
                **entry("away", engine),
                "litellm_params": {"model": "hosted_vllm/away", "api_base": "http://127.0.0.1:9"},
            },
        ]
        own = {"state_dir": str(tmp_path / "state"), "policy": {"name": "cheapest"}}
        tree = {"state_dir": own["state_dir"], "model_list": entries, "pointsman": own}
        async with serving(tmp_path, tree) as running, httpx.AsyncClient(base_url=running.url, timeout=30) as client:
            for _ in range(10):
                assert (await ask(client, "auto")).json()["model"] == "good"
            for name, why in (("gone", "was retired on"), ("unpriced", "no price for 'openai/never-priced'")):
                answer = await ask(client, name)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
                assert why in answer.json()["error"]["message"]
                assert why in (await client.get(f"/v1/models/{name}")).json()["error"]["message"]
            assert (await ask(client, "away")).status_code == 503
            page = (await client.get("/v1/models")).json()
            assert [each["id"] for each in page["not_routable"]] == ["unpriced", "gone"]
            assert all("add model_list[" in each["reason"] for each in page["not_routable"])
            unavailable = {each["id"]: each.get("unavailable") for each in page["data"]}
            assert (unavailable["good"], unavailable["away"]) == (None, "its backend is down")
            assert not {"gone", "unpriced"} & unavailable.keys()
        command = [sys.executable, "-m", "pointsman", "check", str(running.config)]
        declared = (await anyio.run_process(command)).stdout.decode()
        assert [line.split()[2] for line in declared.splitlines() if line.startswith("not routable")] == [
            *("unpriced", "gone", "away")
        ]
        assert "mend model_list[3].litellm_params.api_base" in declared


async def test_a_server_that_only_completes_is_asked_so_for_a_chat_too(tmp_path: Path) -> None:
    async with gateway(tmp_path, {"base": Line(text="and so on")}) as (_, _client, engine):
        params = {"model": "text-completion-openai/base", "api_base": f"{engine.url}/v1", "api_key": "none"}
        own = {"state_dir": str(tmp_path / "own")}
        listed = [{"model_name": "base", "litellm_params": params, "model_info": COST}]
        tree = {**own, "model_list": listed, "pointsman": own}
        folder = tmp_path / "second"
        folder.mkdir()
        async with serving(folder, tree) as running, httpx.AsyncClient(base_url=running.url, timeout=30) as client:
            answer = await ask(client, "base")
            assert answer.json()["choices"][0]["message"]["content"] == "and so on", answer.text
            assert [heard.path for heard in engine.heard] == ["/v1/completions"]
