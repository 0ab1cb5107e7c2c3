"""Chat streams as engines really send them, well and badly, in both protocols: the official SDKs put them together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anthropic
import msgspec
import openai
import pytest
from anthropic.types import Message
from openai.types.responses import Response

from backends.dialects import DIALECTS
from tests.backends.test_dialects import ASKED, COUNTED, TOOL, answer, chunk, events_in, served, stream
from tests.published import complaint, strict, validate

SAID: list[Any] = [{"role": "user", "content": "x"}]
OSLO, ROME = '{"city": "Oslo"}', '{"city": "Rome"}'


def call(index: int | None, arguments: object = "", call_id: str | None = None, name: str | None = None) -> Any:
    numbered = {} if index is None else {"index": index}
    named = {} if call_id is None else {"id": call_id, "type": "function"}
    return numbered | named | {"function": {"arguments": arguments} | ({} if name is None else {"name": name})}


def calls(*each: Any, finish: str | None = "tool_calls") -> list[dict[str, Any]]:
    return [*(chunk(tool_calls=[one]) for one in each), chunk(finish)]


def message_of(chunks: list[dict[str, Any]]) -> Message:
    """As Anthropic's SDK puts it together; every event fits its own types, and blocks come one after the other."""
    body = stream("/v1/messages", {"model": "auto"}, chunks)
    assert complaint("POST", "/v1/messages", 200, "text/event-stream", body) is None
    opened: list[int] = []
    for each in events_in(body):
        if each["type"] == "content_block_start":
            assert each["index"] == len(opened)
            opened.append(each["index"])
        elif each["type"].startswith("content_block"):
            assert each["index"] == opened[-1]
    client = anthropic.Anthropic(api_key="k", http_client=served(body, "text/event-stream"))
    with client.messages.stream(model="auto", max_tokens=9, messages=SAID) as events:
        return events.get_final_message()


def response_of(chunks: list[dict[str, Any]], asked: Mapping[str, Any] = ASKED) -> Response:
    """As OpenAI's SDK puts it together; every event is as published, and the last one repeats those before it."""
    body = stream("/v1/responses", {**asked, "tools": [TOOL, *asked.get("tools", [])]}, chunks)
    assert complaint("POST", "/v1/responses", 200, "text/event-stream", body) is None
    done = [each["item"] for each in events_in(body) if each["type"] == "response.output_item.done"]
    assert events_in(body)[-1]["response"]["output"] == done
    for number, item in enumerate(done):
        reported = [each for each in events_in(body) if each.get("output_index") == number]
        texts = "".join(each["delta"] for each in reported if each["type"].endswith(".delta"))
        assert texts in (item.get("arguments"), item.get("input"), _text(item))
    client = openai.OpenAI(api_key="k", http_client=served(body, "text/event-stream"))
    with client.responses.create(model="auto", input="x", stream=True) as events:
        *_, last = events
    return last.response  # type: ignore[union-attr]


def _text(item: Mapping[str, Any]) -> str:
    return "".join(part.get("text", part.get("refusal", "")) for part in item.get("content", []))


INTERLEAVED = calls(
    call(0, "", "a", "weather"), call(0, '{"ci'), call(1, '{"city":', "b", "weather"), call(0, 'ty": "Oslo"}'),
    call(1, ' "Rome"}'),
)  # fmt: skip
WAYS = {
    "two calls in turn": calls(call(0, OSLO, "a", "weather"), call(1, ROME, "b", "weather")),
    "two calls interleaved": INTERLEAVED,
    "without numbers": calls(call(None, OSLO, "a", "weather"), call(None, ROME, "b", "weather")),
    "without numbers, in pieces": calls(
        call(None, '{"city":', "a", "weather"), call(None, ' "Oslo"}'), call(None, ROME, "b", "weather")
    ),
    "all with the number 0": calls(call(0, OSLO, "a", "weather"), call(0, ROME, "b", "weather")),
    "numbers that are none": calls(call("1", OSLO, "a", "weather"), call("2", ROME, "b", "weather")),  # type: ignore[arg-type]
    "name and id in every piece": calls(
        call(0, '{"city":', "a", "weather"), call(0, ' "Oslo"}', "a", "weather"), call(1, ROME, "b", "weather")
    ),
    "another id in every piece": calls(
        call(0, '{"city":', "a", "weather"), call(0, ' "Oslo"}', "zz"), call(1, ROME, "b", "weather")
    ),
    "the name after the id": calls(
        call(0, "", "a"), call(0, "", name="weather"), call(0, OSLO), call(1, ROME, "b", "weather")
    ),
    "arguments as an object": calls(
        call(0, {"city": "Oslo"}, "a", "weather"), call(1, {"city": "Rome"}, "b", "weather")
    ),
    "both in one piece": [
        chunk(tool_calls=[call(0, OSLO, "a", "weather"), call(1, ROME, "b", "weather")]), chunk("tool_calls")
    ],
    "an end that says stop": calls(call(0, OSLO, "a", "weather"), call(1, ROME, "b", "weather"), finish="stop"),
    "no end": calls(call(0, OSLO, "a", "weather"), call(1, ROME, "b", "weather"), finish=None),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_two_calls_arrive_as_two_calls(way: str) -> None:
    message, response = message_of([*WAYS[way], COUNTED]), response_of([*WAYS[way], COUNTED])
    assert [(block.name, block.input) for block in message.content] == [  # type: ignore[union-attr]
        ("weather", {"city": "Oslo"}),
        ("weather", {"city": "Rome"}),
    ]
    assert [block.id for block in message.content] == ["a", "b"]  # type: ignore[union-attr]
    assert message.stop_reason == "tool_use"
    assert [(item.call_id, json.loads(item.arguments)["city"]) for item in response.output] == [  # type: ignore[arg-type, union-attr]
        ("a", "Oslo"),
        ("b", "Rome"),
    ]
    assert response.status == "completed"


@pytest.mark.parametrize("finish", ["length", "tool_calls", None])
def test_a_call_cut_in_its_arguments_is_never_one_to_run(finish: str | None) -> None:
    cut = calls(call(0, OSLO, "a", "weather"), call(1, '{"city": "Ro', "b", "weather"), finish=finish)
    message, response = message_of([*cut, COUNTED]), response_of([*cut, COUNTED])
    assert message.stop_reason == "max_tokens"
    assert response.status == "incomplete"
    assert [item.status for item in response.output] == ["completed", "incomplete"]  # type: ignore[union-attr]
    whole = answer(
        {"content": None, "tool_calls": [call(None, '{"city": "Ro', "b", "weather")]}, finish or "tool_calls"
    )
    assert DIALECTS["/v1/messages"].from_chat({}, whole)["stop_reason"] == "max_tokens"
    assert DIALECTS["/v1/responses"].from_chat(ASKED, whole)["status"] == "incomplete"


def test_a_tool_without_parameters_is_called_with_an_empty_object() -> None:
    bare = [call(0, "", "a", "now"), call(1, None, "b", "now")]
    message, response = message_of([*calls(*bare), COUNTED]), response_of([*calls(*bare), COUNTED])
    assert [block.input for block in message.content] == [{}, {}]  # type: ignore[union-attr]
    assert [item.arguments for item in response.output] == ["{}", "{}"]  # type: ignore[union-attr]


TROUBLED = [
    {**chunk(), "choices": []},
    {**chunk(), "usage": COUNTED["usage"]},
    chunk(role="assistant", content=None),
    chunk(role="assistant", reasoning_content="Let me ", reasoning="Let me "),
    {**chunk(), "choices": None},
    chunk(role="assistant", reasoning_content="see.", reasoning="see."),
    chunk(role="assistant", content="Hel", tool_calls=None),
    chunk(role="assistant", content="lo.", reasoning_content=None),
    chunk(role="assistant", content=""),
    chunk("stop", role="assistant", content=None),
    {"id": None, "choices": [], "usage": None},
]


def test_what_engines_add_repeat_and_leave_out_changes_nothing() -> None:
    message, response = message_of(TROUBLED), response_of(TROUBLED)
    assert [(block.type, getattr(block, "thinking", getattr(block, "text", None))) for block in message.content] == [
        ("thinking", "Let me see."),
        ("text", "Hello."),
    ]
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (12, 7)
    assert response.output_text == "Hello."
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.usage is not None
    assert response.usage.total_tokens == 27


def test_thinking_keeps_the_signature_that_a_provider_gave_it() -> None:
    signed = chunk(thinking_blocks=[{"type": "thinking", "thinking": "", "signature": "sig=="}])
    message = message_of([chunk(reasoning_content="Hm."), signed, chunk(content="Yes."), chunk("stop"), COUNTED])
    assert [(block.type, getattr(block, "signature", None)) for block in message.content] == [
        ("thinking", "sig=="),
        ("text", None),
    ]
    unsigned = message_of([chunk(reasoning_content="Hm."), chunk(content="Yes."), chunk("stop"), COUNTED])
    assert unsigned.content[0].signature == ""  # type: ignore[union-attr]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_refusal_is_told_as_one(streamed: bool) -> None:
    if streamed:
        chunks = [chunk(refusal="I can"), chunk(refusal="not."), chunk("stop"), COUNTED]
        message, response = message_of(chunks), response_of(chunks)
    else:
        whole = answer({"content": None, "refusal": "I cannot."})
        message = Message.model_validate(DIALECTS["/v1/messages"].from_chat({"model": "m"}, whole))
        response = Response.model_validate(DIALECTS["/v1/responses"].from_chat(ASKED, whole))
    assert (message.stop_reason, message.content[0].text) == ("refusal", "I cannot.")  # type: ignore[union-attr]
    assert response.output[0].content[0].refusal == "I cannot."  # type: ignore[index, union-attr]


def test_text_after_a_call_is_a_block_of_its_own() -> None:
    chunks = [
        chunk(content="One."),
        *calls(call(0, OSLO, "a", "weather"), finish=None),
        chunk(content="Two."),
        chunk("stop"),
    ]
    assert [block.type for block in message_of([*chunks, COUNTED]).content] == ["text", "tool_use", "text"]
    kinds = [item.type for item in response_of([*chunks, COUNTED]).output]
    assert kinds == ["message", "function_call", "message"]


def test_a_custom_tool_gets_its_text_and_not_json_around_it() -> None:
    asked = ASKED | {"tools": [{"type": "custom", "name": "patch"}]}
    pieces = calls(call(0, '{"input": "+', "a", "patch"), call(0, 'x"}'))
    (item,) = response_of([*pieces, COUNTED], asked).output
    assert (item.type, item.input) == ("custom_tool_call", "+x")  # type: ignore[union-attr]
    (raw,) = response_of([*calls(call(0, '"+x"', "a", "patch"), finish="stop"), COUNTED], asked).output
    assert raw.input == '"+x"'  # type: ignore[union-attr]


@pytest.mark.parametrize("message", [{"content": "Hi."}, {"content": None, "reasoning": "Hm.", "tool_calls": []}, {}])
def test_whole_answers_are_as_published(message: dict[str, Any]) -> None:
    whole = answer(message)
    validate("Response", DIALECTS["/v1/responses"].from_chat(ASKED, whole))
    strict(Message, msgspec.json.encode(DIALECTS["/v1/messages"].from_chat({"model": "m"}, whole)))
