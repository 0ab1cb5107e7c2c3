"""Engines that cannot do everything: a request goes to one that can, and nobody suffers for another's requests."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from tests.clients import engine as able
from tests.http.conftest import Running, serving

ASK: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 40}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SOUND = [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}, {"type": "text", "text": "what?"}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {}}}}
PIXEL = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
# What is asked, and what engines of the field answer where they cannot do it.
FEATURES: dict[str, tuple[dict[str, Any], int, object]] = {
    "tools": (
        {"tools": [TOOL]},
        400,
        {
            "error": {
                "message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            }
        },
    ),
    "tool_choice": (
        {"tools": [TOOL], "tool_choice": "required"},
        400,
        {"error": {"message": "tool_choice is not supported", "param": "tool_choice", "code": "unsupported_parameter"}},
    ),
    "json_object": (
        {"response_format": {"type": "json_object"}},
        400,
        {"error": {"message": "Invalid parameter: 'response_format' of type 'json_object' is not supported."}},
    ),
    "json_schema": ({"response_format": SCHEMA}, 501, {"error": {"message": "response_format: not implemented"}}),
    "logprobs": ({"logprobs": True}, 400, {"error": {"message": "`logprobs` is not supported with this model"}}),
    "logit_bias": ({"logit_bias": {"5": 1}}, 400, {"error": {"message": "Unsupported parameter: 'logit_bias'"}}),
    "seed": ({"seed": 5}, 422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}),
    "audio": (
        {"messages": [{"role": "user", "content": SOUND}]},
        400,
        {"object": "error", "message": "At most 0 audio(s) may be provided in one request."},
    ),
    "images": (
        {"messages": [{"role": "user", "content": PIXEL}]},
        400,
        {"object": "error", "message": "narrow is not a multimodal model"},
    ),
    "reasoning": ({"reasoning_effort": "low"}, 400, {"error": "narrow does not support thinking"}),
}
HEARD: list[dict[str, Any]] = []


class Narrow(able.Handler):
    """Refuses every feature in the words of the field's engines; has no route but chat."""

    def do_POST(self) -> None:  # noqa: N802  (the library's name)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path != "/v1/chat/completions":
            self._json(404, {"detail": "Not Found"})
            return
        request = json.loads(body)
        HEARD.append(request)
        for asked, status, said in FEATURES.values():
            if all(request.get(key) == value for key, value in asked.items()):
                self._json(status, said)
                return
        if "bad" in str(request["messages"][-1]["content"]):
            self._json(400, {"error": {"message": "messages[0].content: this text is bad"}})
            return
        self._json(200, able.whole(request, {"role": "assistant", "content": "from the narrow one"}))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, wide = tmp_path_factory.mktemp("abilities"), able.serve()
    narrow = ThreadingHTTPServer(("127.0.0.1", 0), Narrow)
    threading.Thread(target=narrow.serve_forever, daemon=True).start()
    every = ["chat", "tools", "vision", "logprobs", "messages", "responses"]
    settings = {
        "state_dir": str(folder / "state"),
        "policy": {"name": "cheapest"},
        "backends": {
            name: {"kind": "vllm", "url": f"http://127.0.0.1:{server.server_port}"}
            for name, server in (("narrow", narrow), ("wide", wide))
        },
        "models": [
            {
                "name": name,
                "backend": name,
                "price": {"prompt": price, "completion": price},
                "context_tokens": 50_000,
                "capabilities": every,
            }
            for name, price in (("narrow", 1), ("wide", 10))
        ],
        "tenants": {name: {"keys": [{"secret": f"sk-{name}-secret"}]} for name in "abc"},
    }
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving(folder, settings)) as running:
        yield running
    for server in (wide, narrow):
        server.shutdown()
        server.server_close()


@pytest.fixture
def client(gateway: Running) -> Iterator[Callable[[str], httpx.Client]]:
    clients = []

    def of(tenant: str) -> httpx.Client:
        headers = {"authorization": f"Bearer sk-{tenant}-secret"}
        clients.append(httpx.Client(base_url=gateway.url, headers=headers, timeout=30))
        return clients[-1]

    yield of
    for each in clients:
        each.close()


def test_of_many_mixed_requests_none_is_refused_while_one_engine_can(client: Callable[[str], httpx.Client]) -> None:
    chance, http = random.Random(5), client("a")
    for _ in range(500):
        asked: dict[str, Any] = dict(ASK)
        for feature in chance.sample(sorted(FEATURES), chance.randrange(3)):
            asked |= FEATURES[feature][0]
        answer = http.post("/v1/chat/completions", json=asked)
        assert answer.status_code == 200, (asked, answer.text)
    assert http.post("/v1/chat/completions", json=ASK).json()["model"] == "narrow"  # plain text still goes there


@pytest.mark.parametrize("feature", sorted(FEATURES))
def test_a_refused_feature_is_remembered_for_the_tenant_alone(
    client: Callable[[str], httpx.Client], feature: str
) -> None:
    asked = ASK | FEATURES[feature][0]
    assert client("b").post("/v1/chat/completions", json=asked).json()["model"] == "wide"
    heard = len(HEARD)
    assert client("b").post("/v1/chat/completions", json=asked).json()["model"] == "wide"
    assert len(HEARD) == heard  # it was not asked again
    assert client("c").post("/v1/chat/completions", json=asked).json()["model"] == "wide"
    assert len(HEARD) == heard + 1  # for another tenant it was: nobody can talk a model out of others' requests


@pytest.mark.parametrize("feature", ["tools", "json_object", "reasoning"])
def test_a_pinned_models_refusal_is_passed_on_in_its_own_words(
    client: Callable[[str], httpx.Client], feature: str
) -> None:
    fields, _, said = FEATURES[feature]
    answer = client("b").post("/v1/chat/completions", json=ASK | fields | {"model": "narrow"})
    assert answer.status_code == 400
    words = said["error"] if isinstance(said, dict) else ""
    words = words["message"] if isinstance(words, dict) else words
    assert words in answer.json()["error"]["message"]


def test_a_clients_own_mistake_is_refused_at_once_and_not_taken_elsewhere(
    client: Callable[[str], httpx.Client],
) -> None:
    wide = len(able.HEARD)
    answer = client("a").post(
        "/v1/chat/completions", json={**ASK, "messages": [{"role": "user", "content": "a bad one"}]}
    )
    assert (answer.status_code, len(able.HEARD)) == (400, wide)
    assert "this text is bad" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("path", "field"), [("/v1/messages", "messages"), ("/v1/responses", "input")])
def test_an_engine_without_a_protocol_it_was_thought_to_have_is_asked_in_chat(
    client: Callable[[str], httpx.Client], path: str, field: str
) -> None:
    asked = {"model": "narrow", field: ASK["messages"], "max_tokens": 40}
    for _ in range(2):
        answer = client("a").post(path, json=asked)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == "narrow"


def test_where_nobody_else_is_left_the_engines_own_words_are_given_each_time(
    client: Callable[[str], httpx.Client],
) -> None:
    fields, _, _ = FEATURES["reasoning"]
    alone = {**ASK, **fields, "routing": {"allowed_models": ["narrow"]}}
    for _ in range(2):
        answer = client("a").post("/v1/chat/completions", json=alone)
        assert (answer.status_code, "does not support thinking" in answer.text) == (400, True)
