"""Messages and Responses over chat completions, read by the official SDKs and held to OpenAI's published schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import msgspec
import openai
import pytest

from backends.dialects import DIALECTS, Untranslatable
from tests.published import complaint, validate

MESSAGES, RESPONSES = DIALECTS["/v1/messages"], DIALECTS["/v1/responses"]
USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 8}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False}
ASKED: dict[str, Any] = {"model": "auto", "input": "hello"}


def answer(message: Mapping[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **more}
    return {"id": "chatcmpl-9", "object": "chat.completion", "created": 5, "model": "m", "choices": [choice]} | {
        "usage": USAGE
    }


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-9", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": [choice]}


TEXT = [chunk(role="assistant", content=""), chunk(content="Hel"), chunk(content="lo."), chunk("stop")]
TOOLS = [
    chunk(reasoning_content="Let me "),
    chunk(reasoning_content="see."),
    chunk(content="Looking."),
    chunk(
        tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}]
    ),
    chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
    chunk(tool_calls=[{"index": 0, "function": {"arguments": '"Oslo"}'}}]),
    chunk(tool_calls=[{"index": 1, "id": "call_2", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]),
    chunk("tool_calls"),
]
COUNTED: dict[str, Any] = {"id": "chatcmpl-9", "model": "m", "choices": [], "usage": USAGE}


def stream(dialect: str, request: Mapping[str, Any], chunks: Iterable[Mapping[str, Any]]) -> bytes:
    events = DIALECTS[dialect].events(request)
    return b"".join([each for one in chunks for each in events.take(one)] + list(events.end()))


def served(body: bytes, kind: str) -> httpx2.Client:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=body, headers={"content-type": kind}))
    return httpx2.Client(transport=transport)


def events_in(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(block.partition(b"data: ")[2]) for block in body.split(b"\n\n") if block]


def test_a_conversation_with_tools_and_images_becomes_chat() -> None:
    pixel = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    rain = {"type": "text", "text": "rain"}
    chat = MESSAGES.to_chat(
        {
            "model": "auto",
            "max_tokens": 9,
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "stop_sequences": ["END"],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "tools": [{"name": "weather", "description": "d", "input_schema": {"type": "object"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "look"}, pixel]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "text", "text": "ok"},
                        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": [rain, pixel]},
                        {"type": "text", "text": "and?"},
                    ],
                },
            ],
        }
    )
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    call = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    weather = {"name": "weather", "parameters": {"type": "object"}, "description": "d"}
    assert chat == {
        "model": "auto",
        "max_tokens": 9,
        "stop": ["END"],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "tools": [{"type": "function", "function": weather}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
            {"role": "assistant", "content": "ok", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t1", "content": "rain"},
            {"role": "user", "content": [image, {"type": "text", "text": "and?"}]},
        ],
    }


def test_items_of_responses_become_chat_with_calls_together() -> None:
    done = {"type": "input_text", "text": "done"}
    chat = RESPONSES.to_chat(
        {
            "model": "auto",
            "instructions": "Be brief.",
            "max_output_tokens": 9,
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
            "tools": [TOOL, {"type": "custom", "name": "patch", "description": "d"}],
            "tool_choice": {"type": "function", "name": "weather"},
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ok"}]},
                {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
                {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "+x"},
                {"type": "function_call_output", "call_id": "c1", "output": "rain"},
                {
                    "type": "custom_tool_call_output",
                    "call_id": "c2",
                    "output": [done],
                },
            ],
        }
    )
    calls = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    calls.append({"id": "c2", "type": "function", "function": {"name": "patch", "arguments": '{"input":"+x"}'}})
    assert chat["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ok", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "done"},
    ]
    assert chat["max_tokens"] == 9
    assert chat["response_format"]["json_schema"] == {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["weather", "patch"]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    ("path", "request_", "param"),
    [
        ("/v1/messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "file"}}]}]},
            "messages[0].content[0]",
        ),
        ("/v1/responses", {"tools": [{"type": "file_search"}]}, "tools[0]"),
        ("/v1/responses", {"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0]",
        ),
    ],
)
def test_what_chat_cannot_say_is_refused_by_its_path(path: str, request_: dict[str, Any], param: str) -> None:
    with pytest.raises(Untranslatable) as caught:
        DIALECTS[path].to_chat(request_)
    assert caught.value.param == param


def test_anthropics_sdk_reads_a_whole_answer() -> None:
    whole = MESSAGES.from_chat({"model": "auto"}, answer({"content": "Hi.", "tool_calls": [CALL]}, "tool_calls"))
    assert whole["content"][0] == {"type": "text", "text": "Hi."}  # nothing more: other SDKs refuse a null
    client = anthropic.Anthropic(api_key="k", http_client=served(msgspec.json.encode(whole), "application/json"))
    read = client.messages.create(model="auto", max_tokens=9, messages=[{"role": "user", "content": "x"}])
    assert [block.type for block in read.content] == ["text", "tool_use"]
    assert read.content[1].input == {"city": "Oslo"}  # type: ignore[union-attr]
    assert (read.stop_reason, read.model) == ("tool_use", "m")
    assert (read.usage.input_tokens, read.usage.cache_read_input_tokens, read.usage.output_tokens) == (12, 8, 7)


@pytest.mark.parametrize(
    ("chunks", "kinds", "reason"),
    [(TEXT, ["text"], "end_turn"), (TOOLS, ["thinking", "text", "tool_use", "tool_use"], "tool_use")],
)
def test_anthropics_sdk_reads_a_stream(chunks: list[dict[str, Any]], kinds: list[str], reason: str) -> None:
    body = stream("/v1/messages", {"model": "auto"}, [*chunks, COUNTED])
    client = anthropic.Anthropic(api_key="k", http_client=served(body, "text/event-stream"))
    with client.messages.stream(model="auto", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as events:
        read = events.get_final_message()
    assert [block.type for block in read.content] == kinds
    assert read.stop_reason == reason
    assert (read.usage.input_tokens, read.usage.output_tokens) == (12, 7)
    if kinds == ["text"]:
        assert read.content[0].text == "Hello."  # type: ignore[union-attr]
    else:
        assert [block.input for block in read.content[2:]] == [{"city": "Oslo"}, {"city": "Rome"}]  # type: ignore[union-attr]


def test_openais_sdk_reads_a_whole_response() -> None:
    whole = RESPONSES.from_chat(
        ASKED | {"tools": [TOOL]}, answer({"content": "Hi.", "tool_calls": [CALL]}, "tool_calls")
    )
    validate("Response", whole)
    client = openai.OpenAI(api_key="k", http_client=served(msgspec.json.encode(whole), "application/json"))
    read = client.responses.create(model="auto", input="x")
    assert (read.output_text, read.status) == ("Hi.", "completed")
    assert [item.type for item in read.output] == ["message", "function_call"]
    assert read.usage is not None
    assert (read.usage.input_tokens, read.usage.output_tokens, read.usage.total_tokens) == (20, 7, 27)


@pytest.mark.parametrize("chunks", [TEXT, TOOLS])
def test_openais_sdk_reads_a_stream_and_every_event_is_as_published(chunks: list[dict[str, Any]]) -> None:
    body = stream("/v1/responses", ASKED | {"tools": [TOOL]}, [*chunks, COUNTED])
    assert complaint("POST", "/v1/responses", 200, "text/event-stream", body) is None
    client = openai.OpenAI(api_key="k", http_client=served(body, "text/event-stream"))
    with client.responses.stream(model="auto", input="x") as events:
        read = events.get_final_response()
    assert read.output_text == ("Hello." if chunks is TEXT else "Looking.")
    assert [each["sequence_number"] for each in events_in(body)] == list(range(len(events_in(body))))
    assert read.usage is not None
    assert read.usage.total_tokens == 27


@pytest.mark.parametrize("tool", [{"type": "function", "name": "now"}, {"type": "custom", "name": "now"}, TOOL])
def test_a_tool_is_repeated_as_published_where_the_request_said_little_of_it(tool: dict[str, Any]) -> None:
    request = {**ASKED, "tools": [tool]}
    whole = RESPONSES.from_chat(request, answer({"content": "Hello."}))
    assert complaint("POST", "/v1/responses", 200, "application/json", msgspec.json.encode(whole)) is None
    assert complaint("POST", "/v1/responses", 200, "text/event-stream", stream("/v1/responses", request, TEXT)) is None
    assert tool.items() <= whole["tools"][0].items()


def test_a_custom_tool_of_responses_gets_its_text_back() -> None:
    asked = ASKED | {"tools": [{"type": "custom", "name": "patch"}]}
    call = {"index": 0, "id": "c", "function": {"name": "patch", "arguments": '{"input": "+x"}'}}
    (item,) = RESPONSES.from_chat(asked, answer({"content": None, "tool_calls": [call]}, "tool_calls"))["output"]
    assert (item["type"], item["name"], item["input"], item["call_id"]) == ("custom_tool_call", "patch", "+x", "c")
    done = events_in(stream("/v1/responses", asked, [chunk(tool_calls=[call]), chunk("tool_calls")]))[-1]
    assert done["response"]["output"][0]["input"] == "+x"


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_an_answer_that_was_cut_is_said_to_be_cut(finish: str) -> None:
    cut = answer({"content": "Hel"}, finish)
    assert MESSAGES.from_chat({}, cut)["stop_reason"] == {"length": "max_tokens", "content_filter": "refusal"}[finish]
    whole = RESPONSES.from_chat(ASKED, cut)
    assert whole["status"] == "incomplete"
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}[finish]
    assert whole["incomplete_details"] == {"reason": reason}


def test_a_stop_sequence_that_was_met_is_named() -> None:
    met = MESSAGES.from_chat({}, answer({"content": "x"}, "stop", stop_reason="END"))
    assert (met["stop_reason"], met["stop_sequence"]) == ("stop_sequence", "END")


@pytest.mark.parametrize("path", list(DIALECTS))
@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{"delta": {"tool_calls": [7], "content": 5}}]},
        {"usage": []},
    ],
)
def test_chunks_that_no_engine_should_send_break_nothing(path: str, odd: dict[str, Any]) -> None:
    body = stream(path, ASKED, [odd, *TEXT, odd])
    assert b"Hel" in body


def test_tools_that_a_provider_runs_are_left_out_beside_the_clients_own() -> None:
    chat = RESPONSES.to_chat(ASKED | {"tools": [{"type": "web_search"}, TOOL], "tool_choice": "auto"})
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["weather"]
    own = {"name": "weather", "input_schema": {"type": "object"}}
    chat = MESSAGES.to_chat({"tools": [{"type": "web_search_20250305", "name": "web_search"}, own]})
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["weather"]


LEFT_OUT: dict[str, dict[str, Any]] = {
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 2048}},
    "cache_control": {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
    "citations": {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "citations": []}]}]},
    "context_management": {"context_management": {"edits": []}},
    "container": {"container": "c_1"},
    "mcp_servers": {"mcp_servers": [{"type": "url", "url": "https://mcp.example", "name": "m"}]},
    "inference_geo": {"inference_geo": "eu"},
    "include": {"include": ["reasoning.encrypted_content"]},
    "truncation": {"truncation": "auto"},
    "background": {"background": True},
    "max_tool_calls": {"max_tool_calls": 3},
    "metadata": {"metadata": {"a": "b"}},
    "summary": {"reasoning": {"summary": "auto"}},
    "verbosity": {"text": {"verbosity": "low"}},
}
PLAIN: dict[str, dict[str, Any]] = {
    "Messages": {"system": "Be brief.", "messages": [{"role": "user", "content": "hi"}]},
    "Responses": {"input": "hi"},
}


@pytest.mark.parametrize("protocol", list(PLAIN))
def test_what_the_page_says_is_left_out_is_left_out_and_nothing_else_changes(protocol: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    (line,) = [
        line for line in page.splitlines() if line.startswith(f"| {protocol}:") and line.endswith("| left out |")
    ]
    dialect = {"Messages": MESSAGES, "Responses": RESPONSES}[protocol]
    for name in re.findall("`([a-z_]+)`", line):
        assert dialect.to_chat(PLAIN[protocol] | LEFT_OUT[name]) == dialect.to_chat(PLAIN[protocol]), name
