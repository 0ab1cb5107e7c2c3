"""Chat answers with one to three fields that no engine should send: each is translated as published, or Failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.dialects import DIALECTS, send_over_chat
from backends.errors import BackendError
from backends.sse import EventStream
from backends.types import Reply, Request, Whole
from backends.whole import whole
from tests.backends.test_dialects import COUNTED, chunk
from tests.published import complaint

pytestmark = pytest.mark.unpublished("the engine lies")
ODD: tuple[Any, ...] = (
    None, 0, -1, 1e308, True, "", "x", [], {}, [None], [[]], ["x"], [1, {}], {"a": 1}, {"type": "text"}, 2**70,
    [{"type": "text", "text": 5}],
)  # fmt: skip
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
THOUGHTS: dict[str, Any] = {
    "reasoning_content": "hm",
    "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}],
}
MESSAGE = {"role": "assistant", "content": "hi", "refusal": None, **THOUGHTS, "tool_calls": [CALL]}
ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "tool_calls", "stop_reason": None}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 1}},
}
CHUNKS: list[dict[str, Any]] = [
    chunk(role="assistant", content=""), chunk(**THOUGHTS), chunk(content="he"), chunk(tool_calls=[CALL]),
    chunk("tool_calls"), COUNTED,
]  # fmt: skip
ASKED: dict[str, dict[str, Any]] = {
    "/v1/messages": {"model": "auto", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]},
    "/v1/responses": {"model": "auto", "input": "x"},
}


class Liar:
    """Sends these words, whatever it is asked."""

    def __init__(self, said: Any) -> None:
        self._said = said

    async def send(self, request: Request) -> Reply:
        if not request.stream:
            return whole(json.dumps(self._said).encode(), request=request, backend="liar")
        pieces = iter([*(b"data: " + json.dumps(each).encode() + b"\n\n" for each in self._said), b"data: [DONE]\n\n"])

        async def read() -> bytes:
            return next(pieces, b"")

        stream = EventStream(read, lambda: None, request=request, backend="liar")
        await stream.start(read)
        return stream


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def mutated(draw: st.DrawFn, honest: Any) -> Any:
    said = deepcopy(honest)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(list(places(said)) or [(0,)]))
        inner = said
        for step in way:
            inner = inner[step]
        if inner or isinstance(inner, dict):
            inner[last] = deepcopy(draw(st.sampled_from(ODD)))
    return said


async def translated(path: str, said: Any, *, stream: bool) -> bytes | None:
    """The answer in the protocol of the path; None where it is an error of the engine's."""
    asked = {**ASKED[path], "stream": stream}
    fields = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in asked.items()}
    request = Request(path=path, fields=fields, model="m", answers_as="named", stream=stream)
    try:
        reply = await send_over_chat(Liar(said), request, DIALECTS[path])
    except BackendError:
        return None
    if isinstance(reply, Whole):
        return reply.body
    body = b"".join([block async for block in reply])
    return None if reply.report.failure is not None else body


@pytest.mark.parametrize("path", sorted(DIALECTS))
@settings(max_examples=100, deadline=None)
@given(said=mutated(ANSWER))
def test_a_whole_answer_is_as_published_or_an_error_of_the_engine(path: str, said: Any) -> None:
    body = asyncio.run(translated(path, said, stream=False))
    assert body is None or complaint("POST", path, 200, "application/json", body) is None


@pytest.mark.parametrize("path", sorted(DIALECTS))
@settings(max_examples=100, deadline=None)
@given(said=mutated(CHUNKS))
def test_a_stream_is_as_published_or_breaks_off(path: str, said: Any) -> None:
    body = asyncio.run(translated(path, said, stream=True))
    assert body is None or complaint("POST", path, 200, "text/event-stream", body) is None
