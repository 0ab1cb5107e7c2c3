"""What is learnt of an engine by reading its pages, and the delay estimated from it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import msgspec
import pytest

from backends import discovery
from backends.declared import NOTHING, PAGES, Declared, of_page, of_show
from backends.discovery import (
    Found,
    Load,
    Machine,
    Speed,
    Watch,
    counters_of,
    delay_s,
    models_of,
    roofline,
    samples_of,
    speed_between,
)
from backends.errors import TimedOut
from backends.openai import OpenAIBackend
from backends.pool import Replicas, replica_of
from backends.scripted import Line, Scripted, always
from backends.types import Reply, Request
from benchmarks.scripted_server import ScriptedServer
from tests.backends.conftest import asked, streamed

pytestmark = pytest.mark.anyio

CARDS: list[dict[str, object]] = [
    {"id": "base", "object": "model", "root": "org/base", "parent": None, "max_model_len": 512},
    {"id": "base-lora", "object": "model", "root": "/adapters/x", "parent": "base", "max_model_len": None},
    {"id": "base@3bit", "object": "model", "max_model_len": 512},
]

PAGE = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} 3.0
vllm:num_requests_running{engine="1",model_name="base"} 2.0
vllm:num_requests_waiting{engine="0",model_name="base"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="base"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="base"} 0.75
vllm:prompt_tokens_total{engine="0",model_name="base"} 1000.0
vllm:request_prefill_time_seconds_sum{engine="0",model_name="base"} 2.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="base"} 1.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="base"} 50.0
vllm:request_inference_time_seconds_sum{engine="0",model_name="base"} 6.0
vllm:request_inference_time_seconds_count{engine="0",model_name="base"} 4.0
python_gc_objects_collected_total{generation="0"} 9.0
"""


@asynccontextmanager
async def watched(*servers: ScriptedServer) -> AsyncIterator[Replicas]:
    """Replicas on real sockets, asked once."""
    backends = [OpenAIBackend(server.url, name=server.url) for server in servers]
    replicas = Replicas([replica_of(backend, name=backend.name) for backend in backends], name="fleet")
    await replicas.refresh()
    yield replicas
    await replicas.aclose()


async def test_models_adapters_and_widths_are_read_from_the_engine() -> None:
    async with ScriptedServer(always(Line()), models=CARDS) as server, watched(server) as replicas:
        assert replicas.models == (
            Found("base", context_tokens=512),
            Found("base-lora", parent="base"),
            Found("base@3bit", parent="base", bits=3, context_tokens=512),
        )


def test_a_model_that_lists_its_widths_is_found_at_each() -> None:
    page = b'{"data": [{"id": "m", "anyprec_bits": [3, 8], "max_model_len": 64}]}'
    assert [(found.name, found.parent, found.bits) for found in models_of(page)] == [
        ("m", None, None),
        ("m@3bit", "m", 3),
        ("m@8bit", "m", 8),
    ]


def test_a_profile_among_the_widths_is_found_and_what_is_no_width_is_not() -> None:
    page = b'{"data": [{"id": "m", "anyprec_bits": [3, 3.25, 1e300, 0, 3.125]}, {"id": "n@4.5bit"}]}'
    assert [(found.name, found.parent, found.bits) for found in models_of(page)] == [
        ("m", None, None),
        ("m@3bit", "m", 3),
        ("m@3.25bit", "m", 3.25),
        ("n@4.5bit", "n", 4.5),
    ]


@pytest.mark.parametrize("page", [b"<html>", b"{}", b"[]", b'{"data": [{"name": 1}]}', b"\xff"])
def test_a_page_that_lists_no_models_finds_none(page: bytes) -> None:
    assert models_of(page) == ()


class Changing:
    """A backend whose /v1/models is what was set last."""

    name = "changing"

    def __init__(self, page: bytes) -> None:
        self.page = page

    async def get(self, path: str, body: bytes = b"") -> tuple[int, bytes]:
        return (200, self.page) if path == "/v1/models" else (404, body)

    async def send(self, request: Request) -> Reply:
        raise TimedOut(request.path, backend=self.name)

    async def ping(self) -> bool:
        return True

    async def aclose(self) -> None:
        """Nothing to release."""


@pytest.mark.parametrize(
    "page", [b"<html>back soon</html>", b'{"data":' + b"[" * 50_000, b"", b"{}"], ids=["html", "deep", "empty", "other"]
)
async def test_a_page_that_is_no_list_takes_no_model_away_and_an_empty_list_does(page: bytes) -> None:
    backend = Changing(b'{"data": [{"id": "m"}]}')
    watch = Watch(backend)
    await watch.refresh()
    backend.page = page
    await watch.refresh()
    assert ([found.name for found in watch.models], watch.answers) == (["m"], True)
    backend.page = b'{"data": []}'
    await watch.refresh()
    assert watch.models == ()


async def test_queue_and_cache_are_summed_over_the_engines_cores() -> None:
    async with ScriptedServer(always(Line()), models=CARDS, metrics=PAGE) as server, watched(server) as replicas:
        assert replicas.replicas[0].watch.load == Load(running=5, waiting=4, kv_usage=0.75)


LATER = {
    "prompt_tokens_total": "1600.0",
    "request_prefill_time_seconds_sum": "4.0",
    "inter_token_latency_seconds_sum": "3.0",
    "inter_token_latency_seconds_count": "250.0",
    "request_inference_time_seconds_sum": "14.0",
    "request_inference_time_seconds_count": "8.0",
}


async def test_speeds_are_means_of_what_was_served_between_two_readings() -> None:
    async with ScriptedServer(always(Line()), models=CARDS, metrics=PAGE) as server, watched(server) as replicas:
        server.metrics = "".join(f"vllm:{name} {value}\n" for name, value in LATER.items())
        await replicas.refresh()
        assert replicas.replicas[0].watch.speed == Speed(prefill_tokens_s=300.0, decode_tokens_s=100.0, request_s=2.0)


def test_nothing_is_said_of_speed_where_nothing_was_served() -> None:
    counters = counters_of(samples_of(PAGE))
    assert speed_between(counters, counters) is None


async def test_an_engine_that_does_not_answer_keeps_its_models_and_loses_its_load() -> None:
    async with ScriptedServer(always(Line()), models=CARDS, metrics=PAGE) as server, watched(server) as replicas:
        assert replicas.is_up
        await server.stop()
        await replicas.refresh()
        assert not replicas.is_up
        assert replicas.replicas[0].watch.load == Load()
        assert len(replicas.models) == 3
        await server.start()
        await replicas.refresh()
        assert replicas.is_up


class Silent(Scripted):
    """A server that takes connections and says nothing while `silent`."""

    silent = False

    async def get(self, path: str, body: bytes = b"") -> tuple[int, bytes]:
        if self.silent:
            raise TimedOut("sent nothing for 1 s", backend="silent")
        return 200, b'{"data": []}'

    async def ping(self) -> bool:
        return not self.silent


async def test_an_engine_that_is_silent_once_is_busy_and_one_that_is_silent_twice_is_gone() -> None:
    backend = Silent(always(Line()))
    replicas = Replicas([replica_of(backend, name="silent")], name="fleet")
    seen = []
    for silent in (False, True, False, True, True, False):
        backend.silent = silent
        await replicas.refresh()
        seen.append(replicas.is_up)
    assert seen == [True, True, True, True, False, True]


async def test_an_engine_whose_answers_come_is_busy_however_silent_its_pages_are() -> None:
    backend = Silent(always(Line()))
    replicas = Replicas([replica_of(backend, name="silent")], name="fleet")
    await replicas.refresh()
    backend.silent, seen = True, []
    for answers in (True, True, True, False, False):
        if answers:
            reply = streamed(await replicas.send(asked(stream=True)))
            assert [event async for event in reply]
            await reply.aclose()
        await replicas.refresh()
        seen.append(replicas.is_up)
    assert seen == [True, True, True, True, False]


@asynccontextmanager
async def mute(*paths: str) -> AsyncIterator[str]:
    """The URL of a server that takes every connection, lists one model, and never answers on these paths."""

    taken: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        if path not in paths:
            body = b'{"data": [{"id": "here"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in taken:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in taken), return_exceptions=True)


@pytest.mark.parametrize("paths", [("/props",), ("/openapi.json", "/metrics"), PAGES])
async def test_a_page_that_never_comes_hides_no_model(monkeypatch: pytest.MonkeyPatch, paths: tuple[str, ...]) -> None:
    monkeypatch.setattr(discovery, "PATIENCE_S", 0.3)
    async with mute(*paths) as url:
        replicas = Replicas([replica_of(OpenAIBackend(url, name="mute"), name="mute")], name="fleet")
        await asyncio.wait_for(replicas.refresh(), 20)
        assert (replicas.is_up, [found.name for found in replicas.models]) == (True, ["here"])
        await replicas.aclose()


async def test_a_server_that_takes_connections_and_says_nothing_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own time to answer a request, minutes, is not what a look at it may take."""
    monkeypatch.setattr(discovery, "PATIENCE_S", 0.3)
    async with mute("/v1/models", "/health", "/metrics", *PAGES) as url:
        replicas = Replicas([replica_of(OpenAIBackend(url, name="mute"), name="mute")], name="fleet")
        await asyncio.wait_for(replicas.refresh(), 20)
        assert not replicas.is_up
        await replicas.aclose()


async def test_an_engine_that_was_never_heard_is_not_up() -> None:
    backend = Silent(always(Line()))
    backend.silent = True
    replicas = Replicas([replica_of(backend, name="silent")], name="fleet")
    await replicas.refresh()
    assert not replicas.is_up


async def test_a_backend_without_pages_is_asked_by_its_ping() -> None:
    backend = Scripted(always(Line()))
    replicas = Replicas([replica_of(backend, name="scripted")], name="fleet")
    await replicas.refresh()
    assert replicas.is_up
    backend.up = False
    await replicas.refresh()
    assert not replicas.is_up


async def test_the_delay_is_that_of_the_quickest_engine() -> None:
    busy = PAGE.replace('waiting{engine="0",model_name="base"} 4.0', "waiting 400.0")
    prior = Speed(prefill_tokens_s=1000.0, decode_tokens_s=10.0, request_s=5.0)
    async with (
        ScriptedServer(always(Line()), models=CARDS, metrics=busy) as one,
        ScriptedServer(always(Line()), models=CARDS, metrics="") as other,
        watched(one, other) as replicas,
    ):
        assert 2.1 <= replicas.delay_s(prompt_tokens=100, completion_tokens=20, prior=prior) < 2.1 + 5.0


def test_the_delay_adds_way_queue_prefill_and_decode() -> None:
    speed = Speed(prefill_tokens_s=1000.0, decode_tokens_s=50.0, request_s=4.0)
    load = Load(running=8, waiting=4, kv_usage=0.5)
    total = delay_s(load, speed, rtt_s=0.1, prompt_tokens=500, completion_tokens=100)
    assert total == pytest.approx(0.05 + 0.018 + 2.0 + 0.5 + 2.0)


def test_a_cache_nearly_full_costs_ten_seconds() -> None:
    speed = Speed(prefill_tokens_s=1000.0, decode_tokens_s=50.0, request_s=4.0)
    full, roomy = (
        delay_s(Load(kv_usage=usage), speed, rtt_s=0.1, prompt_tokens=1, completion_tokens=1) for usage in (0.96, 0.9)
    )
    assert full - roomy == pytest.approx(10.0)


def test_the_roofline_is_bound_by_memory_alone_and_by_arithmetic_in_a_crowd() -> None:
    machine = Machine(flops=400e12, bandwidth=3.0e12)
    alone = roofline(machine, parameters=8e9)
    assert alone.prefill_tokens_s == pytest.approx(25_000)
    assert alone.decode_tokens_s == pytest.approx(3.0e12 / 16e9)
    assert roofline(machine, parameters=8e9, bits=4.0).decode_tokens_s == pytest.approx(4 * alone.decode_tokens_s)
    assert roofline(machine, parameters=8e9, running=500).decode_tokens_s == pytest.approx(25_000 / 500)


Said = tuple[frozenset[str] | set[str], frozenset[str] | set[str], frozenset[str] | set[str] | None, int | None]
# What servers of the field say, as they say it; and what that is taken for: (able, lacks, only, context).
CARDS_OF: dict[str, tuple[dict[str, Any], Said]] = {
    "vLLM": ({"max_model_len": 4096, "owned_by": "vllm"}, (set(), set(), None, 4096)),
    "OpenRouter": (
        {
            "context_length": 131072,
            "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
            "supported_parameters": ["tools", "tool_choice", "max_tokens", "response_format", "seed"],
        },
        (
            {"images", "tools", "tool_choice", "json_schema", "json_object", "seed"},
            {"audio", "files", "logprobs", "logit_bias", "reasoning"},
            None,
            131072,
        ),
    ),
    "Mistral": (
        {
            "capabilities": {"completion_chat": True, "function_calling": False, "vision": True},
            "max_context_length": 32768,
        },
        ({"images"}, {"tools"}, None, 32768),
    ),
    "LM Studio": ({"type": "vlm", "capabilities": ["tool_use"]}, ({"images", "tools"}, set(), None, None)),
    "an embedder": ({"type": "embedding", "max_context_length": 512}, (set(), set(), {"embeddings"}, 512)),
    "llama.cpp": ({"meta": {"n_ctx": 8192, "n_ctx_train": 131072}}, (set(), set(), None, 8192)),
}
PAGES_OF: dict[str, tuple[str, dict[str, Any], Said]] = {
    "llama.cpp": (
        "/props",
        {
            "default_generation_settings": {"n_ctx": 4096},
            "modalities": {"vision": False, "audio": False},
            "chat_template_caps": {"supports_tools": True, "supports_tool_calls": True},
        },
        ({"tools"}, {"images", "audio"}, None, 4096),
    ),
    "SGLang": ("/get_server_info", {"tool_call_parser": None, "reasoning_parser": "x"}, (set(), {"tools"}, None, None)),
    "SGLang with a context": ("/get_server_info", {"context_length": 8192}, (set(), set(), None, 8192)),
    "TGI": (
        "/info",
        {"model_id": "org/m", "max_input_tokens": 4095, "max_total_tokens": 4096},
        (set(), set(), None, 4096),
    ),
    "TEI": (
        "/info",
        {"model_id": "org/e", "model_type": {"embedding": {"pooling": "cls"}}, "max_input_length": 512},
        (set(), set(), {"embeddings"}, 512),
    ),
    "somebody's /info": ("/info", {"version": "1", "max_total_tokens": 4096}, (set(), set(), None, None)),
    "SGLang with a parser": ("/get_server_info", {"tool_call_parser": "qwen25"}, (set(), set(), None, None)),
    "SGLang that embeds": ("/get_model_info", {"is_generation": False}, (set(), set(), {"embeddings"}, None)),
    "vLLM that embeds": (
        "/openapi.json",
        {"paths": {"/v1/embeddings": {}, "/pooling": {}, "/v1/models": {}}},
        (set(), set(), {"embeddings"}, None),
    ),
    "vLLM": (
        "/openapi.json",
        {"paths": {"/v1/embeddings": {}, "/v1/chat/completions": {}}},
        (set(), set(), None, None),
    ),
}


@pytest.mark.parametrize("server", CARDS_OF)
def test_what_an_entry_of_the_list_says_is_taken_for_what_it_is(server: str) -> None:
    card, (able, lacks, only, context) = CARDS_OF[server]
    (found,) = models_of(msgspec.json.encode({"data": [{"id": "m", **card}]}))
    declared = found.declared
    assert _said(declared, found.context_tokens) == (able, lacks, only, context)
    assert declared.sources == (("/v1/models",) if able or lacks or only else ())


@pytest.mark.parametrize("server", PAGES_OF)
def test_what_a_page_says_is_taken_for_what_it_is(server: str) -> None:
    path, page, (able, lacks, only, context) = PAGES_OF[server]
    declared = of_page(path, msgspec.json.encode(page))
    assert _said(declared, declared.context_tokens) == (able, lacks, only, context)


def _said(declared: Declared, context: int | None) -> Said:
    return declared.able, declared.lacks, declared.only, context


ODD: list[Any] = [None, True, 0, -1, 1e300, 2**70, "x", "x" * 10_000, [], {}, [[[]]], [None, 1, {}], {"a": {"b": [1]}}]


@pytest.mark.parametrize("seed", range(5))
def test_odd_and_lying_pages_are_read_without_harm(seed: int) -> None:
    """Keys that mean something, with values that mean nothing."""
    chance = random.Random(seed)
    keys = ["max_model_len", "context_length", "meta", "capabilities", "supported_parameters", "architecture", "type"]
    keys += [
        "parent",
        "anyprec_bits",
        "top_provider",
        "modalities",
        "tool_call_parser",
        "paths",
        "is_generation",
        "n_ctx",
    ]
    keys += ["default_generation_settings", "chat_template_caps", "input_modalities", "id"]

    def thing(depth: int) -> Any:
        if depth and chance.random() < 0.4:
            return {chance.choice(keys): thing(depth - 1) for _ in range(4)}
        return chance.choice(ODD)

    for _ in range(300):
        card = {key: thing(3) for key in chance.sample(keys, 6)}
        for found in models_of(json.dumps({"data": [{"id": "m"}, card, chance.choice(ODD)]}).encode()):
            assert found.context_tokens is None or 0 < found.context_tokens <= 2**40
            assert 0 < len(found.name) <= 600
        for path in PAGES:
            declared = of_page(path, json.dumps(card).encode())
            assert declared.context_tokens is None or 0 < declared.context_tokens <= 2**40
    assert of_page("/props", b"[" * 100_000) == of_page("/props", b"\xff") == NOTHING


async def test_one_odd_entry_does_not_hide_the_others() -> None:
    page = b'{"data": [{"id": 7}, {"id": "good", "max_model_len": "much"}, 5, {"id": "", "parent": 3}, {"id": "b"}]}'
    assert [each.name for each in models_of(page)] == ["good", "b"]


OLLAMA: dict[str, tuple[dict[str, Any], Said]] = {
    "with tools": (
        {"capabilities": ["completion", "tools"], "parameters": 'stop "x"\nnum_ctx                        8192'},
        ({"tools"}, {"images", "reasoning"}, None, 8192),
    ),
    "that sees and thinks": (
        {"capabilities": ["completion", "vision", "thinking"], "model_info": {"gemma3.context_length": 131072}},
        ({"images", "reasoning"}, {"tools"}, None, None),
    ),
    "that embeds": (
        {"capabilities": ["embedding"]},
        (set(), {"tools", "images", "reasoning"}, {"embeddings"}, None),
    ),
    "old": ({"details": {}}, (set(), set(), None, None)),
    "lying": ({"capabilities": [None, 3], "parameters": ["num_ctx"]}, (set(), set(), None, None)),
}


@pytest.mark.parametrize("model", OLLAMA)
def test_what_ollama_shows_of_a_model_is_taken_for_what_it_is(model: str) -> None:
    page, (able, lacks, only, context) = OLLAMA[model]
    declared = of_show(msgspec.json.encode(page))
    assert _said(declared, declared.context_tokens) == (able, lacks, only, context)


class Ollama(Scripted):
    """Lists two models, and shows each by its name."""

    shown: ClassVar[list[str]] = []

    async def get(self, path: str, body: bytes = b"") -> tuple[int, bytes]:
        if path == "/v1/models":
            cards = [{"id": name, "object": "model", "owned_by": "library"} for name in ("plain:1b", "able:8b")]
            return 200, msgspec.json.encode({"data": cards})
        if path != "/api/show":
            return 404, b"404 page not found"
        name = msgspec.json.decode(body)["model"]
        self.shown.append(name)
        return 200, msgspec.json.encode({"capabilities": ["completion", *(["tools"] if name == "able:8b" else [])]})


async def test_ollama_is_asked_once_of_each_model_that_it_lists() -> None:
    watch = Watch(Ollama(always(Line())))
    await watch.refresh()
    await watch.refresh()
    assert sorted(Ollama.shown) == ["able:8b", "plain:1b"]
    assert [("tools" in each.declared.lacks, each.declared.sources) for each in watch.models] == [
        (True, ("/api/show",)),
        (False, ("/api/show",)),
    ]
