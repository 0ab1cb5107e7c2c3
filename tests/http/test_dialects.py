"""The official SDKs through the gateway to an engine that speaks chat completions and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from tests.clients.engine import HEARD, serve
from tests.http.conftest import Running, serving

PROGRAMS = Path(__file__).parents[1] / "clients" / "programs"
KEY, OTHER = "sk-of-a-stranger", "sk-of-another"
ASK = {"model": "auto", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 50}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, engine = tmp_path_factory.mktemp("dialects"), serve()
    model = {"name": "talker", "price": {"prompt": 1, "completion": 4}, "context_tokens": 200_000}
    settings = {
        "state_dir": str(folder / "state"),
        "backends": {"talk": {"kind": "vllm", "url": f"http://127.0.0.1:{engine.server_port}"}},
        "policy": {"name": "cheapest"},
        "models": [
            {**model, "capabilities": ["chat", "tools"]},
            {**model, "name": "spare", "price": {"prompt": 9, "completion": 9}, "capabilities": ["chat"]},
        ],
        "tenants": {
            "t": {"keys": [{"secret": KEY}]},
            "other": {"allowed_models": ["spare"], "keys": [{"secret": OTHER}]},
        },
        "responses": {"key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="},
        "server": {"cors_origins": ["https://app.example"]},
    }
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving(folder, settings)) as running:
        yield running
    engine.shutdown()
    engine.server_close()


@pytest.fixture
def client(gateway: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers={"api-key": KEY}, timeout=30) as client:
        yield client


@pytest.mark.parametrize("program", ["openai_python", "anthropic_python"])
def test_an_official_sdk_does_everything_it_can(gateway: Running, program: str) -> None:
    env = {
        **os.environ,
        "MODEL": "auto",
        "ROOT_URL": gateway.url,
        "OPENAI_BASE_URL": f"{gateway.url}/v1",
        "ANTHROPIC_BASE_URL": gateway.url,
        "OPENAI_API_KEY": KEY,
        "ANTHROPIC_API_KEY": KEY,
    }
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / f"{program}.py")], env=env, capture_output=True, text=True, check=False
    )
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    failed = {each["check"]: each["why"] for each in checks if not each["ok"]}
    assert len(checks) > 5, done.stderr
    assert not failed, failed


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/messages", "messages"), ("/v1/responses", "input")],
)
def test_what_the_engine_heard_is_chat_and_what_was_paid_is_its_usage(
    client: httpx.Client, path: str, field: str
) -> None:
    asked = {"model": "auto", field: ASK["messages"], "max_tokens": 50, "max_output_tokens": 50}
    answer = client.post(path, json=asked)
    assert answer.status_code == 200, answer.text
    heard, usage = HEARD[-1], answer.json()["usage"]
    assert heard["messages"] == ASK["messages"]
    assert heard["max_tokens"] == 50
    paid = float(answer.headers["x-pointsman-cost-usd"])
    assert paid == pytest.approx((usage["input_tokens"] + 4 * usage["output_tokens"]) * 1e-6)


MALFORMED = [{"role": "user", "content": [{"type": "tool_result"}]}]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_what_is_no_request_of_the_protocol_is_a_400_in_its_shape(client: httpx.Client, path: str) -> None:
    asked = {"model": "auto", "max_tokens": 5, "input": [{"type": "function_call"}], "messages": MALFORMED}
    answer = client.post(path, json=asked)
    assert answer.status_code == 400, answer.text
    assert (answer.json().get("type") == "error") is (path == "/v1/messages")


def follow(client: httpx.Client, text: str, **more: Any) -> httpx.Response:
    asked = {"model": "auto", "input": text, "max_output_tokens": 50, **more}
    answer = client.post("/v1/responses", json=asked)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("streamed", [False, True])
def test_every_turn_goes_on_from_all_before_it(client: httpx.Client, streamed: bool) -> None:
    name, said = None, []
    for turn in range(20):
        more: dict[str, Any] = {} if name is None else {"previous_response_id": name}
        answer = follow(client, f"turn {turn}", stream=streamed, **more)
        if streamed:
            last = json.loads(answer.text.rstrip().rpartition("data: ")[2])
            response = last["response"]
        else:
            response = answer.json()
        assert response["previous_response_id"] == name
        said += [f"turn {turn}", f"You said: turn {turn}"]
        assert [message["content"] for message in HEARD[-1]["messages"]] == said[:-1]
        name = response["id"]


def test_a_kept_answer_is_its_tenants_alone_and_can_be_forgotten(gateway: Running, client: httpx.Client) -> None:
    response = follow(client, "a secret word").json()
    path = f"/v1/responses/{response['id']}"
    assert client.get(path).json() == response
    (item,) = client.get(f"{path}/input_items").json()["data"]
    assert (item["role"], item["content"]) == ("user", [{"type": "input_text", "text": "a secret word"}])
    with httpx.Client(base_url=gateway.url, headers={"api-key": OTHER}) as stranger:
        assert stranger.get(path).status_code == stranger.delete(path).status_code == 404
        asked = {"model": "auto", "input": "go on", "previous_response_id": response["id"]}
        refused = stranger.post("/v1/responses", json=asked)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "previous_response_not_found")
    assert client.delete(path).json() == {"id": response["id"], "object": "response", "deleted": True}
    assert client.get(path).status_code == 404


def test_what_a_client_wants_not_stored_is_not(client: httpx.Client) -> None:
    response = follow(client, "forget this", store=False).json()
    assert client.get(f"/v1/responses/{response['id']}").status_code == 404


def test_what_is_kept_is_encrypted_where_a_key_is_given(gateway: Running, client: httpx.Client) -> None:
    follow(client, "an unusual phrase")
    files = list((gateway.config.parent / "state").glob("pointsman.db*"))
    assert files
    assert not any(b"unusual phrase" in file.read_bytes() for file in files)


@pytest.mark.parametrize(
    "path",
    [
        "/chat/completions",
        "/v1/chat/completions",
        "/openai/v1/chat/completions",
        "/openai/deployments/talker/chat/completions?api-version=2024-10-21",
    ],
)
def test_every_path_to_chat_leads_there(client: httpx.Client, path: str) -> None:
    assert client.post(path, json=ASK).json()["model"] == "talker"


def test_an_azure_path_names_the_model_where_the_body_does_not(client: httpx.Client) -> None:
    asked = {key: value for key, value in ASK.items() if key != "model"}
    assert client.post("/openai/deployments/talker/chat/completions", json=asked).json()["model"] == "talker"
    assert client.post("/openai/deployments/other/chat/completions", json=asked).status_code == 404


def test_json_is_read_under_any_content_type(client: httpx.Client) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}  # what curl -d says
    answer = client.post("/v1/chat/completions", content=json.dumps(ASK), headers=headers)
    decision = answer.headers["x-pointsman-decision-id"]
    judged = json.dumps({"decision_id": decision, "score": 1.0})
    assert client.post("/v1/feedback", content=judged, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/nowhere", "/v1/chat/completions"])
def test_every_answer_has_an_id(client: httpx.Client, path: str) -> None:
    assert client.get(path).headers["x-request-id"].startswith("req-")
    assert client.get(path, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"


def test_pages_of_allowed_origins_may_call_and_no_others(client: httpx.Client) -> None:
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
        headers = {"origin": origin, "access-control-request-method": "POST"}
        asked = client.options("/v1/chat/completions", headers=headers)
        assert (asked.headers.get("access-control-allow-origin") == origin) is allowed


def test_a_model_that_a_key_may_not_use_is_not_described_to_it(gateway: Running, client: httpx.Client) -> None:
    assert client.get("/v1/models/talker").json()["id"] == "talker"
    with httpx.Client(base_url=gateway.url, headers={"api-key": OTHER}) as stranger:
        assert stranger.get("/v1/models/talker").status_code == 404


def test_tokens_are_counted_without_a_call(client: httpx.Client) -> None:
    before = len(HEARD)
    few = client.post("/v1/messages/count_tokens", json=ASK).json()["input_tokens"]
    many = client.post("/v1/responses/input_tokens", json={"model": "auto", "input": "hello there " * 100}).json()
    assert 0 < few < 20
    assert 200 < many["input_tokens"] < 500
    assert len(HEARD) == before
