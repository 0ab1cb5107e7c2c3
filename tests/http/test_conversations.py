"""Responses that clients go on from, over workers and restarts; streams that break, in the SDKs' own words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, engine, serving, settings_for

pytestmark = pytest.mark.anyio
KEY, OTHER = "sk-of-one-tenant", "sk-of-another-one"
TENANTS = {"one": {"keys": [{"secret": KEY}]}, "two": {"keys": [{"secret": OTHER}]}}


def settings_of(folder: Path, engine: ScriptedServer, **more: Any) -> dict[str, Any]:
    settings = settings_for(folder, {"talker": engine}, tenants=TENANTS, **more)
    settings["models"][0]["capabilities"] = ["chat", "tools"]
    return settings


def recalling() -> ScriptedServer:
    """An engine that says the first thing it was ever told in a conversation, and how often it was asked."""

    def script(_model: str, body: Mapping[str, Any]) -> Line:
        said = [message["content"] for message in body["messages"] if message["role"] == "user"]
        return Line(text=f"{said[0]} after {len(said)}")

    return ScriptedServer(script)


def sdk(gateway: Running, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)


async def test_twenty_conversations_go_on_right_from_every_worker_streamed_or_not(tmp_path: Path) -> None:
    async with recalling() as talker:
        async with (
            serving(tmp_path, settings_of(tmp_path, talker), "--workers", "2") as gateway,
            sdk(gateway) as client,
        ):
            right = await asyncio.gather(*(conversation(client, f"word-{n}", streamed=n % 2 == 1) for n in range(20)))
    assert right == [True] * 20


async def conversation(client: openai.AsyncOpenAI, word: str, *, streamed: bool) -> bool:
    """Four turns, each on a connection of its own, so that any worker may get it."""
    previous: Any = openai.omit
    said = []
    for turn in range(4):
        asked: Any = {"input": word if turn == 0 else "and?", "previous_response_id": previous}
        asked |= {"model": "auto", "extra_headers": {"connection": "close"}}
        if streamed:
            async with client.responses.stream(**asked) as stream:
                answer: Any = await stream.get_final_response()
        else:
            answer = await client.responses.create(**asked)
        said.append(answer.output_text)
        assert answer.previous_response_id == (previous or None)
        previous = answer.id
    return said == [f"{word} after {turn + 1}" for turn in range(4)]


async def test_a_conversation_goes_on_after_a_restart_and_is_nobody_elses(tmp_path: Path) -> None:
    async with recalling() as talker:
        settings = settings_of(tmp_path, talker)
        async with serving(tmp_path, settings) as gateway, sdk(gateway) as client:
            first = await client.responses.create(model="auto", input="remember")
        async with serving(tmp_path, settings) as gateway, sdk(gateway) as client, sdk(gateway, OTHER) as stranger:
            assert (await client.responses.retrieve(first.id)).output_text == "remember after 1"
            items = [item async for item in client.responses.input_items.list(first.id)]
            assert [item.content[0].text for item in items] == ["remember"]  # type: ignore[index, union-attr]
            again = await client.responses.create(model="auto", input="go on", previous_response_id=first.id)
            assert again.output_text == "remember after 2"
            with pytest.raises(openai.BadRequestError) as refused:
                await stranger.responses.create(model="auto", input="go on", previous_response_id=first.id)
            assert refused.value.code == "previous_response_not_found"
            for forbidden in (
                stranger.responses.retrieve,
                stranger.responses.input_items.list,
                stranger.responses.delete,
            ):
                with pytest.raises(openai.NotFoundError):
                    await forbidden(first.id)
            await client.responses.delete(first.id)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(first.id)


async def test_what_a_tenant_may_keep_is_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    async with recalling() as talker:
        settings = settings_of(tmp_path, talker, responses={"each": 3})
        async with serving(tmp_path, settings) as gateway, sdk(gateway) as client, sdk(gateway, OTHER) as stranger:
            theirs = await stranger.responses.create(model="auto", input="mine")
            names = [(await client.responses.create(model="auto", input=str(n))).id for n in range(9)]
            kept = [name for name in names if await is_kept(client, name)]
            assert set(kept) <= set(names[-4:])
            assert names[-1] in kept
            assert await is_kept(stranger, theirs.id)


async def is_kept(client: openai.AsyncOpenAI, name: str) -> bool:
    try:
        await client.responses.retrieve(name)
    except openai.NotFoundError:
        return False
    return True


async def test_pages_of_input_items_have_a_limit_an_order_and_an_end(tmp_path: Path) -> None:
    said: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "look"}]},
        {"type": "message", "role": "assistant", "content": "ok"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "7"},
        {"role": "user", "content": "and now?"},
    ]
    async with recalling() as talker, serving(tmp_path, settings_of(tmp_path, talker)) as gateway:
        async with sdk(gateway) as client:
            answer = await client.responses.create(model="auto", input=said)
            pages = [page async for page in (await client.responses.input_items.list(answer.id, limit=2)).iter_pages()]
            assert [len(page.data) for page in pages] == [2, 2, 1]
            items = [item async for item in client.responses.input_items.list(answer.id, order="asc", limit=4)]
    kinds = [item.type for item in items]
    assert kinds == ["message", "message", "function_call", "function_call_output", "message"]
    assert [item.id for page in pages for item in page.data] == [item.id for item in reversed(items)]


@pytest.mark.parametrize("keeps", [True, False])
async def test_an_answer_says_whether_it_is_kept(tmp_path: Path, keeps: bool) -> None:
    async with recalling() as talker:
        settings = settings_of(tmp_path, talker, responses={"keep": keeps})
        async with serving(tmp_path, settings) as gateway, sdk(gateway) as client:
            for asked, kept in ((openai.omit, keeps), (True, keeps), (False, False)):
                answer = await client.responses.create(model="auto", input="x", store=asked)
                assert answer.to_dict()["store"] is kept
                assert await is_kept(client, answer.id) is kept


async def test_a_translated_stream_that_breaks_raises_in_both_sdks(tmp_path: Path) -> None:
    async with engine(text="one two three", trouble="half chunk", trouble_after=2) as breaking:
        async with serving(tmp_path, settings_of(tmp_path, breaking)) as gateway, gateway.client() as raw:
            asked: Any = {"model": "auto", "input": "x", "stream": True}
            answer = await raw.post("/v1/responses", json=asked, headers={"authorization": f"Bearer {KEY}"})
            events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            assert (events[-1]["type"], events[-1]["code"]) == ("error", "stream_broken")
            assert "".join(event["delta"] for event in events if event["type"].endswith("text.delta")) == "one two"
            async with sdk(gateway) as client:
                with pytest.raises(openai.APIError, match="broke off"):
                    async for _ in await client.responses.create(**asked):
                        pass
            async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as claude:
                said: Any = [{"role": "user", "content": "x"}]
                async with claude.messages.stream(model="auto", max_tokens=9, messages=said) as stream:
                    with pytest.raises(anthropic.APIStatusError, match="broke off"):
                        await stream.until_done()
                    assert stream.current_message_snapshot.content[0].text == "one two"  # type: ignore[union-attr]


async def test_a_kept_answer_is_given_whole_and_never_as_a_stream(tmp_path: Path) -> None:
    async with recalling() as talker, serving(tmp_path, settings_of(tmp_path, talker)) as gateway:
        async with sdk(gateway) as client:
            kept = await client.responses.create(model="auto", input="remember")
            with pytest.raises(openai.BadRequestError, match="is given whole") as refused:
                await client.responses.retrieve(kept.id, stream=True)
            assert refused.value.param == "stream"
            assert (await client.responses.retrieve(kept.id, extra_query={"stream": "false"})).id == kept.id
