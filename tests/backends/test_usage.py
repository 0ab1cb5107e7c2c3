"""What an engine says it used: believed where it is a count, and never an error."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.scripted import Line, event
from backends.types import MOST_TOKENS, Usage
from backends.usage import count_of, usage_of
from backends.visible import visible_bytes, visible_streamed
from backends.whole import read_all
from tests.backends.conftest import asked
from tests.backends.test_openai_backend import engine

WORDS = st.sampled_from(["", "5", "NaN", "-1"])
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=True) | st.booleans() | st.none() | WORDS
PARTS = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "reasoning_tokens")
CACHED = ("cache_read_input_tokens", "cache_creation_input_tokens", "cached_tokens", "prompt_tokens_details")
NAMES = st.sampled_from([*PARTS, *CACHED, "completion_tokens_details"])
OBJECTS: Any = st.dictionaries(NAMES, NUMBERS | st.lists(NUMBERS, max_size=2) | st.dictionaries(NAMES, NUMBERS))


@pytest.mark.parametrize(("said", "count"), [(0, 0), (7, 7), (7.0, 7), (2**40, 2**40)])
def test_a_whole_number_up_to_two_to_the_forty_is_a_count(said: object, count: int) -> None:
    assert count_of(said) == count


@pytest.mark.parametrize(
    "said", [-1, 2**40 + 1, 2**64 - 1, 0.5, float("nan"), float("inf"), -0.5, "7", None, True, [7], {"n": 7}]
)
def test_nothing_else_is(said: object) -> None:
    assert count_of(said) is None


@given(OBJECTS)
def test_no_usage_object_is_an_error_and_none_gives_a_number_out_of_bounds(said: object) -> None:
    usage = usage_of(said)
    assert usage is not None
    *parts, tier = msgspec.structs.astuple(usage.parts)
    counts = [value for value in msgspec.structs.astuple(usage) if value is not usage.parts]
    assert all(0 <= (count or 0) <= MOST_TOKENS for count in [*counts, *parts])
    assert isinstance(tier, str)


@pytest.mark.parametrize("counts", [(-1, 0), (0, -100_000_000), (2**64 - 1, 0)])
def test_usage_itself_refuses_what_is_no_count(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no count"):
        Usage(*counts)


@pytest.mark.parametrize(
    ("said", "prompt", "completion"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 3}, 9, 3),
        ({"input_tokens": 9, "output_tokens": 3}, 9, 3),
        ({"input_tokens": 2, "output_tokens": 3, "cache_read_input_tokens": 7}, 9, 3),  # Anthropic: beside
        ({"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 7}}, 9, 3),  # within
        ({"prompt_tokens": 9, "completion_tokens": 3, "cache_read_input_tokens": 7}, 9, 3),  # LiteLLM: within
        ({"prompt_tokens": 2, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 7}}, 9, 3),  # beside
        ({"prompt_tokens": 2, "completion_tokens": 3, "cache_creation_input_tokens": 7}, 9, 3),
        ({"prompt_tokens": 0, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 7}}, 0, 3),  # no count
        ({"prompt_tokens": 9.0, "completion_tokens": "3"}, 9, None),
        ({"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 9, "output_tokens": 3}, 9, 3),
        ({"total_tokens": 12}, None, None),
        ({}, None, None),
    ],
)
def test_every_dialect_gives_the_same_two_counts(said: object, prompt: int | None, completion: int | None) -> None:
    usage = usage_of(said)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, completion)


def test_what_no_text_shows_is_known_from_the_details() -> None:
    details = {"reasoning_tokens": 500, "text_tokens": 9, "rejected_prediction_tokens": 4, "audio_tokens": None}
    usage = usage_of({"completion_tokens": 513, "completion_tokens_details": details})
    assert usage is not None
    assert usage.unseen_completion_tokens == 504


def chat_of(**message: object) -> bytes:
    return json.dumps({"choices": [{"message": message}]}, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({"content": "漢字"}, 6),
        ({"content": 'a "quote"\n'}, 10),
        ({"content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}, 8),
        ({"content": "four", "reasoning": "thinking", "reasoning_content": "thinking"}, 12),  # said twice
        ({"content": "four", "reasoning": "thinking", "reasoning_details": [{"text": "thinking"}]}, 12),
        ({"content": [{"type": "text", "text": "four"}]}, 4),
        ({"refusal": "no"}, 2),
    ],
)
def test_text_reasoning_and_arguments_of_tools_can_be_seen(message: dict[str, object], shown: int) -> None:
    assert visible_bytes("/v1/chat/completions", chat_of(**message)) == shown


def test_logprobs_do_not_count_as_text() -> None:
    logprobs = {"content": [{"token": "four", "bytes": [1], "top_logprobs": [{"token": "fore", "logprob": -1.0}]}]}
    body = json.dumps({"choices": [{"message": {"content": "four"}, "logprobs": logprobs}]}).encode()
    assert visible_bytes("/v1/chat/completions", body) == 4


def test_the_arguments_of_anthropic_s_tools_can_be_seen() -> None:
    blocks = [{"type": "text", "text": "four"}, {"type": "tool_use", "name": "f", "input": {"text": "x", "n": [1]}}]
    body = json.dumps({"content": blocks}, separators=(",", ":")).encode()
    assert visible_bytes("/v1/messages", body) == 4 + len('{"text":"x","n":[1]}')


def test_a_response_s_text_counts_once_though_its_events_repeat_it() -> None:
    events = [
        {"type": "response.output_text.delta", "delta": "four"},
        {"type": "response.output_text.done", "text": "four"},
        {"type": "response.function_call_arguments.delta", "delta": "{}"},
        {"type": "response.function_call_arguments.done", "arguments": "{}"},
    ]
    assert visible_streamed("/v1/responses", b"".join(map(event, events))) == 6


DEEP = b'{"completion_tokens": ' + b"[" * 3000 + b"]" * 3000 + b"}"
LIES = [
    DEEP,
    b"-1",
    b'"x"',
    b"[]",
    b'{"prompt_tokens": NaN}',
    b'{"completion_tokens": 1e999}',
    b'{"prompt_tokens": "5"}',
]


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie[:30])
async def test_a_whole_answer_is_relayed_whatever_stands_in_its_usage(lie: bytes, stream: bool) -> None:
    async with engine(Line(text="one two", usage=lie)) as (_, backend):
        reply = await backend.send(asked(stream=stream))
        body = await read_all(reply)
    assert reply.report.failure is None
    assert b"one two" in body or b'" two"' in body
    assert (b'"model":"small"' in body) is True
    assert reply.report.finish_reason == "stop"
    assert reply.report.usage is None or (reply.report.usage.prompt_tokens, reply.report.usage.completion_tokens) == (
        None,
        None,
    )


@pytest.mark.anyio
async def test_what_comes_after_done_is_not_relayed() -> None:
    said = {"id": "1", "model": "m", "choices": [{"delta": {"content": "one"}, "finish_reason": "stop"}]}
    late = {"id": "1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    pieces = (event(said), b"data: [DONE]\n\n" + event(late) + event(said))
    async with engine(Line(verbatim=pieces)) as (_, backend):
        reply = await backend.send(asked(stream=True))
        body = await read_all(reply)
    assert body.endswith(b"data: [DONE]\n\n")
    assert body.count(b"one") == 1
    assert reply.report.usage == Usage(5, 1)


@pytest.mark.anyio
async def test_reports_that_come_in_parts_or_contradict_each_other_count_at_their_largest() -> None:
    head = {"id": "1", "model": "m"}
    pieces = [{**head, "choices": [{"delta": {"content": "x"}}], "usage": {"completion_tokens": n}} for n in (1, 2, 3)]
    pieces.append({**head, "choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9}})
    pieces.append({**head, "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": -4}})
    async with engine(Line(verbatim=(*map(event, pieces), b"data: [DONE]\n\n"))) as (_, backend):
        reply = await backend.send(asked(stream=True))
        await read_all(reply)
    assert reply.report.usage == Usage(9, 3)


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 2, 7])
async def test_only_whole_events_are_relayed_however_few_bytes_come_at_once(size: int) -> None:
    said = event({"id": "1", "model": "m", "choices": [{"delta": {"content": "one"}}]})
    data = said + said[: len(said) // 2]
    pieces = tuple(data[at : at + size] for at in range(0, len(data), size))
    async with engine(Line(verbatim=pieces, piece_delay_s=0.001)) as (_, backend):
        reply = await backend.send(asked(stream=True))
        body = await read_all(reply)
    assert body == said.replace(b'"m"', b'"small"')
    assert reply.report.failure == "ended in the middle of an event"
