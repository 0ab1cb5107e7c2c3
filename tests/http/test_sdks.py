"""The official openai and anthropic clients, pointed at the gateway's URL and otherwise unchanged."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running
from tests.http.messages_engine import messages_engine
from tests.http.module import candidates, gateway_over

SAID: list[Any] = [{"role": "user", "content": "What is the weather in Kyiv?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Kyiv"}'}}


def script(model: str, body: Mapping[str, Any]) -> Line:
    """Calls a tool when given one; `breaks` stops midway; otherwise one sentence with a vendor field."""
    if model == "breaks":
        return Line(text="one two three", trouble="half chunk", trouble_after=2)
    if model == "fails":
        return Line(trouble="500")
    if body.get("tools"):
        called = {**CALL, "index": 0} if body.get("stream") else CALL
        return Line(text="", finish_reason="tool_calls", message={"tool_calls": [called]})
    return Line(text="It is sunny in Kyiv.", prompt_tokens=11, completion_tokens=5, fields={"vendor_note": "kept"})


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, ScriptedServer]]:
    folder = tmp_path_factory.mktemp("sdks")

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        embeds = {"capabilities": ["embeddings"]}
        made = candidates(folder, engine, {"small": {}, "breaks": {}, "fails": {}, "vectors": embeds})
        made["models"][0]["price"] = {"prompt": 0.1, "completion": 0.1}
        made["tenants"] = {
            "poor": {"budgets": ["0.000001 USD per day"], "keys": [{"secret": "sk-poor-tenant"}]},
            "hasty": {"limits": {"requests_per_minute": 1}, "keys": [{"secret": "sk-hasty-tenant"}]},
        }
        made["store"] = {"sqlite": str(folder / "money.db")}
        return made

    with gateway_over(folder, script, settings) as both:
        yield both


@pytest.fixture(scope="module")
def key(both: tuple[Running, ScriptedServer]) -> str:
    """A key made as an operator makes one."""
    return made_key(both[0])


def made_key(gateway: Running) -> str:
    command = [sys.executable, "-m", "pointsman", "keys", "create", "sdk", "--config", str(gateway.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(word for word in done.stdout.split() if word.startswith("sk-"))


@pytest.fixture
def client(both: tuple[Running, ScriptedServer], key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{both[0].url}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_a_plain_answer_names_the_model_that_gave_it(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="auto", messages=SAID)
    assert answer.choices[0].message.content == "It is sunny in Kyiv."
    assert answer.model == "small"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 5)


def test_vendor_fields_survive_the_way_back(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="auto", messages=SAID)
    assert answer.model_extra == {"vendor_note": "kept"}


def test_a_stream_arrives_piece_by_piece_without_usage_nobody_asked_for(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="auto", messages=SAID, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "It is sunny in Kyiv."
    assert all(chunk.usage is None for chunk in chunks)
    assert {chunk.model for chunk in chunks} == {"small"}


def test_a_stream_ends_with_its_usage_and_cost_where_asked_for(client: openai.OpenAI) -> None:
    asked = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="auto", messages=SAID, stream=True, stream_options=asked))  # type: ignore[call-overload]
    last = chunks[-1]
    assert last.choices == []
    assert last.usage.completion_tokens == 5
    assert last.usage.cost == pytest.approx(16 * 0.1e-6)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_streaming_helper_of_the_sdk_works(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="auto", messages=SAID) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == "It is sunny in Kyiv."


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(client: openai.OpenAI, stream: bool) -> None:
    if stream:
        chunks = client.chat.completions.create(model="auto", messages=SAID, tools=[TOOL], stream=True)
        calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []]
    else:
        answer = client.chat.completions.create(model="auto", messages=SAID, tools=[TOOL])
        assert answer.choices[0].finish_reason == "tool_calls"
        calls = answer.choices[0].message.tool_calls or []  # type: ignore[assignment]
    assert [(call.function.name, call.function.arguments) for call in calls if call.function] == [
        ("weather", '{"city": "Kyiv"}')
    ]


def test_the_raw_response_carries_the_decision_and_its_cost(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=SAID)
    assert raw.headers["x-pointsman-model"] == "small"
    assert raw.headers["x-pointsman-policy"] == "cheapest"
    assert float(raw.headers["x-pointsman-cost-usd"]) == pytest.approx(16 * 0.1e-6)
    assert raw.headers["x-pointsman-decision-id"]
    assert float(raw.headers["x-pointsman-overhead-ms"]) > 0
    assert raw.parse().choices[0].message.content == "It is sunny in Kyiv."


def test_a_request_id_of_the_clients_own_comes_back(client: openai.OpenAI) -> None:
    mine = {"x-request-id": "mine-7"}
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=SAID, extra_headers=mine)
    assert raw.headers["x-request-id"] == "mine-7"
    assert raw.parse()._request_id == "mine-7"


def test_routing_knobs_go_through_extra_body_and_extra_headers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="auto",
        messages=SAID,
        extra_body={"routing": {"preference": 0.2, "allowed_models": ["small"]}},
        extra_headers={"x-pointsman-preference": "0.9"},
    )
    assert answer.model == "small"


def test_completions_and_embeddings_are_answered_too(client: openai.OpenAI) -> None:
    assert client.completions.create(model="auto", prompt="Say it.").choices[0].text == "It is sunny in Kyiv."
    vectors = client.embeddings.create(model="auto", input=["one", "two"], encoding_format="float")
    assert [each.index for each in vectors.data] == [0, 1]


def test_models_are_listed_with_auto_and_its_aliases(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"auto", "auto:cheap", "auto:balanced", "auto:best", "small", "vectors"} <= set(names)


def test_the_asynchronous_client_works_with_many_requests_at_once(
    both: tuple[Running, ScriptedServer], key: str
) -> None:
    async def crowd() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{both[0].url}/v1", api_key=key, max_retries=0) as client:
            asked = (client.chat.completions.create(model="auto", messages=SAID) for _ in range(50))
            return [answer.choices[0].message.content or "" for answer in await asyncio.gather(*asked)]

    assert asyncio.run(crowd()) == ["It is sunny in Kyiv."] * 50


def test_every_error_becomes_the_clients_own_class(both: tuple[Running, ScriptedServer], client: openai.OpenAI) -> None:
    ask = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="gpt-9", messages=SAID)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        ask(model="auto", messages=SAID, extra_body={"routing": {"preferance": 1}})
    assert bad.value.param == "routing.preferance"
    with pytest.raises(openai.InternalServerError) as failed:
        ask(model="fails", messages=SAID)
    assert failed.value.status_code == 502
    with pytest.raises(openai.AuthenticationError) as unknown:
        client.with_options(api_key="sk-nobody").chat.completions.create(model="auto", messages=SAID)
    assert unknown.value.code == "invalid_api_key"


def test_a_spent_budget_is_a_rate_limit_error_that_is_not_tried_again(both: tuple[Running, ScriptedServer]) -> None:
    asked = len(both[1].heard)
    with openai.OpenAI(base_url=f"{both[0].url}/v1", api_key="sk-poor-tenant", max_retries=3) as client:
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="auto", messages=SAID)
    assert refused.value.code == "insufficient_quota"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert len(both[1].heard) == asked


def test_a_rate_limit_says_when_to_come_back(both: tuple[Running, ScriptedServer]) -> None:
    with openai.OpenAI(base_url=f"{both[0].url}/v1", api_key="sk-hasty-tenant", max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(model="auto", messages=SAID)
        assert raw.headers["x-ratelimit-limit-requests"] == "1"
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="auto", messages=SAID)
    assert refused.value.code == "rate_limit_exceeded"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 61  # a minute, and what rounding up adds


def test_a_stream_that_breaks_raises_in_the_client(client: openai.OpenAI) -> None:
    heard = []

    def listen() -> None:
        for chunk in client.chat.completions.create(model="breaks", messages=SAID, stream=True):
            heard.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError, match="broke off"):
        listen()
    assert heard == ["one", " two"]


@pytest.fixture(scope="module")
def claude(tmp_path_factory: pytest.TempPathFactory) -> Iterator[anthropic.Anthropic]:
    folder: Path = tmp_path_factory.mktemp("messages")
    with messages_engine() as url:

        def settings(engine: ScriptedServer) -> dict[str, Any]:
            made = candidates(folder, engine, {"small": {}})
            made["backends"]["small"]["url"] = url
            return made

        with gateway_over(folder, script, settings) as (gateway, _):
            with anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0) as client:
                yield client


def test_anthropics_client_gets_a_plain_message(claude: anthropic.Anthropic) -> None:
    raw = claude.messages.with_raw_response.create(model="auto", max_tokens=20, messages=SAID)
    message = raw.parse()
    assert message.content[0].text == "It is sunny."  # type: ignore[union-attr]
    assert message.model == "small"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 3)
    assert float(raw.headers["x-pointsman-cost-usd"]) == pytest.approx(12e-6)


def test_anthropics_client_gets_a_stream(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="auto", max_tokens=20, messages=SAID) as stream:
        assert list(stream.text_stream) == ["It is ", "sunny."]
        assert stream.get_final_message().usage.output_tokens == 3


def test_anthropics_client_gets_its_own_error_classes(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="claude-9", max_tokens=20, messages=SAID)
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model="auto", max_tokens=20, messages=[])
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="sk-nobody").messages.create(model="auto", max_tokens=20, messages=SAID)
