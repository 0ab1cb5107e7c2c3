"""What it takes to call a model: requests, replies, usage, and the ports a backend fills."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.visible import ShownText

MOST_TOKENS = 1 << 40  # the largest count anybody is believed to have meant


class TokenParts(msgspec.Struct, frozen=True, gc=False):
    """Tokens with a price of their own, by kind: parts of a prompt, and parts of an answer."""

    cached: int = 0  # of the prompt, read from the provider's cache
    cache_write: int = 0  # written to it for minutes
    cache_write_1h: int = 0  # written to it for longer
    audio_prompt: int = 0
    image_prompt: int = 0
    reasoning: int = 0
    audio_completion: int = 0
    image_completion: int = 0
    searches: int = 0  # that the provider made, by number
    service_tier: str = ""  # as the provider says it: "flex", "priority"

    @property
    def counts(self) -> dict[str, int]:
        """Those that are not 0, by name."""
        return {name: count for name in COUNTED if (count := getattr(self, name))}


COUNTED = TokenParts.__struct_fields__[:-1]
NO_PARTS = TokenParts()


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the engine reported them, each from 0 to MOST_TOKENS; None where it reported nothing that is a count.

    Raises: ValueError for any other number.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    parts: TokenParts = NO_PARTS
    unseen_prompt_tokens: int = 0  # that no text shows: cached, audio, images
    unseen_completion_tokens: int = 0  # that no text shows: reasoning, audio, predictions that were rejected

    def __post_init__(self) -> None:
        counts = (self.unseen_prompt_tokens, self.unseen_completion_tokens)
        for count in (self.prompt_tokens or 0, self.completion_tokens or 0, *counts):
            if not 0 <= count <= MOST_TOKENS:
                raise ValueError(f"{count} tokens is no count from 0 to {MOST_TOKENS}")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds, how long an unused connection is kept, and how much an answer may hold."""

    connect_s: float = 5.0
    first_byte_s: float = 120.0  # from the request to the first event of a stream, or the first byte of another body
    idle_s: float = 60.0  # without an event of a stream, or a byte of another body
    longest_s: float = 600.0  # for the whole of a plain answer
    keep_alive_s: float = 4.0  # below uvicorn's five seconds, so that the server seldom closes first
    body_bytes: int = 64 * 1024 * 1024
    head_bytes: int = 64 * 1024
    headers: int = 100


class Request(msgspec.Struct, frozen=True):
    """A client's request on its way to one model.

    `fields` maps each top-level key of the client's JSON body to its bytes, untouched. A backend replaces `model`
    and what it must inject, and passes the rest on as it came.
    """

    path: str  # "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"
    fields: Mapping[str, msgspec.Raw]
    model: str  # the name the engine knows the model by
    answers_as: str  # the name the client must see in the answer's `model`
    stream: bool = False
    wants_usage: bool = True  # False: usage is asked for all the same, and its chunk is kept from the client
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)  # traceparent, x-request-id, x-session-id
    extra: Mapping[str, object] = msgspec.field(default_factory=dict)  # merged into the body, e.g. {"vllm_xargs": {…}}
    session: str | None = None  # for affinity
    tokens: int = 0  # that it is expected to need: engines with a smaller context are passed by
    tags: frozenset[str] = frozenset()  # by which some engines are chosen


def lines_of(headers: Mapping[str, str]) -> bytes:
    """The lines of a head. Raises: ValueError for a value that would break out of its line."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise ValueError("a header holds a line break")
    return text.encode("latin-1", errors="replace")


@dataclass(slots=True)
class Report:
    """What an engine said of its answer, and what can be seen of it: of a stream as far as it has come."""

    usage: Usage | None = None
    failure: str | None = None  # what broke the answer midway
    complete: bool = False  # the engine said that its answer was whole
    response_id: str | None = None
    finish_reason: str | None = None
    served_by: str = ""  # the engine among several, by its name in the pool
    shown: ShownText = field(default_factory=lambda: ShownText(""))
    engine_s: float | None = None  # at the socket: from the request to the first byte, or the last of what came whole


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that is there."""

    body: bytes
    report: Report


class Stream(Protocol):
    """An answer whose first byte has come. Iterate once, always close, and read the report.

    It yields whole SSE events as bytes, each ending in a blank line, [DONE] included. There are as many in one block
    as came in one read, and the usage event always alone.
    """

    @property
    def report(self) -> Report:
        """As far as the answer has come."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Stop at once: an engine still generating is cut off. Idempotent."""


Reply = Whole | Stream


class Backend(Protocol):
    """Calls models of one engine or provider."""

    async def send(self, request: Request) -> Reply:
        """Returns when the first byte is there. Raises: BackendError, before the first byte and never after."""

    async def ping(self) -> bool:
        """Whether the backend can take a request now; False, never an exception."""

    async def aclose(self) -> None:
        """Release connections, threads and files."""


class Embedder(Protocol):
    """Text to unit vectors."""

    @property
    def dim(self) -> int:
        """d."""

    @property
    def is_local(self) -> bool:
        """Whether texts stay on machines of the operator's: what must stay local is embedded by no other."""

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(m, d) float32, unit rows (a text with no features gives a zero row)."""
