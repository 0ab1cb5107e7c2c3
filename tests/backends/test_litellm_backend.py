"""What the backend through litellm's SDK promises, with litellm's own OpenAI provider against a real socket."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest

from backends.dialects import DIALECTS
from backends.errors import BackendError, Failed, Overloaded, Refused, TimedOut, UnsupportedRequest
from backends.litellm import LiteLLMBackend
from backends.scripted import Line, always
from backends.types import Limits, Request, Usage
from backends.whole import read_all
from benchmarks.scripted_server import ScriptedServer
from tests.backends.conftest import asked, contents, parsed, streamed
from tests.clients.engine import serve
from tests.http.messages_engine import messages_engine
from tests.published import complaint

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore"),  # litellm and pydantic warn of each other
]


def to_provider(**changes: Any) -> Request:
    """A request for a model of litellm's OpenAI provider."""
    return asked(model="openai/gpt-x", **changes)


@asynccontextmanager
async def provider(line: Line, limits: Limits | None = None) -> AsyncIterator[tuple[ScriptedServer, LiteLLMBackend]]:
    """A scripted provider and a litellm backend pointed at it."""
    async with ScriptedServer(always(line)) as server:
        backend = LiteLLMBackend(name="gpt", api_key="sk-upstream-secret", api_base=server.url + "/v1", limits=limits)
        yield server, backend
        await backend.aclose()


async def test_a_plain_answer_comes_through_with_its_usage() -> None:
    async with provider(Line(text="Well done, you.", prompt_tokens=7)) as (server, backend):
        reply = await backend.send(to_provider())
        (answer,) = parsed(b"data: " + await read_all(reply) + b"\n\n")
        assert server.heard[0].headers["authorization"] == "Bearer sk-upstream-secret"
    assert answer["choices"][0]["message"]["content"] == "Well done, you."
    assert answer["model"] == "small"
    assert reply.report.usage == Usage(prompt_tokens=7, completion_tokens=3)


async def test_a_stream_comes_as_openai_writes_it() -> None:
    async with provider(Line(text="one two three", prompt_tokens=5)) as (_, backend):
        reply = await backend.send(to_provider(stream=True))
        stream = await read_all(reply)
    events = parsed(stream)
    assert contents(stream) == "one two three"
    assert stream.endswith(b"data: [DONE]\n\n")
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 3
    assert {event["model"] for event in events} == {"small"}
    assert reply.report.usage == Usage(prompt_tokens=5, completion_tokens=3)
    assert reply.report.finish_reason == "stop"


async def test_a_client_who_did_not_ask_for_usage_sees_none() -> None:
    async with provider(Line(text="one two three")) as (_, backend):
        reply = await backend.send(to_provider(stream=True, wants_usage=False))
        assert b'"usage"' not in await read_all(reply)
        assert reply.report.usage is not None


async def test_a_client_cannot_set_litellms_own_arguments() -> None:
    body = {"api_base": "http://127.0.0.1:9/v1", "mock_response": "fooled", "top_k": 3}
    async with provider(Line(text="the real one")) as (server, backend):
        answer = await read_all(await backend.send(to_provider(body=body)))
        assert b"the real one" in answer
        assert server.heard[0].json()["top_k"] == 3


async def test_embeddings_and_completions_are_served_too() -> None:
    async with provider(Line(text="one two")) as (_, backend):
        embedding = await read_all(await backend.send(to_provider(path="/v1/embeddings", body={"input": ["hi"]})))
        request = asked(
            model="text-completion-openai/gpt-x", path="/v1/completions", stream=True, body={"prompt": "hi"}
        )
        stream = await read_all(await backend.send(request))
    assert b'"embedding":[1.0,2.0,0.0]' in embedding
    text = "".join(choice.get("text") or "" for event in parsed(stream) for choice in event["choices"])
    assert text == "one two"


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        ("hang", TimedOut),
        ("reset", BackendError),
        ("500", Failed),
        ("html", Failed),
        ("garbage", Failed),
        ("busy", Overloaded),
        ("refuse", Refused),
    ],
)
async def test_trouble_before_the_first_byte_is_raised(trouble: str, error: type[BackendError]) -> None:
    async with provider(Line(trouble=trouble), Limits(first_byte_s=0.5)) as (_, backend):  # type: ignore[arg-type]
        with pytest.raises(error) as raised:
            await backend.send(to_provider())
    assert "secret" not in str(raised.value)


async def test_a_provider_that_names_the_moment_to_ask_again_is_not_left_alone_for_an_hour() -> None:
    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(429)
            self.send_header("retry-after", formatdate(time.time() + 100, usegmt=True))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/v1"
        backend = LiteLLMBackend(name="gpt", api_key="sk-upstream-secret", api_base=base)
        with pytest.raises(Overloaded) as raised:
            await backend.send(to_provider())
        await backend.aclose()
        server.shutdown()
    assert raised.value.retry_after_s is not None
    assert 0 <= raised.value.retry_after_s <= 100


async def test_a_stream_that_breaks_midway_ends_with_a_failure() -> None:
    async with provider(Line(text="one two three", trouble="reset", trouble_after=2)) as (_, backend):
        reply = await backend.send(to_provider(stream=True))
        stream = await read_all(reply)
    assert "one two".startswith(contents(stream))
    assert reply.report.failure is not None
    assert "secret" not in reply.report.failure


async def test_closing_a_reply_cuts_the_provider_off() -> None:
    async with provider(Line(text="word " * 1000, piece_delay_s=0.01)) as (server, backend):
        reply = streamed(await backend.send(to_provider(stream=True)))
        async for _ in reply:
            break
        await reply.aclose()
        await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_what_lacks_the_field_that_its_path_is_about_is_refused() -> None:
    async with provider(Line()) as (_, backend):
        with pytest.raises(Refused, match="/v1/responses"):
            await backend.send(to_provider(path="/v1/responses"))


CLAUDE = "anthropic/claude-sonnet-4-5"
TALK: dict[str, Any] = {"max_tokens": 50, "messages": [{"role": "user", "content": "And the weather?"}]}
ANSWER = {
    "id": "chatcmpl-9",
    "object": "chat.completion",
    "created": 5,
    "model": "gpt-x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "It is sunny."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}


def native(path: str, *, stream: bool = False, model: str = "openai/gpt-x", **body: Any) -> Request:
    """A request of another protocol."""
    asks = TALK if path == "/v1/messages" else {"input": "And the weather?"}
    fields = {**asks, **body, "model": "auto", "stream": stream}
    raw = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in fields.items()}
    return Request(path=path, fields=raw, model=model, answers_as="small", stream=stream)


@pytest.mark.parametrize("stream", [False, True])
async def test_messages_go_as_they_are_to_a_provider_that_has_them(stream: bool) -> None:
    with messages_engine() as url:
        backend = LiteLLMBackend(name="claude", api_key="sk-upstream-secret", api_base=url)
        reply = await backend.send(native("/v1/messages", stream=stream, model=CLAUDE))
        body = await read_all(reply)
        await backend.aclose()
    assert complaint("POST", "/v1/messages", 200, "text/event-stream" if stream else "application/json", body) is None
    assert b'"small"' in body
    assert b"sunny" in body
    assert reply.report.usage == Usage(prompt_tokens=9, completion_tokens=3)
    assert reply.report.complete


async def test_responses_go_as_they_are_to_a_provider_that_has_them() -> None:
    whole = msgspec.json.encode(DIALECTS["/v1/responses"].from_chat({"model": "gpt-x", "input": "x"}, ANSWER))
    async with provider(Line(verbatim=(whole,))) as (server, backend):
        asked_for = native(
            "/v1/responses", api_base="http://127.0.0.1:9", vendor=1, include=["reasoning.encrypted_content"]
        )
        reply = await backend.send(asked_for)
        heard = server.heard[0]
    assert heard.path == "/v1/responses"
    assert (heard.json()["vendor"], heard.json()["api_base"]) == (
        1,
        "http://127.0.0.1:9",
    )  # in the body, where it is harmless
    assert heard.json()["include"] == ["reasoning.encrypted_content"]
    assert complaint("POST", "/v1/responses", 200, "application/json", await read_all(reply)) is None
    assert reply.report.usage == Usage(prompt_tokens=9, completion_tokens=3)


async def test_a_stream_of_responses_comes_event_by_event_as_published() -> None:
    events = DIALECTS["/v1/responses"].events({"model": "gpt-x", "input": "x", "stream": True})
    words = ({"content": "It is "}, {"content": "sunny."})
    chunks = [
        {**ANSWER, "choices": [{"index": 0, "delta": each, "finish_reason": None}], "usage": None} for each in words
    ]
    pieces = [*(event for each in chunks for event in events.take(each)), *events.take({**ANSWER, "choices": []})]
    pieces += list(events.end())
    async with provider(Line(verbatim=tuple(pieces))) as (_, backend):
        reply = await backend.send(native("/v1/responses", stream=True, model="openai/gpt-4o"))
        body = await read_all(reply)
    assert complaint("POST", "/v1/responses", 200, "text/event-stream", body) is None
    assert body.count(b"event: ") == len(pieces)
    assert reply.report.complete
    assert reply.report.usage == Usage(prompt_tokens=9, completion_tokens=3)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_providers_without_a_protocol_are_asked_in_chat(path: str, stream: bool) -> None:
    async with provider(Line(text="It is sunny.", prompt_tokens=9)) as (server, backend):
        asked_for = msgspec.structs.replace(
            native(path, stream=stream, model="mistral/llama"), extra={"max_output_tokens": 7, "vendor": 1}
        )
        reply = await backend.send(asked_for)
        reply.report.served_by = "one of several"
        body = await read_all(reply)
    heard = server.heard[0].json()
    assert reply.report.served_by == "one of several"
    assert (reply.report.response_id or "").encode() in body
    assert server.heard[0].path == "/v1/chat/completions"
    assert heard["vendor"] == 1
    assert complaint("POST", path, 200, "text/event-stream" if stream else "application/json", body) is None
    if path == "/v1/responses":
        assert heard["max_tokens"] == 7


async def test_a_server_under_a_providers_name_that_has_no_responses_is_said_to_have_none() -> None:
    engine = serve()  # speaks chat alone
    backend = LiteLLMBackend(name="any", api_key="k", api_base=f"http://127.0.0.1:{engine.server_port}/v1")
    with pytest.raises(UnsupportedRequest) as refused:
        await backend.send(native("/v1/responses"))
    engine.shutdown()
    engine.server_close()
    assert refused.value.no_path


@pytest.mark.parametrize(("model", "sent"), [("openai/gpt-4o", True), ("anthropic/claude-sonnet-4-5", False)])
async def test_probabilities_that_only_the_gateway_asks_for_are_asked_of_providers_that_have_them(
    model: str, sent: bool
) -> None:
    backend = LiteLLMBackend(name="any", api_key="k")
    request = asked(model=model, extra={"logprobs": True, "top_logprobs": 5, "vendor": 1})
    assert set(backend._answerable(request).extra) == {"vendor", *(("logprobs", "top_logprobs") if sent else ())}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_headers_of_the_client_go_beside_the_operators_own(path: str) -> None:
    own = {"extra_headers": {"Anthropic-Beta": "context-1m", "x-team": "a"}}
    sent = {"anthropic-beta": "tools-1", "anthropic-version": "2023-06-01", "x-team": "b", "traceparent": "t"}
    async with ScriptedServer(always(Line(trouble="500"))) as server:
        base = server.url if path == "/v1/messages" else f"{server.url}/v1"
        backend = LiteLLMBackend(name="any", api_key="k", api_base=base, options=own)
        model = CLAUDE if path == "/v1/messages" else "openai/gpt-x"
        request = native(path, model=model) if path == "/v1/messages" else to_provider()
        with pytest.raises(BackendError):
            await backend.send(msgspec.structs.replace(request, headers=sent))
        heard = server.heard[0]
        await backend.aclose()
    assert heard.path == path
    expected = {**sent, "anthropic-beta": "context-1m,tools-1", "x-team": "a"}
    assert {name: heard.headers.get(name) for name in expected} == expected


async def test_the_operators_organization_stands_whatever_the_client_names() -> None:
    sent = {"openai-organization": "org-client"}
    for options, expected in (({}, "org-client"), ({"organization": "org-operator"}, "org-operator")):
        async with ScriptedServer(always(Line(text="x"))) as server:
            backend = LiteLLMBackend(name="any", api_key="k", api_base=f"{server.url}/v1", options=options)
            await backend.send(msgspec.structs.replace(to_provider(), headers=sent))
            await backend.aclose()
            assert server.heard[0].headers["openai-organization"] == expected


def test_litellm_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, backends.litellm; sys.exit('litellm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
