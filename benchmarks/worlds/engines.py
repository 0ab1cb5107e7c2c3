"""Engines of a world: they answer with the request's own words, and lie, stall, cut and refuse by the seed.

Between an engine and the gateway lie the gateway's own replies and replicas. The network hands their bytes on in pieces
of any size, and loses the rest where it resets.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from backends.errors import BackendError, Cut, Failed, Overloaded, TimedOut, Unreachable
from backends.sse import EventStream
from backends.types import Reply, Request, TokenParts
from backends.whole import whole

BYTES_PER_TOKEN = {"small": 4, "large": 1}  # the large one knows bytes only
CONTEXT = 4096  # of each model
PROMPT_TOKENS = 20  # what an engine says of every prompt
FIRST_BYTE_S, IDLE_S = 20.0, 10.0
KEPT = ((0, 0), (PROMPT_TOKENS, 0), (12, 0), (0, PROMPT_TOKENS), (8, 12), (0, 5))  # tokens of it, cached and written
# What an engine does to a request, and what it says it used.
FAULTS = ("none", "none", "none", "none", "500", "busy", "down", "slow", "hang", "reset", "stall", "garbage")
LIES = (
    "honest",
    "honest",
    "honest",
    "missing",
    "negative",
    "huge",
    "text",
    "zero",
    "tiny",
    "float",
    "more",
    "fraction",
)


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What one engine does to one request; drawn from the seed and the request alone."""

    fault: str
    lie: str
    words: int
    delay_s: float
    piece_bytes: int
    cut_at: float  # share of the bytes after which a reset or a stall comes
    nonce: str
    bytes_per_token: int
    kept: tuple[int, int] = (0, 0)  # tokens of the prompt that were in a cache, and that are written to one

    @property
    def text(self) -> str:
        """What is answered: nobody else's words."""
        return " ".join([self.nonce] * self.words)

    @property
    def counted(self) -> int:
        """Tokens that can be seen in it."""
        return -(-len(self.text) // self.bytes_per_token)

    @property
    def usage(self) -> object:
        """What the engine says it used; the prompt is always true."""
        said: dict[str, object] = {
            "negative": -100_000_000,
            "huge": 2**64 - 1,
            "text": "12",
            "zero": 0,
            "tiny": 1,
            "float": float(self.counted),
            "more": self.counted * 6,
            "fraction": 0.5,
        }
        if self.lie == "missing":
            return None
        found, written = self.kept
        details = {"cached_tokens": found, "cache_write_tokens": written}
        used = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": said.get(self.lie, self.counted)}
        return {**used, "prompt_tokens_details": details} if any(self.kept) else used

    @property
    def parts(self) -> TokenParts:
        """Kinds of tokens that a whole answer is charged."""
        found, written = (0, 0) if self.lie == "missing" else self.kept
        return TokenParts(cached=found, cache_write=written)

    @property
    def charged(self) -> tuple[int, int]:
        """Prompt and completion tokens that a whole answer is charged; -1: as many as are counted of the prompt."""
        if self.lie == "tiny":
            return PROMPT_TOKENS, 1 if self.counted <= 4 else self.counted
        if self.lie == "more" and self.counted * 6 <= CONTEXT:
            return PROMPT_TOKENS, self.counted * 6
        return (-1 if self.lie == "missing" else PROMPT_TOKENS), self.counted


def plan_for(seed: str, engine: str, nonce: str, *, most_tokens: int, calm: bool, caches: bool) -> EnginePlan:
    """The same every time. The text keeps the limit that the client set."""
    chance, bytes_per_token = random.Random(seed), BYTES_PER_TOKEN[engine]
    most = max(1, most_tokens * bytes_per_token // (len(nonce) + 1))
    return EnginePlan(
        fault="none" if calm else chance.choice(FAULTS),
        lie=chance.choice(LIES),
        words=most if chance.random() < 0.05 else min(chance.randint(1, 30), most),
        delay_s=chance.choice((0.01, 0.1, 1.0, 8.0)) * chance.random(),
        piece_bytes=chance.choice((1, 7, 64, 1000, 100_000)),
        cut_at=chance.random(),
        nonce=nonce,
        bytes_per_token=bytes_per_token,
        kept=chance.choice(KEPT) if caches else (0, 0),  # last, so that all else is as without
    )


class WorldEngine:
    """A Backend."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.calm = False  # from now on nothing goes wrong
        self.varies = False  # it may be asked the same again, and is then another
        self.caches = False  # it says what its cache had of a prompt
        self.plans: dict[str, list[EnginePlan]] = {}  # by nonce, of what it was asked
        self._seed = seed

    async def send(self, request: Request) -> Reply:
        """Returns when the first byte is there. Raises: BackendError."""
        nonce = str(msgspec.json.decode(request.fields["user"]))
        most = int(msgspec.json.decode(request.fields["max_tokens"]))
        before = self.plans.get(nonce, []) if self.varies else []
        nth = f"/{len(before)}" if before else ""
        own = f"{self._seed}/{self.name}/{nonce}{nth}"
        plan = plan_for(own, self.name, nonce, most_tokens=most, calm=self.calm, caches=self.caches)
        self.plans[nonce] = [*before, plan]
        await self._begin(plan)
        if not request.stream:
            body = _whole(plan, request.model)
            if plan.fault in ("reset", "stall"):
                await asyncio.sleep(IDLE_S * (plan.fault == "stall"))
                raise Cut("closed the connection", backend=self.name)
            if plan.fault == "garbage":
                body = body[: int(len(body) * plan.cut_at)]
            return whole(body, request=request, backend=self.name)
        wire = _Wire(plan, b"".join(_events(plan, request.model)), backend=self.name)
        stream = EventStream(wire.read, wire.close, request=request, backend=self.name)
        await stream.start(wire.read)
        return stream

    async def ping(self) -> bool:
        """Always."""
        return True

    async def aclose(self) -> None:
        """Nothing to release."""

    async def _begin(self, plan: EnginePlan) -> None:
        await asyncio.sleep(plan.delay_s)
        match plan.fault:
            case "500":
                raise Failed("answered 500", backend=self.name)
            case "busy":
                raise Overloaded("answered 429", backend=self.name, retry_after_s=1.0)
            case "down":
                raise Unreachable("no connection", backend=self.name)
            case "hang":
                await asyncio.sleep(FIRST_BYTE_S)
                raise TimedOut(f"sent nothing for {FIRST_BYTE_S:g} s", backend=self.name)
            case "slow":
                await asyncio.sleep(FIRST_BYTE_S * 0.9)


class _Wire:
    """Bytes on their way, in pieces."""

    def __init__(self, plan: EnginePlan, data: bytes, *, backend: str) -> None:
        self._plan, self._backend = plan, backend
        cuts = plan.fault in ("reset", "stall", "garbage")
        self._left = data[: int(len(data) * plan.cut_at)] if cuts else data
        self._closed = False

    async def read(self) -> bytes:
        """Raises: BackendError."""
        await asyncio.sleep(self._plan.delay_s / 10)
        if self._closed:
            raise Cut("was closed by the gateway", backend=self._backend)
        if not self._left:
            await self._end()
        size = self._plan.piece_bytes
        piece, self._left = self._left[:size], self._left[size:]
        return piece

    async def _end(self) -> None:
        problem: BackendError | None = None
        if self._plan.fault == "stall":
            await asyncio.sleep(IDLE_S)
            problem = TimedOut(f"sent nothing for {IDLE_S:g} s", backend=self._backend)
        elif self._plan.fault == "reset":
            problem = Cut("closed the connection", backend=self._backend)
        if problem is not None:
            raise problem

    def close(self) -> None:
        """The gateway hangs up."""
        self._closed = True


def _whole(plan: EnginePlan, model: str) -> bytes:
    message = {"role": "assistant", "content": plan.text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    head: Mapping[str, Any] = {"id": f"chatcmpl-{plan.nonce}", "model": model, "choices": [choice]}
    return msgspec.json.encode({**head, **({} if plan.usage is None else {"usage": plan.usage})})


def _events(plan: EnginePlan, model: str) -> list[bytes]:
    head = {"id": f"chatcmpl-{plan.nonce}", "model": model}
    words = plan.text.split(" ")
    pieces = [word if number == 0 else f" {word}" for number, word in enumerate(words)]
    said: list[dict[str, object]] = [{"delta": {"content": piece}, "finish_reason": None} for piece in pieces]
    said.append({"delta": {}, "finish_reason": "stop"})
    events: list[dict[str, object]] = [{**head, "choices": [{"index": 0, **each}]} for each in said]
    if plan.usage is not None:
        events.append({**head, "choices": [], "usage": plan.usage})
    return [*(b"data: " + msgspec.json.encode(each) + b"\n\n" for each in events), b"data: [DONE]\n\n"]
