"""What an operator has to mend at a provider is no client's fault: another model answers, and nobody is blamed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from tests.clients import engine as able
from tests.http.conftest import Running, serving

# What providers answer where an account, a key, a model or an address is wrong, and what a client is told who insists.
FAULTS: dict[str, tuple[int, str, int]] = {
    "deepseek-balance": (402, "Insufficient Balance", 502),
    "proxy-auth": (407, "Proxy Authentication Required", 502),
    "conflict": (409, "The request conflicted with another one.", 502),
    "gone": (410, "This model has been retired.", 502),
    "misdirected": (421, "Misdirected Request", 502),
    "too-early": (425, "Too Early", 502),
    "groq-capacity": (498, "Flex tier capacity exceeded", 503),
    "nginx-closed": (499, "", 502),
    "anthropic-overloaded": (529, "Overloaded", 503),
    "anthropic-credit": (400, "Your credit balance is too low to access the Anthropic API.", 502),
    "openai-billing": (400, "Billing hard limit has been reached", 502),
    "openai-account": (400, "Your account is not active, please check your billing details.", 502),
    "gemini-key": (400, "API key not valid. Please pass a valid API key.", 502),
    "gemini-expired": (400, "API key expired. Please renew the API key.", 502),
    "groq-decommissioned": (400, "The model `m` has been decommissioned and is no longer supported.", 400),
    "deepseek-model": (400, "Model Not Exist", 400),
    "mistral-model": (400, "Invalid model: m", 400),
    "openrouter-model": (400, "m is not a valid model ID", 400),
}
OF_THE_ACCOUNT = ("anthropic-credit", "openai-billing", "openai-account", "gemini-key", "gemini-expired")
MISTAKES = {
    "value": (400, "temperature must be in [0, 2], got 3."),
    "size": (413, "Request Entity Too Large"),
    "shape": (422, "messages: field required"),
    "content": (400, "The response was filtered due to the prompt triggering the content policy."),
}


class Faulty(able.Handler):
    """Answers what the last message names, and gives an answer to everything else."""

    def do_POST(self) -> None:  # noqa: N802  (the library's name)
        request = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)))
        asked = str(request["messages"][-1]["content"])
        if asked in FAULTS or asked in MISTAKES:
            status, said = (FAULTS | MISTAKES)[asked][:2]
            self._json(status, {"error": {"message": said, "type": "invalid_request_error"}})
            return
        self._json(200, able.whole(request, {"role": "assistant", "content": "from the faulty one"}))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, sound = tmp_path_factory.mktemp("faults"), able.serve()
    faulty = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    threading.Thread(target=faulty.serve_forever, daemon=True).start()
    engines = {"faulty": faulty, "sound": sound}
    settings: dict[str, Any] = {
        "state_dir": str(folder / "state"),
        "policy": {"name": "cheapest"},
        "backends": {
            name: {
                "kind": "vllm",
                "url": f"http://127.0.0.1:{server.server_port}",
                "attempts": 1,
                "breaker": {"failures": 50},  # each test sees the fault, not the breaker
            }
            for name, server in engines.items()
        },
        "models": [
            {"name": name, "backend": name, "price": {"prompt": 1 + i, "completion": 1 + i}, "context_tokens": 5_000}
            for i, name in enumerate(engines)
        ],
    }
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving(folder, settings)) as running:
        yield running
    for server in engines.values():
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def client(gateway: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=30) as client:
        yield client


def ask(client: httpx.Client, said: str, model: str = "auto") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": said}], "max_tokens": 9}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_another_model_answers_where_a_providers_account_key_or_model_is_at_fault(
    client: httpx.Client, fault: str
) -> None:
    answer = ask(client, fault)
    assert (answer.status_code, answer.headers.get("x-pointsman-model")) == (200, "sound"), answer.text


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_who_insists_on_that_model_is_told_that_it_failed(client: httpx.Client, fault: str) -> None:
    answer = ask(client, fault, "faulty")
    assert answer.status_code == FAULTS[fault][2], answer.text
    if fault not in OF_THE_ACCOUNT:
        assert FAULTS[fault][1] in answer.json()["error"]["message"]


@pytest.mark.parametrize("fault", OF_THE_ACCOUNT)
def test_what_a_provider_says_of_the_operators_account_is_for_the_operator_alone(
    client: httpx.Client, gateway: Running, fault: str
) -> None:
    answer = ask(client, fault, "faulty")
    assert answer.json()["error"]["code"] == "upstream_account"
    assert FAULTS[fault][1] not in answer.text
    assert FAULTS[fault][1] in gateway.log.read_text()


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_in_the_request_is_asked_of_nobody_else(client: httpx.Client, mistake: str) -> None:
    answer = ask(client, mistake)
    assert (answer.status_code, answer.headers.get("x-pointsman-model")) == (MISTAKES[mistake][0], None), answer.text


def test_a_client_cannot_close_an_engine_to_others_by_provoking_such_words(client: httpx.Client) -> None:
    for _ in range(51):  # one more than the breaker bears
        assert ask(client, "anthropic-credit", "faulty").status_code == 502
    assert ask(client, "hello", "faulty").json()["choices"][0]["message"]["content"] == "from the faulty one"
