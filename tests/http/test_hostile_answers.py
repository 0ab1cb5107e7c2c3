"""Stored answers under attack: other words for `no-store`, answers that are of the moment, models that were changed,
purges in the middle of a stream, other tenants, and what no client should send.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import chat, engine, serving, settings_for, until
from tests.http.test_stored_answers import BODIES, House, house

pytestmark = pytest.mark.anyio
__all__ = ["house"]
TENANTS = {name: {"cache": True, "keys": [{"secret": f"sk-key-of-{name}"}]} for name in ("one", "two")}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALLED = {"tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def is_given(answer: httpx.Response) -> bool:
    return "x-pointsman-stored" in answer.headers


async def ask(url: str, body: Any, *, key: str = "one", path: str = "chat/completions") -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        answer = await client.post(f"/v1/{path}", json=body, headers={"Authorization": f"Bearer sk-key-of-{key}"})
        assert answer.status_code == 200, answer.text
        return answer


@pytest.mark.parametrize("path", BODIES)
async def test_no_store_is_heard_in_every_protocol_in_any_letters_and_on_any_line(house: House, path: str) -> None:
    for number, said in enumerate(("NO-STORE", "max-age=0, No-Store")):
        body = {"model": "auto", "user": "u", "temperature": 0.1 + number / 10, **BODIES[path]}
        await house.ask(body, path, cache_control=said)
        assert not is_given(await house.ask(body, path))
        assert is_given(await house.ask(body, path))
        assert not is_given(await house.ask(body, path, cache_control=said))
    own = [("authorization", "Bearer sk-key-of-one"), ("cache-control", "no-store"), ("cache-control", "max-age=0")]
    assert not is_given(await house.client.post(f"/v1/{path}", json=body, headers=own))


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_a_stream_that_is_given_again_ends_with_its_usage(house: House, path: str) -> None:
    body = {"model": "auto", "stream": True, "stream_options": {"include_usage": True}, "seed": 1, **BODIES[path]}
    first, again = await house.ask(body, path), await house.ask(body, path)
    assert is_given(again)
    for text in (first.text, again.text):
        assert '"total_tokens":13' in text.replace(" ", "")
        assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "more",
    [
        {"seed": 7},
        {"n": 2},
        {"logprobs": True},
        {"stop": ["x"]},
        {"top_p": 0.5},
        {"logit_bias": {"1": 5}},
        {"tools": [TOOL]},
        {"reasoning_effort": "low"},
        {"messages": [{"role": "system", "content": "Say no."}, {"role": "user", "content": "attacked"}]},
        {"messages": [{"role": "user", "content": "аttacked"}]},  # a letter that looks alike
        {"messages": [{"role": "user", "content": "attacked "}]},
        {"messages": [{"role": "user", "content": "attacked", "name": "b"}]},
    ],
)
async def test_nothing_that_an_answer_may_follow_from_is_left_out(house: House, more: Any) -> None:
    body = chat("attacked")
    await house.ask(body)
    assert not is_given(await house.ask({**body, **more}))


@pytest.mark.parametrize(
    "metadata", [{"user_id": "x" * 100_000}, {"user_id": 5}, [1, [2]], "text", {"user_id": "\u0000\ufeff\U0001f600"}]
)
async def test_huge_and_odd_metadata_change_nothing(house: House, metadata: Any) -> None:
    body = chat(f"what of {str(metadata)[:30]}")
    await house.ask({**body, "metadata": metadata, "prompt_cache_key": "k" * 50_000})
    assert is_given(await house.ask({**body, "prompt_cache_key": ["no", "text"]}))


async def test_a_response_that_is_given_again_is_kept_under_its_own_id_and_for_nobody_else(house: House) -> None:
    body = {"model": "auto", "input": "Say it once more."}
    made, again = [await house.ask(body, "responses") for _ in range(2)]
    assert is_given(again)
    names = [each.json()["id"] for each in (made, again)]
    assert names[0] != names[1]
    own = {"Authorization": "Bearer sk-key-of-one"}
    assert (await house.client.get(f"/v1/responses/{names[1]}", headers=own)).json()["id"] == names[1]
    later = await house.ask({"model": "auto", "input": "And?", "previous_response_id": names[1]}, "responses")
    assert later.json()["previous_response_id"] == names[1]
    foreign = {"Authorization": "Bearer sk-key-of-two"}
    assert (await house.client.get(f"/v1/responses/{names[1]}", headers=foreign)).status_code == 404
    more = {"model": "auto", "input": "And?", "previous_response_id": names[1]}
    assert (await house.client.post("/v1/responses", json=more, headers=foreign)).status_code == 400


async def test_another_tenants_judgement_takes_nothing_away(house: House) -> None:
    body = chat("judged by a stranger")
    made, again = await house.ask(body), await house.ask(body)
    for of in (made, again):
        for name in (of.json()["id"], of.headers["x-pointsman-decision-id"]):
            key = "response_id" if name == of.json()["id"] else "decision_id"
            said = {key: name, "thumbs": "down"}
            own = {"Authorization": "Bearer sk-key-of-two"}
            assert (await house.client.post("/v1/feedback", json=said, headers=own)).status_code == 404
    await asyncio.sleep(0.3)
    assert is_given(await house.ask(body))


LINES: dict[str, tuple[Line, bool]] = {
    "called": (Line(message=CALLED), False),  # as engines end a call that was forced
    "none": (Line(message={"tool_calls": []}), True),
    "null": (Line(message={"tool_calls": None, "function_call": None}), True),
    "said": (Line(text='It says "tool_calls": [{"id": 1}] there.'), True),
    "searched": (Line(usage={"prompt_tokens": 9, "completion_tokens": 4, "num_search_queries": 3}), False),
    "cut": (Line(finish_reason="length"), False),
    "filtered": (Line(finish_reason="content_filter"), False),
}


@pytest.mark.unpublished
async def test_what_calls_tools_or_was_searched_for_or_cut_is_not_stored(tmp_path: Path) -> None:
    def script(_model: str, body: Any) -> Line:
        return LINES[body["messages"][-1]["content"]][0]

    async with ScriptedServer(script, models=[{"id": "any", "object": "model"}]) as only:
        settings = settings_for(tmp_path, {"m": only}, tenants=TENANTS)
        settings["models"][0]["capabilities"] = ["chat", "tools"]
        async with serving(tmp_path, settings) as gateway:
            for what, (_, stored) in LINES.items():
                for stream in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
                    body = chat(what, tools=[TOOL], **stream)
                    await ask(gateway.url, body)
                    assert is_given(await ask(gateway.url, body)) is stored, what


async def test_an_answer_of_a_model_that_was_changed_is_not_given_and_a_new_price_changes_nothing(
    tmp_path: Path,
) -> None:
    """A reload is seen by a model that stands for it."""
    async with engine(text="All is well here.") as only:
        settings = settings_for(tmp_path, {"m": only}, tenants=TENANTS)
        changed: list[tuple[dict[str, Any], bool]] = [
            ({"price": {"prompt": 99, "completion": 99}}, True),
            ({"upstream": "other"}, False),
            ({"extra_body": {"chat_template": "x"}}, False),
            ({"defaults": {"temperature": 0.9}}, False),
            ({}, False),  # the last one took the first one's place
            ({}, True),
        ]
        async with serving(tmp_path, settings) as gateway:
            assert not is_given(await ask(gateway.url, chat("who are you?")))
            for number, (more, given) in enumerate(changed):
                sign = {**settings["models"][0], "name": f"sign-{number}", "price": {"prompt": 999, "completion": 999}}
                models = [{**settings["models"][0], **more}, sign]
                gateway.rewrite({**settings, "server": {"grace_s": 0}, "models": models})
                await until(lambda name=sign["name"]: is_listed(gateway.url, name))
                answer = await ask(gateway.url, chat("who are you?"))
                assert is_given(answer) is given, more
                assert not given or answer.headers["x-pointsman-cost-usd"] == "0"
                await asyncio.sleep(0.2)
        off = {**settings, "tenants": {"one": {"keys": TENANTS["one"]["keys"]}}}
        async with serving(tmp_path, off) as gateway:  # what is stored outlives a restart, and `off` takes none of it
            assert not is_given(await ask(gateway.url, chat("who are you?")))


async def is_listed(url: str, name: str) -> bool:
    async with httpx.AsyncClient(base_url=url) as client:
        found = (await client.get("/v1/models", headers={"Authorization": "Bearer sk-key-of-one"})).json()["data"]
        return name in [each["id"] for each in found]


async def test_a_purge_by_another_gateway_in_the_middle_of_a_stream_reaches_its_answer(tmp_path: Path) -> None:
    def script(_model: str, body: Any) -> Line:
        slow = "slow" in str(body["messages"])
        return Line(text="one two three four five six", piece_delay_s=0.3 if slow else 0.0)

    async with ScriptedServer(script, models=[{"id": "any", "object": "model"}]) as only:
        settings = settings_for(tmp_path, {"m": only}, tenants=TENANTS)
        folders = [tmp_path / "here", tmp_path / "there"]
        for folder in folders:
            folder.mkdir()
        async with serving(folders[0], settings) as here, serving(folders[1], settings) as there:
            body = chat("slow, please", stream=True)
            under_way = asyncio.ensure_future(ask(here.url, body))
            await until(only.hearing.is_set)
            async with httpx.AsyncClient(base_url=there.url) as client:
                own = {"Authorization": "Bearer sk-key-of-one"}
                assert (await client.delete("/v1/cache", headers=own)).status_code == 200
            assert not under_way.done()
            await under_way
            await asyncio.sleep(1.0)
            assert not is_given(await ask(there.url, body))

            async def is_given_there() -> bool:
                return is_given(await ask(there.url, body))

            await until(is_given_there)  # what was asked for since is stored
            assert not is_given(await ask(here.url, body, key="two"))
