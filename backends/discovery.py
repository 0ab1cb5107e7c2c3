"""What an engine serves and how busy it is, read from /v1/models and /metrics, and how long an answer would take there.

An engine that does not tell (no /metrics, no such path) is simply unknown: its load stays zero and its speed the prior.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from time import monotonic
from typing import Any, Protocol, runtime_checkable

import msgspec

from backends.anyprec.names import WIDTH_KEY, parsed_width, width_name, width_of
from backends.declared import NOTHING, PAGES, SHOW, Declared, is_ollamas, of_card, of_page, of_show
from backends.errors import BackendError, Cut, Unreachable
from backends.types import Backend

LOG = logging.getLogger("pointsman.engines")
_SAMPLE = re.compile(r"^vllm:([a-z0-9_]+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_OVERHEAD_S = 0.018  # Petals adds 18 ms to every hop
_UNKNOWN_RTT_S = 0.15  # and takes this for a server it has not timed
_NO_ROOM_S = 10.0  # and this where the KV cache would not fit
NEARLY_FULL = 0.95
LONGEST_NAME = 512  # characters, of a model
MOST_MODELS = 1000  # of one engine, widths and adapters counted in: each is a candidate of every request
SILENCES = 2  # in a row after which an engine counts as gone
MOST_SHOWN = 20  # models that are asked about at once
NONE: Mapping[str, Declared] = {}
PATIENCE_S = 10.0  # for each page: whoever is silent must not hold up what is asked of the others


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine last said of itself."""

    running: float = 0.0
    waiting: float = 0.0
    kv_usage: float = 0.0  # in [0, 1]


@dataclass(frozen=True, slots=True)
class Found:
    """One name an engine answers to."""

    name: str
    parent: str | None = None  # the base of an adapter, the full model of a width
    bits: float | None = None
    context_tokens: int | None = None
    declared: Declared = NOTHING  # what the engine says that it can do


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine runs on."""

    flops: float  # achieved, in FLOP/s at the weights' precision
    bandwidth: float  # of its memory, in bytes/s


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one request is served at the present load."""

    prefill_tokens_s: float
    decode_tokens_s: float
    request_s: float  # mean time from admission to the last token


@dataclass(frozen=True, slots=True)
class Counters:
    """Sums since the engine started; two readings give a mean of what came between."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    prompt_tokens: float = 0.0
    token_s: float = 0.0
    tokens: float = 0.0
    request_s: float = 0.0
    requests: float = 0.0


@runtime_checkable
class Askable(Protocol):
    """A backend that can be asked for a page."""

    async def get(self, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body, of a POST where one is given. Raises: BackendError."""


class Watch:
    """One engine under observation: `refresh` it every few seconds."""

    def __init__(self, backend: Backend) -> None:
        self.load = Load()
        self.models: tuple[Found, ...] = ()
        self.speed: Speed | None = None  # since the last reading or the engine's start; None until it served something
        self.rtt_s = _UNKNOWN_RTT_S
        self.answers: bool | None = None  # None: not asked yet
        self._backend = backend
        self.heard = False  # whether an answer came from it since the last refresh
        self._declared: Declared | None = None  # by its pages, since it last began to answer
        self._shown: dict[str, Declared] = {}  # of each model, by Ollama
        self._last = Counters()
        self._silent = 0  # times in a row that nothing came in time

    async def refresh(self, clock: Callable[[], float] = monotonic) -> None:
        """Ask once. An engine that does not answer keeps its models and loses its load. Raises: nothing.

        One whose page of models is none, such as a proxy's of HTML, keeps them too.

        One that is silent once is busy. So is one that is silent while its answers to requests come. One that cannot be
        reached, or is silent twice otherwise, does not answer.
        """
        began, heard = clock(), self.heard
        self.heard = False
        certain = not isinstance(self._backend, Askable)  # its own word is all there is
        try:
            listed = await self._page("/v1/models")
        except Unreachable as problem:
            listed, certain = None, not isinstance(problem, Cut)
        self.rtt_s = min(5.0, clock() - began)
        if listed is not None or (heard and not certain) or await self._pings():
            self.answers, self._silent = True, 0
        else:
            self._silent += 1
            self.answers = bool(self.answers) and not certain and self._silent < SILENCES
        if not self.answers:
            self._declared, self._shown = None, {}
        if listed is not None and is_list(listed):
            if self._declared is None:
                self._declared = await self._pages()
            await self._show(listed)
            self._list(models_of(listed, self._declared, self._shown))
        measured = None
        if self.answers:
            with suppress(Unreachable):
                measured = await self._page("/metrics")
        self._read(measured.decode("utf-8", errors="replace") if measured else "")

    def _list(self, models: tuple[Found, ...]) -> None:
        """Take over what it lists, the first MOST_MODELS of it; that there are more is told when it begins."""
        if len(models) > MOST_MODELS and len(self.models) != MOST_MODELS:
            name = getattr(self._backend, "name", "an engine")
            LOG.warning("%s lists more than %d models; the others are left out.", name, MOST_MODELS)
        self.models = models[:MOST_MODELS]

    async def _pages(self) -> Declared:
        """Once each time it comes up: engines do not change what they can do while they run."""
        pages = await asyncio.gather(*map(self._page_or_none, PAGES))
        found = NOTHING
        for path, page in zip(PAGES, pages, strict=True):
            if page:
                found = found.over(of_page(path, page))
        return found

    async def _show(self, listed: bytes) -> None:
        """What Ollama says of each model that it lists, once; of the rest at the next look."""
        asked = [card["id"] for card in _cards(listed) if is_ollamas(card) and card["id"] not in self._shown]
        asked = asked[:MOST_SHOWN]
        bodies = (msgspec.json.encode({"model": each}) for each in asked)
        pages = await asyncio.gather(*(self._page_or_none(SHOW, body) for body in bodies))
        self._shown |= {name: of_show(page or b"") for name, page in zip(asked, pages, strict=True)}

    async def _page_or_none(self, path: str, body: bytes = b"") -> bytes | None:
        with suppress(Unreachable):
            return await self._page(path, body)
        return None

    async def _page(self, path: str, body: bytes = b"") -> bytes | None:
        """None where there is no such page, or none comes in time. Raises: Unreachable."""
        if not isinstance(self._backend, Askable):
            return None
        try:
            async with asyncio.timeout(PATIENCE_S):
                status, page = await (self._backend.get(path, body) if body else self._backend.get(path))
        except Unreachable:
            raise
        except (BackendError, TimeoutError):
            return None
        return page if status == 200 else None

    async def _pings(self) -> bool:
        """Whether it says so; whoever had the time for its list to do so has had most of it."""
        try:
            async with asyncio.timeout(PATIENCE_S / 5):
                return await self._backend.ping()
        except TimeoutError:
            return False

    def _read(self, text: str) -> None:
        samples = samples_of(text)
        self.load = load_of(samples)
        now = counters_of(samples)
        self.speed = speed_between(self._last, now) or self.speed
        self._last = now


def models_of(body: bytes, pages: Declared = NOTHING, shown: Mapping[str, Declared] = NONE) -> tuple[Found, ...]:
    """The models of a /v1/models page, adapters with their parent and any-precision widths; () where it is none.

    `pages`: what other pages of the engine say; of several models only those do that its list says. `shown`: what it
    says of a model by its name.
    """
    cards = _cards(body)
    whose = pages if len(cards) == 1 else NOTHING
    said = ((card, of_card(card).over(shown.get(card["id"], NOTHING)).over(whose)) for card in cards)
    return tuple(islice((found for card, declared in said for found in _names(card, declared)), MOST_MODELS + 1))


def is_list(body: bytes) -> bool:
    """Whether this is a /v1/models page, perhaps one that lists nothing."""
    return isinstance(_listed(body), list)


def _cards(body: bytes) -> list[dict[str, Any]]:
    """The entries of a /v1/models page; [] where it is none."""
    listed = _listed(body)
    return [each for each in listed if _is_card(each)] if isinstance(listed, list) else []


def _listed(body: bytes) -> object:
    try:
        return msgspec.json.decode(body, type=dict[str, Any]).get("data")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _is_card(card: object) -> bool:
    return isinstance(card, dict) and isinstance(card.get("id"), str) and 0 < len(card["id"]) <= LONGEST_NAME


def _names(card: dict[str, Any], declared: Declared) -> list[Found]:
    name, context, declared = card["id"], declared.context_tokens, replace(declared, context_tokens=None)
    parent = card.get("parent") if isinstance(card.get("parent"), str) else None
    width = parsed_width(name)
    if width is not None:
        return [Found(name, parent or width.model, width.bits, context, declared)]
    widths = card.get(WIDTH_KEY)
    known = [width_of(each) for each in widths if _is_number(each)] if isinstance(widths, list) else []
    own = Found(name, parent, context_tokens=context, declared=declared)
    return [own, *(Found(width_name(name, bits), name, bits, context, declared) for bits in known if bits is not None)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def samples_of(text: str) -> dict[str, list[float]]:
    """The `vllm:` samples of a Prometheus page by name, one value for each set of labels."""
    samples: dict[str, list[float]] = {}
    for name, value in _SAMPLE.findall(text):
        samples.setdefault(name, []).append(float(value))
    return samples


def load_of(samples: Mapping[str, list[float]]) -> Load:
    """Running and waiting over all the engine's cores; the fullest cache counts."""
    usage = samples.get("kv_cache_usage_perc") or samples.get("gpu_cache_usage_perc") or [0.0]
    return Load(
        running=sum(samples.get("num_requests_running", ())),
        waiting=sum(samples.get("num_requests_waiting", ())),
        kv_usage=max(usage),
    )


def counters_of(samples: Mapping[str, list[float]]) -> Counters:
    """The sums from which speeds are computed; the names of vLLM 0.10 and later, and the older one for tokens."""

    def total(*names: str) -> float:
        return next((sum(samples[name]) for name in names if name in samples), 0.0)

    gaps = ("inter_token_latency_seconds", "time_per_output_token_seconds")
    return Counters(
        queue_s=total("request_queue_time_seconds_sum"),
        prefill_s=total("request_prefill_time_seconds_sum"),
        prompt_tokens=total("prompt_tokens_total"),
        token_s=total(*(f"{gap}_sum" for gap in gaps)),
        tokens=total(*(f"{gap}_count" for gap in gaps)),
        request_s=total("request_inference_time_seconds_sum"),
        requests=total("request_inference_time_seconds_count"),
    )


def speed_between(before: Counters, after: Counters) -> Speed | None:
    """Means of what was served between two readings; None where that was nothing or the engine restarted."""
    prefill_s, tokens = after.prefill_s - before.prefill_s, after.tokens - before.tokens
    token_s, requests = after.token_s - before.token_s, after.requests - before.requests
    if min(prefill_s, tokens, token_s, requests) <= 0.0:
        return None
    return Speed(
        prefill_tokens_s=max(1.0, after.prompt_tokens - before.prompt_tokens) / prefill_s,
        decode_tokens_s=tokens / token_s,
        request_s=max(0.0, after.request_s - before.request_s) / requests,
    )


def roofline(
    machine: Machine, *, parameters: float, bits: float = 16.0, running: float = 1.0, request_tokens: float = 256.0
) -> Speed:
    """The prior before anything is measured (Williams, Waterman and Patterson, 2009).

    Prefill is bound by arithmetic, 2 FLOP per weight and token. A decode step reads every weight once for all running
    requests, or computes for each of them, whichever takes longer. `request_tokens` is a usual answer's length.
    """
    prefill_tokens_s = machine.flops / (2.0 * parameters)
    step_s = max(parameters * bits / 8.0 / machine.bandwidth, max(1.0, running) / prefill_tokens_s)
    return Speed(prefill_tokens_s, 1.0 / step_s, request_tokens * step_s)


def delay_s(load: Load, speed: Speed, *, rtt_s: float, prompt_tokens: float, completion_tokens: float) -> float:
    """Seconds until the whole answer would be there: way, queue, prefill, decode, and a penalty near a full cache.

    The queue drains one request in request_s / running. Way and penalty as in Petals (Borzunov et al., NeurIPS 2023).
    """
    queue_s = load.waiting * speed.request_s / max(1.0, load.running)
    work_s = prompt_tokens / speed.prefill_tokens_s + completion_tokens / speed.decode_tokens_s
    no_room_s = _NO_ROOM_S if load.kv_usage > NEARLY_FULL else 0.0
    return rtt_s / 2.0 + _OVERHEAD_S + queue_s + work_s + no_room_s
