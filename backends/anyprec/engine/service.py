"""Stores behind OpenAI's request bodies: from a body to the bytes of its answer, generated on one worker thread.

Fails with Rejected for what the caller did wrong, with QueueFull when there is no room, and with AnyprecError while
opening; an answer that breaks midway raises Broken from `read`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from backends.anyprec.checkpoint import read_json
from backends.anyprec.engine.adapters import adapters_of
from backends.anyprec.engine.detokenizer import Piece
from backends.anyprec.engine.llama import Llama
from backends.anyprec.engine.requests import ChatAsk, Common, Rejected, TextAsk, read_ask, sampling_of, split_name
from backends.anyprec.engine.responses import (
    DONE,
    ChatShape,
    ChunkHead,
    ResponseShape,
    TextShape,
    chunk_event,
    usage_of,
    whole_body,
)
from backends.anyprec.engine.scheduler import Job, Scheduler, SchedulerLoad
from backends.anyprec.engine.tokenizer import BadMessages, Tokenizer
from backends.anyprec.engine.weights import Variant, Weights
from backends.anyprec.engine.worker import Worker
from backends.anyprec.errors import AnyprecError
from backends.anyprec.names import WidthName, width_name
from backends.anyprec.profiles import read_profiles
from backends.anyprec.store import Store

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SEED_BITS = 63


class Broken(AnyprecError):
    """The engine failed in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A store, or one width of it, as a model a client may name."""

    name: str
    parent: str | None  # None for the store itself
    bits: float
    adapter: str
    context_tokens: int
    parameters: int
    path: Path
    distance: float | None = None  # of its answers from the widest's, where that was measured


class Loaded:
    """One open store with what serves it."""

    def __init__(self, name: str, path: Path) -> None:
        """Raises: AnyprecError for a store that cannot be served.

        numpy's products run on one thread from here on: for matrices this small, threads wait more than they work,
        and the other cores belong to the event loop.
        """
        threadpool_limits(limits=1, user_api="blas")
        store = Store.open(path)
        self.name, self.path = name, path
        self.tokenizer = Tokenizer(path)
        profiles = read_profiles(path, store.config)
        self.model = Llama(Weights(store, adapters_of(store), profiles))
        self._distances: dict[float, float | None] = dict(store.distances)
        self._distances |= {profile.bits: profile.distance for profile in profiles}
        self.parent_bits = max(store.bits)
        self.scheduler = Scheduler(self.model, self.tokenizer, eos=_eos_of(store, self.tokenizer))
        file = path / "generation_config.json"
        self.defaults = read_json(file) if file.exists() else {}

    def models(self) -> list[EmbeddedModel]:
        """The store under its own name, then every width and adapter."""
        facts = (self.model.context, self.model.shape.parameters(), self.path)
        whole = EmbeddedModel(self.name, None, self.parent_bits, "", *facts)
        widths = [
            EmbeddedModel(
                width_name(self.name, each.bits, each.adapter),
                self.name,
                each.bits,
                each.adapter,
                *facts,
                distance=None if each.adapter else self._distances.get(each.bits),
            )
            for each in self.model.weights.variants()
        ]
        return [whole, *widths]


def _eos_of(store: Store, tokenizer: Tokenizer) -> frozenset[int]:
    ids = store.config.get("eos_token_id")
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(int(each) for each in (*listed, tokenizer.eos) if each is not None)


class Service:
    """Every store of one process. Close it when done."""

    def __init__(
        self,
        stores: Mapping[str, Path],
        *,
        queue: int = 64,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], int] = secrets.randbits,
    ) -> None:
        """Raises: AnyprecError for a store that cannot be opened."""
        self.loaded = {name: Loaded(name, Path(path)) for name, path in stores.items()}
        self._clock, self._entropy = clock, entropy
        self._worker = Worker([each.scheduler for each in self.loaded.values()], queue=queue)

    @property
    def alive(self) -> bool:
        """Whether requests can be taken."""
        return self._worker.alive

    def close(self) -> None:
        """Stop the worker. Idempotent."""
        self._worker.close()

    def models(self) -> list[EmbeddedModel]:
        """Every store and every width."""
        return [model for each in self.loaded.values() for model in each.models()]

    def loads(self) -> dict[str, SchedulerLoad]:
        """Running and waiting choices by store."""
        return {name: each.scheduler.load for name, each in self.loaded.items()}

    def resolve(self, name: str, xargs: Mapping[str, Any] | None = None) -> tuple[Loaded, Variant]:
        """The store and width a name means, the widest by default. Raises: Rejected."""
        if name in self.loaded:
            model, bits, adapter = name, split_name("", xargs)[1], ""
        else:
            model, bits, adapter = split_name(name, xargs)
        loaded = self.loaded.get(model)
        if loaded is None:
            raise Rejected(f"The model `{name}` does not exist.", status=404, param="model", code="model_not_found")
        variant = Variant(bits or loaded.parent_bits, adapter)
        if variant not in loaded.model.weights.variants():
            known = (WidthName(model, each.bits, each.adapter).width for each in loaded.model.weights.variants())
            asked = WidthName(model, variant.bits, variant.adapter).width
            message = f"{model} has no {asked}; it has {', '.join(known)}"
            raise Rejected(message, param="model" if adapter else "vllm_xargs", code="invalid_value")
        return loaded, variant

    def ask(self, path: str, fields: Mapping[str, object], *, request_id: str | None = None) -> Exchange:
        """Queue a request; must be called on the event loop that will read it. Raises: Rejected, QueueFull."""
        ask: Common = read_ask(fields, ChatAsk if path == CHAT else TextAsk)
        loaded, variant = self.resolve(ask.model, ask.vllm_xargs)
        prompts = _prompts(ask, loaded.tokenizer)
        prefix = "chatcmpl" if path == CHAT else "cmpl"
        head = ChunkHead(f"{prefix}-{request_id or f'{self._entropy(128):032x}'}", int(self._clock()), ask.model)
        exchange = Exchange(head, self._shape(ask, loaded.tokenizer), prompt_tokens=sum(len(each) for each in prompts))
        exchange.wants_usage = ask.stream_options is not None and ask.stream_options.include_usage
        exchange.streams = bool(ask.stream)
        exchange.jobs = self._jobs(ask, prompts, loaded, variant, exchange)
        self._worker.submit(loaded.scheduler, exchange.jobs)
        return exchange

    def _shape(self, ask: Common, tokenizer: Tokenizer) -> ResponseShape:
        if isinstance(ask, ChatAsk):
            tools = (ask.tools or ()) if ask.tool_choice != "none" else ()
            call_id = f"call_{self._entropy(64):016x}"
            return ChatShape(tokenizer, logprobs=bool(ask.logprobs), tools=tools, call_id=call_id)
        return TextShape(tokenizer, logprobs=ask.alternatives() is not None)

    def _jobs(
        self, ask: Common, prompts: Sequence[list[int]], loaded: Loaded, variant: Variant, exchange: Exchange
    ) -> list[Job]:
        jobs: list[Job] = []
        for prompt in prompts:
            sampling = sampling_of(
                ask, defaults=loaded.defaults, prompt_tokens=len(prompt), context=loaded.model.context
            )
            first = self._entropy(SEED_BITS) if sampling.seed is None else sampling.seed % 2**SEED_BITS
            for choice in range(ask.n or 1):
                deliver, failed = exchange.receivers(len(jobs))
                jobs.append(Job(prompt, variant, sampling, first + choice, deliver, failed))
        return jobs


def _prompts(ask: Common, tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of every prompt. Raises: Rejected for empty or impossible ones."""
    if isinstance(ask, ChatAsk):
        if not ask.messages or any(not isinstance(message.get("role"), str) for message in ask.messages):
            raise Rejected("messages must be a list of objects with a role", param="messages", code="invalid_value")
        try:
            tools = None if ask.tool_choice == "none" else ask.tools
            return [tokenizer.encode(tokenizer.prompt(ask.messages, tools=tools))]
        except BadMessages as error:
            raise Rejected(str(error), param="messages", code="invalid_value") from error
    assert isinstance(ask, TextAsk)  # the only other kind
    listed = [tokenizer.encode(each) if isinstance(each, str) else each for each in ask.prompts()]
    if not listed or any(not each or not set(each) <= tokenizer.known for each in listed):
        raise Rejected("prompt is empty or holds a token id the model does not have", param="prompt")
    return listed


class Exchange:
    """One request under way. Read it either as events or as one body; always close it."""

    def __init__(self, head: ChunkHead, shape: ResponseShape, *, prompt_tokens: int) -> None:
        self.head, self._shape = head, shape
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self.jobs: list[Job] = []
        self.wants_usage = False
        self.streams = False
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[tuple[int, Piece] | BaseException] = asyncio.Queue()
        self._events = self._generate()

    def receivers(self, index: int) -> tuple[Callable[[Piece], None], Callable[[BaseException], None]]:
        """What a choice's job calls, from the worker's thread."""
        return lambda piece: self._post((index, piece)), self._post

    def _post(self, message: tuple[int, Piece] | BaseException) -> None:
        # the loop may have been closed while the worker was in the middle of a step; nobody reads then
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, message)

    async def _pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        left = len(self.jobs)
        while left:
            message = await self._arrived.get()
            if isinstance(message, BaseException):
                raise Broken(f"the engine failed: {message}") from message
            self.completion_tokens += len(message[1].tokens)
            left -= message[1].finish is not None
            yield message

    def _usage(self) -> dict[str, Any]:
        return usage_of(self.prompt_tokens, self.completion_tokens)

    async def body(self) -> bytes:
        """The whole answer. Raises: Broken."""
        pieces: list[list[Piece]] = [[] for _ in self.jobs]
        async for index, piece in self._pieces():
            pieces[index].append(piece)
        choices = [self._shape.choice(index, each) for index, each in enumerate(pieces)]
        return whole_body(self.head, self._shape.object, choices, self._usage())

    async def read(self) -> bytes:
        """The next events, b"" at the end. Raises: Broken."""
        return await anext(self._events, b"")

    async def _generate(self) -> AsyncIterator[bytes]:
        kind, opened = self._shape.chunk_object, set[int]()
        async for index, piece in self._pieces():
            block = b""
            if index not in opened and (opening := self._shape.opening(index)) is not None:
                block = chunk_event(self.head, kind, [opening])
            opened.add(index)
            block += b"".join(chunk_event(self.head, kind, [each]) for each in self._shape.chunk(index, piece))
            if block:
                yield block
        if self.wants_usage:
            yield chunk_event(self.head, kind, [], self._usage())
        yield DONE

    def close(self) -> None:
        """Stop generating. Idempotent, and harmless after the end."""
        for job in self.jobs:
            job.cancelled = True
