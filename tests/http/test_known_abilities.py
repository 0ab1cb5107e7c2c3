"""What a model is known to lack, and what is left of its context, is seen before it is asked."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from tests.clients import engine as able
from tests.http.conftest import serving
from tests.http.test_abilities import ASK, FEATURES

CHAT = "/v1/chat/completions"
LACKS = ["tool_choice", "json_object", "json_schema", "logprobs", "logit_bias", "seed", "images", "audio", "reasoning"]
LACKS += ["parallel_tool_calls", "prefill", "files", "n"]
MORE: dict[str, dict[str, Any]] = {
    "parallel": {"tools": FEATURES["tools"][0]["tools"], "parallel_tool_calls": True},
    "prefill": {"messages": [*ASK["messages"], {"role": "assistant", "content": "Well,"}]},
    "files": {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "data:,x"}}]}]},
}
PLAIN = {"model", "messages", "max_tokens", "max_completion_tokens", "tools", "stream", "stream_options"}
CONTEXT = 2_000  # tokens of the small one's context; like vLLM it refuses what does not fit
HEARD: list[dict[str, Any]] = []


class Gruff(able.Handler):
    """Refuses all but plain text, in words that tell nobody why."""

    def do_POST(self) -> None:  # noqa: N802  (the library's name)
        request = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)))
        HEARD.append(request)
        last, prompt = request["messages"][-1], len(str(request["messages"])) // 4
        longest = request.get("max_tokens") or request.get("max_completion_tokens", 1)
        if prompt + longest > CONTEXT:
            self._json(400, {"error": {"message": f"{prompt} tokens and {longest} do not fit"}})
        elif request.keys() - PLAIN or not isinstance(last["content"], str) or last["role"] != "user":
            self._json(400, {"error": {"message": "bad thing 17"}})
        else:
            self._json(200, able.whole(request, {"role": "assistant", "content": "from the gruff one"}))


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder, wide = tmp_path_factory.mktemp("lacks"), able.serve()
    gruff = ThreadingHTTPServer(("127.0.0.1", 0), Gruff)
    threading.Thread(target=gruff.serve_forever, daemon=True).start()
    settings = {
        "state_dir": str(folder / "state"),
        "policy": {"name": "cheapest"},
        "auth": {"required": False},
        "backends": {
            name: {"kind": "vllm", "url": f"http://127.0.0.1:{server.server_port}"}
            for name, server in (("gruff", gruff), ("wide", wide))
        },
        "models": [
            {
                "name": name,
                "backend": name,
                "price": {"prompt": price, "completion": price},
                "context_tokens": CONTEXT,
                "capabilities": ["chat", "tools", "vision", "logprobs"],
                **more,
            }
            for name, price, more in (("gruff", 1, {"lacks": LACKS}), ("wide", 10, {}))
        ],
    }
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving(folder, settings)) as running:
        with httpx.Client(base_url=running.url, timeout=30) as client:
            yield client
    for server in (wide, gruff):
        server.shutdown()
        server.server_close()


def test_of_500_mixed_requests_none_meets_the_model_that_is_known_to_lack_what_they_ask(http: httpx.Client) -> None:
    chance, asks = random.Random(7), {name: each[0] for name, each in FEATURES.items()} | MORE
    del asks["tools"]  # which the gruff one takes
    served = dict.fromkeys(("gruff", "wide"), 0)
    for _ in range(500):
        chosen = chance.sample(sorted(asks), chance.randrange(3))
        answer = http.post(
            CHAT,
            json={key: value for each in chosen for key, value in asks[each].items()}
            | {
                "model": "auto",
                "max_tokens": 40,
                **({} if chosen else {"messages": ASK["messages"]}),
                **({} if any("messages" in asks[each] for each in chosen) else {"messages": ASK["messages"]}),
            },
        )
        assert answer.status_code == 200, (chosen, answer.text)
        served[answer.json()["model"]] += 1
        assert (answer.json()["model"] == "gruff") is not bool(chosen)
    assert min(served.values()) > 50


def test_where_nobody_else_is_left_the_model_says_so_itself(http: httpx.Client) -> None:
    asked = {**ASK, "seed": 5, "routing": {"allowed_models": ["gruff"]}}
    answer = http.post(CHAT, json=asked)
    assert (answer.status_code, "bad thing 17" in answer.text) == (400, True)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_more_tokens_than_the_context_has_left_are_cut_to_what_is_left_and_a_header_says_so(
    http: httpx.Client, field: str
) -> None:
    text = "word " * 800  # about half of the context
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], field: 1_000_000}
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    heard = (HEARD if answer.json()["model"] == "gruff" else able.HEARD)[-1]
    given = int(answer.headers["x-pointsman-max-tokens"])
    assert heard[field] == given
    assert 200 < given < CONTEXT - len(text) // 4


@pytest.mark.parametrize(("path", "field"), [("/v1/responses", "max_output_tokens"), ("/v1/messages", "max_tokens")])
def test_so_are_those_of_other_protocols(http: httpx.Client, path: str, field: str) -> None:
    asked = "input" if path == "/v1/responses" else "messages"
    answer = http.post(path, json={"model": "auto", asked: ASK["messages"], field: 50_000})
    assert answer.status_code == 200, answer.text
    assert HEARD[-1]["max_tokens"] == int(answer.headers["x-pointsman-max-tokens"]) < CONTEXT


def test_a_request_that_fits_is_not_touched_and_one_that_is_too_long_itself_is_refused(http: httpx.Client) -> None:
    fits = http.post(CHAT, json=ASK)
    assert (HEARD[-1]["max_tokens"], "x-pointsman-max-tokens" in fits.headers) == (40, False)
    long = http.post(CHAT, json={**ASK, "messages": [{"role": "user", "content": "word " * 5_000}]})
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_model_asked_for_by_its_name_gets_what_the_client_said(http: httpx.Client) -> None:
    answer = http.post(CHAT, json={**ASK, "model": "gruff", "max_tokens": CONTEXT + 7})
    assert answer.status_code == 400
    assert "x-pointsman-max-tokens" not in answer.headers


def test_the_most_a_request_may_cost_holds_for_an_answer_that_is_cut(http: httpx.Client) -> None:
    asked = {**ASK, "max_tokens": 50_000, "routing": {"max_cost_usd": 0.0000001}}
    answer = http.post(CHAT, json=asked)
    assert answer.status_code == 400
    assert "may cost" in answer.text
