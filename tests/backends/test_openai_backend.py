"""What the backend for OpenAI-compatible servers promises, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from backends.errors import BackendError, Cut, Failed, Overloaded, Refused, TimedOut, Unreachable
from backends.openai import OpenAIBackend
from backends.scripted import Line, Script, always, in_turn
from backends.types import Limits, Usage
from backends.whole import read_all
from benchmarks.scripted_server import ScriptedServer
from tests.backends.conftest import asked, contents, parsed, streamed

pytestmark = pytest.mark.anyio

SHORT = Limits(connect_s=1.0, first_byte_s=0.15, idle_s=0.15)


@asynccontextmanager
async def engine(
    script: Script | Line, limits: Limits | None = None
) -> AsyncIterator[tuple[ScriptedServer, OpenAIBackend]]:
    """A scripted server and a backend in front of it."""
    async with ScriptedServer(always(script) if isinstance(script, Line) else script) as server:
        backend = OpenAIBackend(server.url + "/v1", name="mock", api_key="sk-upstream-secret", limits=limits)
        try:
            yield server, backend
        finally:
            await backend.aclose()


async def test_a_plain_answer_comes_through_with_its_usage() -> None:
    async with engine(Line(text="Well done, you.", prompt_tokens=7)) as (_, backend):
        reply = await backend.send(asked())
        (answer,) = parsed(b"data: " + await read_all(reply) + b"\n\n")
    assert answer["choices"][0]["message"]["content"] == "Well done, you."
    assert reply.report.usage == Usage(prompt_tokens=7, completion_tokens=3)
    assert reply.report.finish_reason == "stop"
    assert reply.report.response_id == answer["id"]
    assert reply.report.shown.bytes == len("Well done, you.")
    assert reply.report.failure is None


async def test_the_answer_names_the_model_the_client_knows() -> None:
    async with engine(Line()) as (_, backend):
        plain = await read_all(await backend.send(asked()))
        stream = await read_all(await backend.send(asked(stream=True)))
    assert {event["model"] for event in [*parsed(b"data: " + plain + b"\n\n"), *parsed(stream)]} == {"small"}


async def test_the_engine_gets_its_own_model_name_the_extras_and_every_field_untouched() -> None:
    async with engine(Line()) as (server, backend):
        body = {"temperature": 0.70, "vllm_xargs": {"theirs": 1}, "made_up": {"deep": [1, {"x": None}]}}
        await read_all(await backend.send(asked(body=body, extra={"vllm_xargs": {"anyprec_bits": 3}})))
        heard = server.heard[0]
    assert heard.json() == {
        "model": "org/small-7b",
        "messages": [{"role": "user", "content": "Say something kind."}],
        "temperature": 0.70,
        "vllm_xargs": {"theirs": 1, "anyprec_bits": 3},
        "made_up": {"deep": [1, {"x": None}]},
    }
    assert b'"temperature":0.7' in heard.body
    assert heard.headers["authorization"] == "Bearer sk-upstream-secret"


async def test_vendor_fields_survive_on_the_way_back() -> None:
    async with engine(Line(fields={"x_engine": {"speed": 3}})) as (_, backend):
        plain = await read_all(await backend.send(asked()))
        stream = await read_all(await backend.send(asked(stream=True)))
    assert all(event["x_engine"] == {"speed": 3} for event in [*parsed(b"data: " + plain + b"\n\n"), *parsed(stream)])


async def test_headers_for_tracing_are_passed_on() -> None:
    async with engine(Line()) as (server, backend):
        await read_all(await backend.send(asked(headers={"traceparent": "00-abc-def-01"})))
        assert server.heard[0].headers["traceparent"] == "00-abc-def-01"


async def test_of_a_header_that_both_name_the_operators_word_is_the_only_one() -> None:
    own = {"OpenAI-Organization": "org-operator", "anthropic-version": "2023-06-01", "anthropic-beta": "a"}
    sent = {"openai-organization": "org-client", "anthropic-version": "2099-01-01", "anthropic-beta": "b"}
    async with ScriptedServer(always(Line(text="x"))) as server:
        backend = OpenAIBackend(server.url, headers=own)
        await read_all(await backend.send(asked(headers=sent)))
        await backend.aclose()
        heard = server.heard[0].headers
    assert (heard["openai-organization"], heard["anthropic-version"]) == ("org-operator", "2023-06-01")


async def test_a_header_with_a_line_break_is_never_sent() -> None:
    async with engine(Line()) as (server, backend):
        with pytest.raises(Refused, match="line break"):
            await backend.send(asked(headers={"x-session-id": "a\r\nx-admin: 1"}))
        assert server.heard == []


async def test_a_stream_is_relayed_whole_with_its_usage_and_done() -> None:
    async with engine(Line(text="one two three", prompt_tokens=5)) as (_, backend):
        reply = await backend.send(asked(stream=True))
        stream = await read_all(reply)
    assert contents(stream) == "one two three"
    assert parsed(stream)[-1]["usage"]["completion_tokens"] == 3
    assert stream.endswith(b"data: [DONE]\n\n")
    assert reply.report.usage == Usage(prompt_tokens=5, completion_tokens=3)
    assert reply.report.finish_reason == "stop"
    assert reply.report.shown.bytes == len("one two three")


async def test_usage_is_asked_for_all_the_same_and_kept_from_a_client_who_did_not_ask() -> None:
    async with engine(Line(text="one two three")) as (server, backend):
        reply = await backend.send(asked(stream=True, wants_usage=False))
        stream = await read_all(reply)
        assert server.heard[0].json()["stream_options"] == {"include_usage": True}
    assert b"usage" not in stream
    assert contents(stream) == "one two three"
    assert stream.endswith(b"data: [DONE]\n\n")
    assert reply.report.usage is not None


async def test_the_usage_event_is_a_block_of_its_own() -> None:
    async with engine(Line(text="one two three")) as (_, backend):
        reply = streamed(await backend.send(asked(stream=True)))
        blocks = [block async for block in reply]
    with_usage = [block for block in blocks if b'"usage"' in block]
    assert [block.count(b"data: ") for block in with_usage] == [1]


async def test_other_stream_options_of_the_client_are_kept() -> None:
    async with engine(Line()) as (server, backend):
        body = {"stream_options": {"continuous_usage_stats": True}}
        await read_all(await backend.send(asked(stream=True, body=body)))
        options = server.heard[0].json()["stream_options"]
    assert options == {"continuous_usage_stats": True, "include_usage": True}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("line", "error"),
    [
        (Line(trouble="hang"), TimedOut),
        (Line(delay_s=30.0), TimedOut),
        (Line(trouble="reset"), Cut),
        (Line(trouble="half chunk"), Cut),
        (Line(trouble="500"), Failed),
        (Line(trouble="html"), Failed),
        (Line(trouble="garbage"), Failed),
        (Line(trouble="busy"), Overloaded),
        (Line(trouble="refuse"), Refused),
    ],
    ids=["hangs", "slow to the first byte", "resets", "stops", "500", "html", "garbage", "429", "400"],
)
async def test_trouble_before_the_first_byte_is_raised(line: Line, error: type[BackendError], stream: bool) -> None:
    async with engine(line, SHORT) as (_, backend):
        with pytest.raises(BackendError) as raised:
            await backend.send(asked(stream=stream))
    assert type(raised.value) is error
    assert raised.value.backend == "mock"
    assert "secret" not in str(raised.value)


async def test_a_refusal_carries_the_engines_status_and_body() -> None:
    async with engine(Line(trouble="refuse")) as (_, backend):
        with pytest.raises(Refused) as raised:
            await backend.send(asked())
    assert raised.value.status == 400
    assert b"The script refuses this." in raised.value.body


async def test_an_overloaded_engine_says_when_to_come_back() -> None:
    async with engine(Line(trouble="busy", retry_after_s=7)) as (_, backend):
        with pytest.raises(Overloaded) as raised:
            await backend.send(asked())
    assert raised.value.retry_after_s == 7.0


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async with engine(Line()) as (server, backend):
        await server.stop()
        with pytest.raises(Unreachable):
            await backend.send(asked())


@pytest.mark.parametrize("trouble", ["reset", "half chunk", "hang", "error event"])
async def test_a_stream_that_breaks_midway_ends_with_a_failure_and_whole_events_only(trouble: str) -> None:
    line = Line(text="one two three four", trouble=trouble, trouble_after=2)  # type: ignore[arg-type]
    async with engine(line, SHORT) as (_, backend):
        reply = await backend.send(asked(stream=True))
        stream = await read_all(reply)
    assert contents(stream) == "one two"
    assert reply.report.failure is not None
    assert reply.report.usage is None
    assert reply.report.shown.bytes == len("one two")
    assert b"error" not in stream


async def test_an_answer_without_usage_is_whole_and_counted_in_bytes() -> None:
    async with engine(Line(text='naïve "quotes" \n and 漢字', reports_usage=False)) as (_, backend):
        reply = await backend.send(asked(stream=True))
        stream = await read_all(reply)
    assert reply.report.usage is None
    assert reply.report.failure is None
    assert contents(stream) == 'naïve "quotes" \n and 漢字'
    assert reply.report.shown.bytes == len('naïve "quotes" \n and 漢字'.encode())


async def test_closing_a_reply_cuts_the_engine_off_at_once() -> None:
    async with engine(Line(text="word " * 1000, piece_delay_s=0.01)) as (server, backend):
        reply = streamed(await backend.send(asked(stream=True)))
        async for _ in reply:
            break
        await reply.aclose()
        await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_a_client_who_leaves_while_the_engine_thinks_frees_the_engine() -> None:
    async with engine(Line(trouble="hang")) as (server, backend):
        sending = asyncio.create_task(backend.send(asked()))
        await asyncio.wait_for(server.hearing.wait(), 5)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_connections_are_used_again() -> None:
    async with engine(Line()) as (server, backend):
        for _ in range(20):
            await read_all(await backend.send(asked()))
            await read_all(await backend.send(asked(stream=True)))
        assert server.connections == 1


async def test_two_hundred_answers_at_once_are_not_mixed_up() -> None:
    async with engine(lambda _model, body: Line(text=f"for {body['user']} alone")) as (_, backend):

        async def one(number: int) -> str:
            return contents(await read_all(await backend.send(asked(stream=True, body={"user": str(number)}))))

        texts = await asyncio.gather(*(one(number) for number in range(200)))
    assert texts == [f"for {number} alone" for number in range(200)]


async def test_a_pooled_connection_closed_by_the_server_is_replaced_without_a_trace() -> None:
    async with engine(Line(text="still here")) as (server, backend):
        await read_all(await backend.send(asked()))
        await server.stop()
        await server.start()
        reply = await backend.send(asked(stream=True))
        assert contents(await read_all(reply)) == "still here"


async def test_a_failure_after_a_line_of_answers_leaves_no_bad_connection_behind() -> None:
    lines = [Line(), Line(trouble="reset"), Line(trouble="reset"), Line(text="fine again")]
    async with engine(in_turn(lines)) as (_, backend):
        await read_all(await backend.send(asked()))
        with pytest.raises(Unreachable):
            await backend.send(asked())
        assert contents(await read_all(await backend.send(asked(stream=True)))) == "fine again"


async def test_a_ping_tells_whether_the_server_can_serve() -> None:
    async with engine(Line()) as (server, backend):
        assert await backend.ping()
        server.healthy = False
        assert not await backend.ping()
        await server.stop()
        assert not await backend.ping()
