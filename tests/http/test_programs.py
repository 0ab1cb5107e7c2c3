"""Programs through the official clients: plain and streamed, in chat, Responses and Messages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, engine, serving, settings_for, until
from tests.http.module import candidates, gateway_over
from tests.http.test_sdks import CALL, TOOL, made_key

PROGRAMS = {
    "sure": {"kind": "escalate", "of": ["fails", "large"]},
    "vote3": {"kind": "vote", "of": "small", "n": 3},
    "best3": {"kind": "best_of", "of": "auto:cheap", "n": 3, "checks": ["agree"]},
    "digest": {"kind": "map_reduce", "map": "small", "reduce": "large", "part_tokens": 16},
    "draft": {"kind": "refine", "draft": "small", "critic": "large"},
    "agent": {"kind": "roles", "plan": "large", "call": "small", "summarise": "large", "rounds": 2},
    "deep": {"kind": "vote", "of": "draft", "n": 2},
    "broken": {"kind": "refine", "draft": "small", "critic": "fails"},
    "cut": {"kind": "refine", "draft": "breaks", "critic": "large"},
}
GOOD = ("sure", "vote3", "best3", "digest", "draft", "agent", "deep")
LONG = "\n\n".join(f"Page {i}. " + "It rained on the harbour. " * 40 for i in range(60)) + "\n\nHow was the weather?"


def script(model: str, body: Mapping[str, Any]) -> Line:
    """One sentence, or a call of a tool where it was given one; `breaks` stops a stream midway; `fails` fails."""
    if model == "breaks" and body.get("stream"):
        return Line(text="one two three", trouble="half chunk", trouble_after=2)
    if model == "fails":
        return Line(trouble="500")
    if body.get("tools"):
        called = {**CALL, "index": 0} if body.get("stream") else CALL
        return Line(text="", finish_reason="tool_calls", message={"tool_calls": [called]})
    return Line(text="It is sunny.")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("programs")

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        made = candidates(folder, engine, {"small": {}, "large": {}, "breaks": {}, "fails": {}})
        for each in made["models"]:
            each["context_tokens"] = 1024 if each["name"] == "small" else 32_768
        made["programs"] = PROGRAMS
        secret = {"secret": "sk-only-small-models", "allowed_models": ["small", "vote3", "draft"]}
        made["tenants"] = {"narrow": {"keys": [secret]}}
        return made

    with gateway_over(folder, script, settings) as (running, _):
        yield running


@pytest.fixture(scope="module")
def key(gateway: Running) -> str:
    return made_key(gateway)


@pytest.fixture
def client(gateway: Running, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(gateway: Running, key: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0) as client:
        yield client


def asked(program: str) -> list[Any]:
    return [{"role": "user", "content": LONG if program == "digest" else "How is the weather?"}]


@pytest.mark.parametrize("program", GOOD)
def test_each_kind_answers_plainly_and_in_a_stream(client: openai.OpenAI, program: str) -> None:
    plain = client.chat.completions.create(model=program, messages=asked(program))
    assert (plain.model, plain.choices[0].message.content) == (program, "It is sunny.")
    options: Any = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model=program, messages=asked(program), stream=True, stream_options=options)
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "It is sunny."
    usage = chunks[-1].usage
    assert usage is not None
    assert plain.usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (plain.usage.prompt_tokens, plain.usage.completion_tokens)


@pytest.mark.parametrize("program", GOOD)
def test_each_kind_answers_responses_and_messages(
    client: openai.OpenAI, claude: anthropic.Anthropic, program: str
) -> None:
    text = asked(program)[0]["content"]
    assert client.responses.create(model=program, input=text).output_text == "It is sunny."
    with client.responses.stream(model=program, input=text) as events:
        assert events.get_final_response().output_text == "It is sunny."
    said = claude.messages.create(model=program, max_tokens=64, messages=asked(program))
    assert said.content[0].text == "It is sunny."  # type: ignore[union-attr]
    with claude.messages.stream(model=program, max_tokens=64, messages=asked(program)) as stream:
        assert stream.get_final_text() == "It is sunny."


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_progress_comes_as_comments_in_every_protocol(gateway: Running, key: str, path: str) -> None:
    said = {"input": "How is it?"} if path == "/v1/responses" else {"messages": asked("vote3"), "max_tokens": 64}
    body = {"model": "vote3", "stream": True, **said}
    found = httpx.post(f"{gateway.url}{path}", json=body, headers={"Authorization": f"Bearer {key}"})
    assert found.text.startswith(": 1/3 small\n\n: 2/3 small\n\n")
    assert found.headers["x-pointsman-model"] == "vote3"


def test_tools_go_to_the_last_step_and_its_calls_come_back(client: openai.OpenAI) -> None:
    for program in ("agent", "vote3"):
        answer = client.chat.completions.create(model=program, messages=asked(program), tools=[TOOL])
        calls = answer.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].function.name == "weather"  # type: ignore[union-attr]
        stream = client.chat.completions.create(model=program, messages=asked(program), tools=[TOOL], stream=True)
        called = [call for c in stream if c.choices for call in c.choices[0].delta.tool_calls or ()]
        assert any(call.function is not None and call.function.name == "weather" for call in called)


def test_a_step_that_fails_is_an_error_in_the_callers_shape(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="broken", messages=asked("broken"))
    with pytest.raises(anthropic.InternalServerError):
        claude.messages.create(model="broken", max_tokens=9, messages=asked("broken"))
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(model="broken", messages=asked("broken"), stream=True))
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(model="cut", messages=asked("cut"), stream=True))


def test_programs_are_listed_and_bound_by_what_a_key_allows(gateway: Running, client: openai.OpenAI) -> None:
    assert set(PROGRAMS) < {each.id for each in client.models.list()}
    narrow = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-only-small-models", max_retries=0)
    assert narrow.chat.completions.create(model="vote3", messages=asked("vote3")).model == "vote3"
    with pytest.raises(openai.BadRequestError, match="the key does not allow this model"):
        narrow.chat.completions.create(model="draft", messages=asked("draft"))
    with pytest.raises(openai.BadRequestError):
        narrow.chat.completions.create(model="deep", messages=asked("deep"))


def test_a_program_gives_one_answer(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="one answer"):
        client.chat.completions.create(model="vote3", messages=asked("vote3"), n=2)


def test_the_plan_is_shown_before_anything_runs(gateway: Running, key: str) -> None:
    body = {"model": "digest", "messages": asked("digest"), "max_tokens": 64}
    reported = httpx.post(f"{gateway.url}/v1/route", json=body, headers={"Authorization": f"Bearer {key}"}).json()
    plan = reported["plan"]
    assert reported["model"] == "digest"
    assert plan["steps"][-1]["step"] == "reduce"
    assert 0 < float(plan["expected_usd"]) < float(plan["worst_usd"])
    assert plan["seconds"] > 0


def test_the_command_line_lists_programs_and_prints_a_plan(gateway: Running, key: str) -> None:
    run = [sys.executable, "-m", "pointsman"]
    listed = subprocess.run([*run, "programs", str(gateway.config)], capture_output=True, text=True, check=True)
    assert all(name in listed.stdout for name in PROGRAMS)
    route = [*run, "route", "How is it?", "--model", "draft", "--url", gateway.url, "--key", key, "--json"]
    reported = json.loads(subprocess.run(route, capture_output=True, text=True, check=True).stdout)
    assert [step["step"] for step in reported["plan"]["steps"]] == ["draft 1", "critic 1", "draft 2"]


def test_auto_draws_a_program_too_and_can_be_told_not_to(client: openai.OpenAI) -> None:
    knobs: Any = {"routing": {"policy": "random", "allowed_models": ["small", "vote3"]}}
    drawn = {
        client.chat.completions.create(model="auto", messages=asked(""), extra_body=knobs).model for _ in range(24)
    }
    assert drawn == {"small", "vote3"}


def test_feedback_judges_a_run_as_a_whole(gateway: Running, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(
        f"{gateway.url}/v1/chat/completions", json={"model": "vote3", "messages": asked("vote3")}, headers=headers
    )
    judged = {"decision_id": answer.headers["x-pointsman-decision-id"], "score": 1.0}
    assert httpx.post(f"{gateway.url}/v1/feedback", json=judged, headers=headers).json()["recorded"]


@pytest.mark.anyio
async def test_programs_come_and_change_while_the_gateway_runs(tmp_path: Path) -> None:
    async with engine(text="It is sunny.") as said:
        settings = settings_for(tmp_path, {"small": said, "large": said})
        async with serving(tmp_path, settings) as running, running.client() as client:
            body = {"model": "pair", "messages": asked("pair")}
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 404
            running.rewrite({**settings, "programs": {"pair": {"kind": "escalate", "of": ["small", "large"]}}})

            async def is_there() -> bool:
                return (await client.post("/v1/chat/completions", json=body)).status_code == 200

            await until(is_there)
            running.rewrite({**settings, "programs": {"pair": {"kind": "vote", "of": "nobody"}}})
            await until(lambda: "programs.pair.of" in running.log.read_text())
            assert await is_there()
