"""The gateway's HTTP promises in front of two real vLLM servers and the embedded engine."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from rich.console import Console

from backends.anyprec.store import Store
from evaluation.admit import examine
from evaluation.refusals import safety_prompts
from router.catalogue.admission import Admissions
from router.settings import build
from tests.http.conftest import Running, serving
from tests.vllm.engines import STORES, Engine
from tests.vllm.test_plugin import write_adapter

PRICES = {"small": 1.0, "medium": 2.0, "large": 4.0}  # USD per million tokens, prompt and completion alike
RENT = 3.6  # USD an hour for the large engine's machine: a thousandth of a dollar a second
# Engines and gateway share the cores: on a slow machine no wait of the gateway is part of these promises.
PATIENT = {"connect_s": 60, "first_byte_s": 500, "idle_s": 300}
ASKED = [{"role": "user", "content": "What is 17 + 25?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Kyiv", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def gateway(engines: dict[str, Engine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gateway")
    backends: dict[str, dict[str, Any]] = {
        name: {"kind": "vllm", "url": engine.url, "discover": True, "timeouts": PATIENT}
        for name, engine in engines.items()
    }
    backends["large"]["machine_usd_per_hour"] = RENT
    backends["inside"] = {"kind": "embedded", "stores": {"medium": str(STORES / "medium")}, "discover": True}
    homes = {"small": "small", "medium": "inside", "large": "large"}
    models = [
        {"name": name, "backend": homes[name], "price": {"prompt": price, "completion": price}}
        for name, price in PRICES.items()
    ]
    settings = {
        "state_dir": str(folder / "state"), "policy": {"name": "cheapest"}, "backends": backends, "models": models,
        "reload": {"every_s": 0.5}, "admission": {"required": False}, "store": {"timeout_s": 60},
        "server": {"head_s": 60, "body_s": 60},
    }  # fmt: skip
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving(folder, settings)) as running:
        yield running


@pytest.fixture
def client(gateway: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=500) as made:
        yield made


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": ASKED, "max_tokens": 24, "temperature": 0, **more}


def until(is_so: Callable[[], bool], *, within_s: float = 300) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def events_of(answer: httpx.Response) -> list[Any]:
    """The JSON of each SSE event; "[DONE]" as it is."""
    lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def text_of(events: list[Any]) -> str:
    chunks = [event for event in events if isinstance(event, dict) and event.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


@pytest.mark.parametrize("model", PRICES)
def test_a_pinned_request_is_answered_by_that_engine_and_priced_from_its_usage(
    client: httpx.Client, model: str
) -> None:
    answer = client.post("/v1/chat/completions", json=chat(model))
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    tokens = usage["prompt_tokens"] + usage["completion_tokens"]
    assert answer.json()["model"] == answer.headers["x-pointsman-model"] == model
    assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx(tokens * PRICES[model] / 1e6, rel=1e-6)


def spent_usd(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("pointsman_cost_usd_total{"))


def test_a_budget_is_settled_from_the_engines_usage(client: httpx.Client) -> None:
    before = spent_usd(client)
    answer = client.post("/v1/chat/completions", json=chat("large"))
    cost = float(answer.headers["x-pointsman-cost-usd"])
    until(lambda: spent_usd(client) - before == pytest.approx(cost, rel=1e-6))


@pytest.mark.parametrize("model", ["small", "large"])
def test_a_stream_carries_the_plain_answers_text_and_ends_with_its_usage(client: httpx.Client, model: str) -> None:
    plain = client.post("/v1/chat/completions", json=chat(model)).json()
    asked = chat(model, stream=True, stream_options={"include_usage": True})
    with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        events = events_of(answer)
    assert text_of(events) == plain["choices"][0]["message"]["content"]
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]


def test_a_stream_that_did_not_ask_for_usage_gets_none(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/chat/completions", json=chat("small", stream=True)) as answer:
        events = events_of(answer)
    assert all(not event.get("usage") for event in events if isinstance(event, dict))


def test_logprobs_n_and_stop_reach_the_engine(client: httpx.Client) -> None:
    asked = chat("large", logprobs=True, top_logprobs=2, n=2, temperature=1.0)
    choices = client.post("/v1/chat/completions", json=asked).json()["choices"]
    assert len(choices) == 2
    assert len(choices[0]["logprobs"]["content"][0]["top_logprobs"]) == 2
    whole = client.post("/v1/chat/completions", json=chat("large")).json()["choices"][0]["message"]["content"]
    cut = client.post("/v1/chat/completions", json=chat("large", stop=[whole[1]])).json()["choices"][0]
    assert cut["message"]["content"] == whole[: whole.index(whole[1])]


def test_a_seed_repeats_a_sampled_answer(client: httpx.Client) -> None:
    asked = [chat("large", temperature=1.5, seed=seed, max_tokens=64, ignore_eos=True) for seed in (7, 7, 8)]
    said = [client.post("/v1/chat/completions", json=each).json()["choices"][0]["message"] for each in asked]
    assert said[0]["content"] == said[1]["content"] != said[2]["content"]


def test_a_tool_call_comes_back_as_the_engine_made_it(client: httpx.Client, small: Engine) -> None:
    asked = chat("small", tools=[TOOL], tool_choice="required", max_tokens=64)
    through = client.post("/v1/chat/completions", json=asked)
    assert through.status_code == 200, through.text
    direct = small.post("/v1/chat/completions", asked).json()["choices"][0]
    choice = through.json()["choices"][0]
    calls = [[call["function"] for call in each["message"]["tool_calls"]] for each in (choice, direct)]
    assert (calls[0], choice["finish_reason"]) == (calls[1], direct["finish_reason"])
    assert calls[0][0]["name"] == "weather"


def test_auto_is_answered_by_one_of_the_candidates(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json=chat("auto"))
    assert answer.status_code == 200
    assert answer.headers["x-pointsman-model"] in names(client)


def names(client: httpx.Client) -> list[str]:
    return [card["id"] for card in client.get("/v1/models").json()["data"]]


def test_the_widths_of_a_store_are_candidates_and_reach_the_engine(client: httpx.Client, large: Engine) -> None:
    until(lambda: {"large@3bit", "large@8bit", "small@3bit"} <= set(names(client)))
    answer = client.post("/v1/chat/completions", json=chat("large@3bit", logprobs=True))
    assert answer.status_code == 200, answer.text
    through = answer.json()["choices"][0]
    direct = large.post("/v1/chat/completions", chat("large", logprobs=True, vllm_xargs={"anyprec_bits": 3}))
    assert through["logprobs"] == direct.json()["choices"][0]["logprobs"]


def learned(client: httpx.Client, model: str) -> dict[str, float]:
    """USD per million tokens and the answers they rest on."""
    found = {each["model"]: each for each in client.post("/v1/route", json=chat("auto")).json()["candidates"]}
    price: dict[str, float] = found[model]["learned_price"]
    return price


def load(client: httpx.Client, models: Sequence[str]) -> tuple[float, dict[str, int]]:
    """All of them at once: seconds until the last answer, and completion tokens by model."""

    def ask(model: str) -> tuple[str, int]:
        answer = client.post("/v1/chat/completions", json=chat(model, max_tokens=64, ignore_eos=True))
        assert answer.status_code == 200, answer.text
        return model, answer.json()["usage"]["completion_tokens"]

    began, tokens = time.monotonic(), dict.fromkeys(models, 0)
    with ThreadPoolExecutor(len(models)) as pool:
        for model, made in pool.map(ask, models):
            tokens[model] += made
    return time.monotonic() - began, tokens


def test_the_learned_price_of_widths_is_the_engines_time_at_load(client: httpx.Client) -> None:
    """What the prices say the tokens of a crowd cost is what the machine cost while it served them."""
    widths = ["large@3bit", "large@4bit", "large@8bit"]
    until(lambda: set(widths) <= set(names(client)))
    rounds = [load(client, widths * 8) for _ in range(4)]
    until(lambda: all(learned(client, width)["answers"] >= 32 for width in widths))
    prices = {width: learned(client, width) for width in widths}
    paid = sum(prices[width]["completion"] * made / 1e6 for _, tokens in rounds for width, made in tokens.items())
    paid += sum(prices[width]["prompt"] * 20 * 32 / 1e6 for width in widths)  # twenty tokens of each prompt
    assert paid == pytest.approx(RENT / 3600 * sum(seconds for seconds, _ in rounds), rel=0.25)


def test_a_token_is_more_expensive_when_an_engine_serves_it_alone(client: httpx.Client) -> None:
    until(lambda: "large@6bit" in names(client))
    for _ in range(2):
        load(client, ["large@6bit"] * 16)
    until(lambda: learned(client, "large@6bit")["answers"] >= 32)
    crowded = learned(client, "large@6bit")["completion"]
    for _ in range(32):
        load(client, ["large@6bit"])
    until(lambda: learned(client, "large@6bit")["completion"] > 2 * crowded)


def test_an_adapter_loaded_at_run_time_becomes_a_candidate(client: httpx.Client, large: Engine, tmp_path: Path) -> None:
    write_adapter(tmp_path / "tuned", Store.open(large.store), bits=8)
    large.post("/v1/load_lora_adapter", {"lora_name": "tuned", "lora_path": str(tmp_path / "tuned")})
    until(lambda: "tuned" in names(client))
    answer = client.post("/v1/chat/completions", json=chat("tuned"))
    assert (answer.status_code, answer.json()["model"]) == (200, "tuned")
    large.post("/v1/unload_lora_adapter", {"lora_name": "tuned"})


@pytest.mark.parametrize(("width", "admitted"), [("small@6bit", True), ("small@3bit", False)])
def test_a_width_is_admitted_or_refused_by_what_a_real_engine_answers(
    small: Engine, tmp_path: Path, width: str, admitted: bool
) -> None:
    """Six bits are what the parent is served at; three lose twenty points."""
    backend = {"kind": "vllm", "url": small.url, "discover": True}
    price = {"prompt": 1, "completion": 1}
    # nothing is said here of time: a machine that others share would decide
    settings = {"state_dir": str(tmp_path), "default_price": price, "backends": {"engine": backend}}
    settings["admission"] = {"max_slowdown": 100}
    verdict = asyncio.run(
        examine(
            build(settings, {}), width, parent=None, prompts=120, own=None, safety=safety_prompts(None, None), seed=0,
            console=Console(file=io.StringIO()),
        )
    )  # fmt: skip
    assert verdict.admitted is admitted
    assert verdict.refusals is not None
    assert verdict.slowdown.low < verdict.slowdown.mean < verdict.slowdown.high
    assert Admissions(tmp_path / "admissions").admits(width) is admitted


def test_a_width_out_of_range_is_the_clients_error_and_names_it(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json=chat("large", vllm_xargs={"anyprec_bits": 11}))
    assert answer.status_code == 400
    assert "anyprec_bits" in answer.json()["error"]["message"]


def test_responses_and_messages_are_forwarded_and_paid_from_their_usage(client: httpx.Client) -> None:
    said = client.post("/v1/responses", json={"model": "large", "input": "What is 2 + 3?", "max_output_tokens": 16})
    reported = client.post("/v1/messages", json={"model": "large", "messages": ASKED, "max_tokens": 16})
    for answer in (said, reported):
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        assert 0 < usage["output_tokens"] <= 16
        paid = (usage["input_tokens"] + usage["output_tokens"]) * PRICES["large"] / 1e6
        assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx(paid, rel=1e-6)
    assert (said.json()["object"], reported.json()["type"]) == ("response", "message")


def test_hanging_up_frees_the_engines_slot(client: httpx.Client, large: Engine) -> None:
    made = large.metric("vllm:generation_tokens_total")
    asked = chat("large", stream=True, max_tokens=400, ignore_eos=True)
    with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        assert next(answer.iter_lines()).startswith("data: ")  # the engine is at work; ours is gone with the block
    until(lambda: large.metric("vllm:num_requests_running") == 0)
    assert large.metric("vllm:generation_tokens_total") - made < 400


@contextmanager
def busy(engine: Engine, count: int = 24) -> Iterator[None]:
    """Others' requests, so that an answer takes the engine seconds; they end with it."""

    def ask() -> None:
        with suppress(httpx.HTTPError):
            engine.post("/v1/completions", {"prompt": "a", "max_tokens": 500, "ignore_eos": True})

    with ThreadPoolExecutor(count) as pool:
        for _ in range(count):
            pool.submit(ask)
        until(lambda: engine.metric("vllm:num_requests_running") >= count)
        yield


def test_an_engine_killed_mid_stream_costs_one_stream_and_comes_back(client: httpx.Client, large: Engine) -> None:
    asked = chat("large", max_tokens=400, ignore_eos=True)
    whole = client.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"]
    seen = []
    try:
        with busy(large), client.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    seen.append(line.removeprefix("data: "))
                if len(seen) == 2 and large.process is not None:
                    large.kill()
        events = [event if event == "[DONE]" else json.loads(event) for event in seen]
        assert whole.startswith(text_of(events))
        assert "error" in [event for event in events if event != "[DONE]"][-1]
        assert client.post("/v1/chat/completions", json=chat("auto")).status_code == 200
    finally:
        large.kill()
        large.start()
        large.wait()
    until(lambda: client.post("/v1/chat/completions", json=chat("large")).status_code == 200)
