"""The engine alone over HTTP, met as a client meets vLLM."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn

from backends.anyprec.server import application, names_of
from backends.openai import OpenAIBackend
from backends.types import Request
from backends.whole import read_all
from tests.anyprec.test_embedded import request

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def url(store_folder: Path) -> Iterator[str]:
    config = uvicorn.Config(application(names_of([store_folder]), queue=8), log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_every_width_is_listed_under_its_parent(client: openai.OpenAI) -> None:
    models = {model.id: model.model_dump() for model in client.models.list()}
    assert list(models) == ["small", *(f"small@{bits}bit" for bits in range(3, 9))]
    assert models["small@3bit"]["parent"] == "small"
    assert models["small"]["parent"] is None


def test_openais_client_reads_answers_and_streams(client: openai.OpenAI) -> None:
    asked = {"model": "small@4bit", "messages": MESSAGES, "max_tokens": 8, "temperature": 0.0}
    plain = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3)  # type: ignore[call-overload]
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage == plain.usage
    assert len(plain.choices[0].logprobs.content) == plain.usage.completion_tokens


def test_completions_and_seeds_work_through_openais_client(client: openai.OpenAI) -> None:
    asked = {"model": "small", "prompt": "ab", "max_tokens": 10, "n": 2, "temperature": 2.0, "logprobs": 1}
    texts = [
        [choice.text for choice in client.completions.create(**asked, seed=seed).choices]  # type: ignore[call-overload]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_errors_are_openais(client: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="other", messages=MESSAGES)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="small", messages=MESSAGES, max_tokens=5000)  # type: ignore[arg-type]
    assert caught.value.code == "context_length_exceeded"
    for response in (httpx.post(f"{url}/v1/completions", content=b"{"), httpx.get(f"{url}/nothing")):
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_the_gateways_backend_for_vllm_talks_to_it(url: str) -> None:
    async def scene() -> None:
        backend = OpenAIBackend(url)
        assert await backend.ping()
        reply = await backend.send(request(model="small@3bit", stream=True))
        assert b"[DONE]" in await read_all(reply)
        assert reply.report.usage is not None
        await backend.aclose()

    asyncio.run(scene())


def test_a_client_that_hangs_up_frees_the_engine(url: str) -> None:
    async def running() -> float:
        async with httpx.AsyncClient() as client:
            lines = (await client.get(f"{url}/metrics")).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_"))

    async def scene() -> None:
        backend = OpenAIBackend(url)
        for _ in range(10):  # more, one after another, than the queue would hold at once
            reply = await backend.send(request(model="small@8bit", stream=True, n=8, max_tokens=110, ignore_eos=True))
            await anext(aiter(reply))
            await reply.aclose()
            async with asyncio.timeout(20):
                while await running():
                    pass
        await backend.aclose()

    asyncio.run(scene())


def test_a_full_queue_is_429_with_a_time_to_retry(url: str) -> None:
    body = {"model": "small", "prompt": ["a"] * 9, "max_tokens": 1}
    response = httpx.post(f"{url}/v1/completions", json=body)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


def test_tokenize_counts_as_the_engine_does(url: str, client: openai.OpenAI) -> None:
    reported = httpx.post(f"{url}/tokenize", json={"model": "small", "messages": MESSAGES}).json()
    answer = client.chat.completions.create(model="small", messages=MESSAGES, max_tokens=1)  # type: ignore[arg-type]
    assert reported["count"] == len(reported["tokens"]) == answer.usage.prompt_tokens  # type: ignore[union-attr]
    assert reported["max_model_len"] == 128


def test_the_backend_passes_a_request_id_on(url: str) -> None:
    async def scene() -> None:
        backend = OpenAIBackend(url)
        asked = request(model="small")
        named = Request(asked.path, asked.fields, asked.model, asked.answers_as, headers={"x-request-id": "abc"})
        reply = await backend.send(named)
        assert reply.report.response_id == "chatcmpl-abc"
        await backend.aclose()

    asyncio.run(scene())
