"""The embedded backend: a Backend like any other, on an engine in a thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.embedded import EmbeddedBackend
from backends.errors import Failed, Overloaded, Refused
from backends.types import Request
from backends.whole import read_all

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def request(path: str = CHAT, *, model: str = "small@3bit", stream: bool = False, **fields: object) -> Request:
    wants_usage = bool(fields.pop("wants_usage", True))
    body = (
        ({"messages": MESSAGES} if path == CHAT else {"prompt": "hi"})
        | {"max_tokens": 6, "temperature": 0, "stream": stream}
        | fields
    )
    raw = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in body.items()}
    return Request(path, raw, model, f"as-{model}", stream=stream, wants_usage=wants_usage)


async def body(backend: EmbeddedBackend, asked: Request) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(await read_all(await backend.send(asked)))
    return content


def events(stream: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in stream.decode().split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


Using = Callable[[Callable[[EmbeddedBackend], Awaitable[None]]], None]


@pytest.fixture
def using(store_folder: Path) -> Using:
    """Runs a scene with a backend that is closed afterwards."""

    def run(scene: Callable[[EmbeddedBackend], Awaitable[None]], **options: Any) -> None:
        async def whole() -> None:
            backend = EmbeddedBackend({"small": store_folder}, **options)
            try:
                await scene(backend)
            finally:
                await backend.aclose()

        asyncio.run(whole())

    return run


def test_a_plain_answer_has_the_shape_vllm_gives_it(using: Using) -> None:
    async def scene(backend: EmbeddedBackend) -> None:
        reply = await backend.send(request(logprobs=True, top_logprobs=2))
        answer = json.loads(await read_all(reply))
        assert answer["object"] == "chat.completion"
        assert answer["model"] == "as-small@3bit"
        assert answer["usage"] == {
            "prompt_tokens": 5, "total_tokens": 11, "completion_tokens": 6,
        }  # fmt: skip
        [choice] = answer["choices"]
        assert (choice["index"], choice["message"]["role"], choice["finish_reason"]) == (0, "assistant", "length")
        assert [len(entry["top_logprobs"]) for entry in choice["logprobs"]["content"]] == [2] * 6
        assert (reply.report.usage.prompt_tokens, reply.report.usage.completion_tokens) == (5, 6)  # type: ignore[union-attr]
        assert (reply.report.response_id, reply.report.finish_reason, reply.report.failure) == (
            answer["id"],
            "length",
            None,
        )

    using(scene)


def test_a_stream_tells_the_same_text_as_the_plain_answer(using: Using) -> None:
    async def scene(backend: EmbeddedBackend) -> None:
        for path in (CHAT, TEXT):
            plain = await body(backend, request(path, n=2, temperature=2, seed=4))
            reply = await backend.send(request(path, n=2, temperature=2, seed=4, stream=True))
            chunks = events(await read_all(reply))
            texts = {0: "", 1: ""}
            for chunk in chunks:
                for choice in chunk["choices"]:
                    texts[choice["index"]] += choice["delta"].get("content", "") if path == CHAT else choice["text"]
            for choice in plain["choices"]:
                whole = choice["message"]["content"] if path == CHAT else choice["text"]
                assert texts[choice["index"]] == whole
            assert {chunk["model"] for chunk in chunks} == {"as-small@3bit"}
            assert chunks[-1]["usage"] == plain["usage"]
            assert reply.report.failure is None

    using(scene)


def test_usage_is_counted_but_not_told_to_a_client_that_did_not_ask(using: Using) -> None:
    async def scene(backend: EmbeddedBackend) -> None:
        reply = await backend.send(request(stream=True, wants_usage=False))
        assert all(chunk["choices"] for chunk in events(await read_all(reply)))
        assert reply.report.usage is not None
        assert reply.report.usage.completion_tokens == 6

    using(scene)


def test_a_width_is_chosen_by_name_or_by_vllm_xargs(using: Using) -> None:
    async def scene(backend: EmbeddedBackend) -> None:
        async def logprob(**fields: Any) -> float:
            answer = await body(backend, request(logprobs=True, **fields))
            value: float = answer["choices"][0]["logprobs"]["content"][0]["logprob"]
            return value

        three, eight = await logprob(model="small@3bit"), await logprob(model="small@8bit")
        assert three != eight
        assert await logprob(model="small", vllm_xargs={"anyprec_bits": 3}) == three
        assert await logprob(model="small") == eight

    using(scene)


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": "other"}, 404, "model", "model_not_found"),
        ({"model": "small@2bit"}, 400, "vllm_xargs", "invalid_value"),
        ({"model": "small", "vllm_xargs": {"anyprec_bits": "3"}}, 400, "vllm_xargs", "invalid_type"),
        ({"model": "small@3bit", "vllm_xargs": {"anyprec_bits": 4}}, 400, "vllm_xargs", "invalid_value"),
        ({"max_tokens": "many"}, 400, "max_tokens", "invalid_type"),
        ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
        ({"max_tokens": 10_000}, 400, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "x" * 200}]}, 400, "messages", "context_length_exceeded"),
        ({"messages": []}, 400, "messages", "invalid_value"),
        ({"messages": "hi"}, 400, "messages", "invalid_type"),
        ({"messages": [{"content": "hi"}]}, 400, "messages", "invalid_value"),
        ({"temperature": -1}, 400, "temperature", "invalid_value"),
        ({"top_p": 0}, 400, "top_p", "invalid_value"),
        ({"n": 0}, 400, "n", "invalid_value"),
        ({"n": 1000}, 400, "n", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "logprobs", "invalid_value"),
        ({"top_logprobs": 2}, 400, "top_logprobs", None),
        ({"stop": ["a", ""]}, 400, "stop", "invalid_value"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "unsupported_parameter"),
    ],
)
def test_a_bad_request_is_refused_in_openais_shape(
    using: Using, fields: dict[str, Any], status: int, param: str, code: str | None
) -> None:
    async def scene(backend: EmbeddedBackend) -> None:
        with pytest.raises(Refused) as caught:
            await backend.send(request(**fields))
        error = json.loads(caught.value.body)["error"]
        assert (caught.value.status, error["param"], error["code"]) == (status, param, code)
        assert error["message"]
        await body(backend, request())  # the engine is none the worse

    using(scene)


def test_prompts_may_be_texts_or_token_ids_but_not_both(using: Using) -> None:
    async def scene(backend: EmbeddedBackend) -> None:
        counts = [len((await body(backend, request(TEXT, prompt=p)))["choices"]) for p in ("a", ["a", "b"], [97, 98])]
        assert counts == [1, 2, 1]
        first = await body(backend, request(TEXT, prompt=[[97], [98]], n=2))
        assert [choice["index"] for choice in first["choices"]] == [0, 1, 2, 3]
        for bad in (["a", 97], [], [9999], [[]]):
            with pytest.raises(Refused):
                await backend.send(request(TEXT, prompt=bad))

    using(scene)


def test_a_crowd_at_all_widths_gets_what_each_would_alone(using: Using) -> None:
    async def scene(backend: EmbeddedBackend) -> None:
        asked = [
            request(model=f"small@{3 + i % 6}bit", messages=[{"role": "user", "content": "x" * i}]) for i in range(48)
        ]
        alone = [(await body(backend, each))["choices"][0]["message"] for each in asked[:12]]
        crowd = await asyncio.gather(*(body(backend, each) for each in asked))
        assert [each["choices"][0]["message"] for each in crowd[:12]] == alone
        assert all(each["usage"]["completion_tokens"] == 6 for each in crowd)

    using(scene)


def test_more_than_the_queue_holds_is_turned_away_and_the_rest_is_served(store_folder: Path) -> None:
    async def scene() -> None:
        backend = EmbeddedBackend({"small": store_folder}, queue=4)
        replies = await asyncio.gather(
            *(backend.send(request(stream=True, max_tokens=60, ignore_eos=True)) for _ in range(12)),
            return_exceptions=True,
        )
        served = [reply for reply in replies if not isinstance(reply, BaseException)]
        assert len(served) == 4
        assert all(isinstance(reply, Overloaded) for reply in replies if reply not in served)
        for reply in served:
            assert events(await read_all(reply))
        await backend.aclose()

    asyncio.run(scene())


def test_closing_a_reply_frees_its_place(store_folder: Path) -> None:
    async def scene() -> None:
        backend = EmbeddedBackend({"small": store_folder}, queue=1)
        for _ in range(5):
            reply = await backend.send(request(stream=True, max_tokens=100, ignore_eos=True))
            await anext(aiter(reply))
            await reply.aclose()
            while backend.busy:  # the worker's own thread ends it, within one step
                await asyncio.sleep(0)
        await backend.aclose()

    asyncio.run(scene())


def test_a_cancelled_plain_answer_stops_the_engine(store_folder: Path) -> None:
    async def scene() -> None:
        backend = EmbeddedBackend({"small": store_folder}, queue=1)
        task = asyncio.create_task(backend.send(request(max_tokens=100, ignore_eos=True)))
        while not backend.busy:  # until the worker has it
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while backend.busy:
            await asyncio.sleep(0)
        assert await read_all(await backend.send(request()))
        await backend.aclose()

    asyncio.run(scene())


def test_answers_under_way_fail_when_the_backend_closes(store_folder: Path) -> None:
    async def scene() -> None:
        backend = EmbeddedBackend({"small": store_folder})
        reply = await backend.send(request(stream=True, max_tokens=100, ignore_eos=True))
        task = asyncio.create_task(backend.send(request(max_tokens=100, ignore_eos=True)))
        await asyncio.sleep(0)
        await backend.aclose()
        await read_all(reply)
        assert reply.report.failure is not None
        with pytest.raises((Failed, Overloaded)):
            await task
        assert not await backend.ping()
        with pytest.raises(Overloaded):
            await backend.send(request())

    asyncio.run(scene())


def test_an_answer_that_calls_a_tool_is_told_as_a_tool_call() -> None:
    from backends.anyprec.engine.detokenizer import Piece
    from backends.anyprec.engine.responses import ChatShape

    tools = [{"type": "function", "function": {"name": "send_mail", "parameters": {}}}]
    call = '{"name": "send_mail", "arguments": {"to": "Ann"}}'
    shape = ChatShape(None, logprobs=False, tools=tools)  # type: ignore[arg-type]  # no token is shown
    choice = shape.choice(0, [Piece(call[:10], ()), Piece(call[10:], (), "stop")])
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    function = choice["message"]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("send_mail", {"to": "Ann"})
    assert shape.chunk(0, Piece(call[:10], ())) == []
    [delta] = shape.chunk(0, Piece(call[10:], (), "stop"))
    assert delta["delta"]["tool_calls"][0]["function"] == function
    [plain] = shape.chunk(1, Piece("Hello", (), "stop"))
    assert (plain["delta"], plain["finish_reason"]) == ({"content": "Hello"}, "stop")


def test_other_paths_are_refused(using: Using) -> None:
    async def scene(backend: EmbeddedBackend) -> None:
        with pytest.raises(Refused) as caught:
            await backend.send(Request("/v1/embeddings", {}, "small", "small"))
        assert caught.value.status == 404

    using(scene)


def test_every_store_and_width_is_listed(using: Using) -> None:
    async def scene(backend: EmbeddedBackend) -> None:
        models = backend.models()
        assert [model.name for model in models] == ["small", *(f"small@{bits}bit" for bits in range(3, 9))]
        assert {(model.parent, model.context_tokens) for model in models[1:]} == {("small", 128)}
        assert await backend.ping()

    using(scene)
