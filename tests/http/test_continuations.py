"""Open calls of tools and signed thoughts stay with the model that made them, in every protocol."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from router.gateway.continuations import mark_of, tied
from router.gateway.types import Candidates
from router.http.schemas import parse
from router.learning.turn_holders import TurnHolders
from router.types import Model, NanoUsd, Price
from tests.http.conftest import serving, settings_for

pytestmark = pytest.mark.anyio
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


def calling(name: str) -> ScriptedServer:
    """An engine that calls a tool, and says who it is once it has the result."""
    numbers = itertools.count()

    def script(_model: str, body: Any) -> Line:
        if "messages" not in body:
            return Line(text=name, fields={"id": f"resp_{name}_{next(numbers)}"})
        if body["messages"][-1]["role"] == "tool":
            return Line(text=name)
        call = {"id": f"call_{name}_{next(numbers)}", "type": "function", "index": 0}
        call["function"] = {"name": "look", "arguments": "{}"}
        return Line(text="", message={"content": None, "tool_calls": [call]}, finish_reason="tool_calls")

    return ScriptedServer(script)


def message_of(answer: Any, *, stream: bool) -> dict[str, Any]:
    """What the model said, with its calls."""
    if not stream:
        return dict(answer.json()["choices"][0]["message"])
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for line in lines for choice in json.loads(line)["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
    return {"role": "assistant", "content": None, "tool_calls": calls}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_result_goes_to_whoever_called_and_the_next_question_to_anybody(tmp_path: Path, stream: bool) -> None:
    async with calling("one") as one, calling("two") as two:
        settings = settings_for(tmp_path, {"one": one, "two": two}, policy={"name": "random"})
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            said: list[tuple[str, str]] = []
            free = set()
            for number in range(12):
                messages: list[Any] = [{"role": "user", "content": f"go {number}"}]
                body = {"model": "auto", "messages": messages, "tools": TOOLS}
                first = await client.post("/v1/chat/completions", json={**body, "stream": stream})
                message = message_of(first, stream=stream)
                messages += [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "x"}]
                shown = (await client.post("/v1/route", json=body)).json()
                reasons = [each["reason"] for each in shown["candidates"] if not each["eligible"]]
                maker = first.headers["x-pointsman-model"]
                assert reasons == [
                    f"the conversation goes on from a call, a signed thought or a kept answer of {maker}"
                ]
                then = await client.post("/v1/chat/completions", json=body)
                said.append((maker, then.json()["choices"][0]["message"]["content"]))
                messages += [{"role": "assistant", "content": "done"}, {"role": "user", "content": "more"}]
                free.add((await client.post("/v1/chat/completions", json=body)).headers["x-pointsman-model"] == maker)
    assert all(maker == name for maker, name in said)
    assert {maker for maker, _ in said} == {"one", "two"}
    assert free == {True, False}


def candidates() -> Candidates:
    price = Price(NanoUsd(1), NanoUsd(1))
    models = [Model(name, name, name, price, 8192, 512, local=True) for name in ("one", "two", "three")]
    return Candidates.of(tuple(models), {})


RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "c2lnbmVk"}
USER = {"role": "user", "content": "go"}
CALLED = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("path", "talk", "mark", "is_tied"),
    [
        (
            "messages",
            [USER, {"role": "assistant", "content": []}, {"role": "user", "content": [RESULT]}],
            "toolu_1",
            True,
        ),
        ("messages", [USER, {"role": "assistant", "content": [THOUGHT]}, USER], "c2lnbmVk", True),
        ("messages", [USER, {"role": "assistant", "content": [THOUGHT]}, USER], "another", False),
        (
            "messages",
            [USER, {"role": "assistant", "content": [THOUGHT]}, USER, {"role": "assistant", "content": "ok"}, USER],
            "c2lnbmVk",
            False,
        ),
        (
            "responses",
            [USER, CALLED, {"type": "function_call_output", "call_id": "call_1", "output": "7"}],
            "call_1",
            True,
        ),
        (
            "responses",
            [USER, {"type": "reasoning", "encrypted_content": "c2VjcmV0", "summary": []}, USER],
            "c2VjcmV0",
            True,
        ),
        ("responses", "go", "call_1", False),
    ],
)
def test_what_is_open_or_signed_is_found_in_every_protocol(path: str, talk: Any, mark: str, is_tied: bool) -> None:
    field = "input" if path == "responses" else "messages"
    body = json.dumps({"model": "auto", "max_tokens": 9, field: talk}).encode()
    holders, call = TurnHolders(), parse(f"/v1/{path}", body, {})
    holders.take([mark_of("acme", mark.encode())], "two")
    assert (tied(candidates(), holders, "acme", call).names == ("two",)) is is_tied
    assert tied(candidates(), holders, "other", call).names == ("one", "two", "three")
    again = TurnHolders()
    again.restore(holders.state())
    assert (tied(candidates(), again, "acme", call).names == ("two",)) is is_tied


def test_a_turn_whose_model_is_gone_is_taken_by_the_others() -> None:
    holders = TurnHolders()
    holders.take([mark_of("acme", b"toolu_1")], "gone")
    talk = [USER, {"role": "assistant", "content": []}, {"role": "user", "content": [RESULT]}]
    call = parse("/v1/messages", json.dumps({"model": "auto", "max_tokens": 9, "messages": talk}).encode(), {})
    assert tied(candidates(), holders, "acme", call).names == ("one", "two", "three")


@pytest.mark.unpublished
async def test_a_response_that_an_engine_keeps_is_gone_on_from_there(tmp_path: Path) -> None:
    async with calling("one") as one, calling("two") as two:
        settings = settings_for(
            tmp_path, {"one": one, "two": two}, policy={"name": "random"}, responses={"keep": False}
        )
        for model in settings["models"]:
            model["capabilities"] = ["chat", "responses"]
        async with serving(tmp_path, settings) as gateway, gateway.client() as client:
            found = set()
            for number in range(8):
                body = {"model": "auto", "input": f"go {number}"}
                first = await client.post("/v1/responses", json=body)
                body["previous_response_id"] = first.json()["id"]
                then = await client.post("/v1/responses", json=body)
                assert then.headers["x-pointsman-model"] == first.headers["x-pointsman-model"]
                found.add(first.headers["x-pointsman-model"])
    assert found == {"one", "two"}
