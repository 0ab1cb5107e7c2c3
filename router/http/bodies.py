"""The fields of a request's body that the gateway reads; all others stay the client's own bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from router.http.messages import ContentPart, Message

_ABSENT = msgspec.Raw()  # msgspec reads no `Raw | None`


class Routing(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body's own `routing` object. Unknown keys are an error: a typo must not cost money."""

    preference: float | None = None
    allowed_models: list[str] | None = None
    max_cost_usd: float | None = None
    local_only: bool = False
    policy: str | None = None
    max_delay_s: float | None = None


Prompt = str | list[str | int | list[int]]  # text, texts, token ids, lists of token ids


class UsageWish(msgspec.Struct):
    """Whether a stream ends with its usage."""

    include_usage: bool = False


class CommonBody(msgspec.Struct):
    """What the bodies of all routes share."""

    model: str
    stream: bool | None = None
    stream_options: UsageWish | None = None
    routing: Routing | None = None
    n: int | None = None
    user: str | None = None


class ChatBody(CommonBody, kw_only=True):
    """/v1/chat/completions."""

    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: msgspec.Raw = _ABSENT
    functions: msgspec.Raw = _ABSENT
    logprobs: bool | None = None


class CompletionBody(CommonBody, kw_only=True):
    """/v1/completions."""

    prompt: Prompt
    max_tokens: int | None = None
    best_of: int | None = None


class EmbeddingBody(CommonBody, kw_only=True):
    """/v1/embeddings."""

    input: Prompt


class ResponsesBody(CommonBody, kw_only=True):
    """/v1/responses."""

    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: int | None = None
    tools: msgspec.Raw = _ABSENT


class MessagesBody(CommonBody, kw_only=True):
    """/v1/messages."""

    messages: list[Message]
    max_tokens: int
    system: str | list[ContentPart] | None = None
    tools: msgspec.Raw = _ABSENT
