"""Escalation: an answer whose own signature predicts failure is held back and a dearer model is asked.

Only plain chat answers of one choice are judged: a stream's first bytes are gone before its signature is known.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.types import Reply, Usage
from policies.records import PINNED
from policies.signature import chat_signature
from router.gateway.types import Call, Decision
from router.types import Model

TOP_LOGPROBS = 5


class Escalating(Protocol):
    """A policy that can tell from an answer's signature whether it may be returned."""

    def returns(self, arm: str, signature: NDArray[np.float64]) -> bool:
        """False: ask a dearer arm."""


@dataclass(slots=True)
class Buffered:
    """A reply read to its end, its body changed; everything else as the engine's own."""

    reply: Reply
    body: bytes

    @property
    def status(self) -> int:
        return self.reply.status

    @property
    def content_type(self) -> str:
        return self.reply.content_type

    @property
    def usage(self) -> Usage | None:
        return self.reply.usage

    @property
    def failure(self) -> str | None:
        return self.reply.failure

    @property
    def produced(self) -> int:
        return self.reply.produced

    @property
    def complete(self) -> bool:
        return self.reply.complete

    @property
    def response_id(self) -> str | None:
        return self.reply.response_id

    @property
    def finish_reason(self) -> str | None:
        return self.reply.finish_reason

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.body

    async def aclose(self) -> None:
        await self.reply.aclose()


def is_judged(call: Call, decision: Decision, *, escalating: Escalating | None) -> bool:
    """Whether the answer to this call is looked at before it is returned."""
    plain = call.path == "/v1/chat/completions" and not call.stream and call.needs.choices == 1
    return escalating is not None and plain and decision.record.policy != PINNED


def asked_for_logprobs(call: Call) -> bool:
    """Whether the client itself wants them."""
    return bytes(call.fields.get("logprobs", b"")) == b"true"


async def read(reply: Reply, *, keep_logprobs: bool) -> tuple[Buffered, NDArray[np.float64] | None]:
    """The whole reply and its signature (12,), None where the engine sent no logprobs. Logprobs asked for on the
    gateway's own account are taken out again."""
    body = reply.body if reply.body is not None else b"".join([chunk async for chunk in reply])
    try:
        answer: dict[str, Any] = msgspec.json.decode(body)
        choice = answer["choices"][0]
        found = chat_signature(choice)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return Buffered(reply, body), None
    if not keep_logprobs:
        choice["logprobs"] = None
        body = msgspec.json.encode(answer)
    return Buffered(reply, body), found


def not_dearer(model: Model, decision: Decision) -> frozenset[str]:
    """Names of the candidates that cost no more than this one, itself among them: where escalation does not go."""
    worst = {each.name: each.price.prompt + each.price.completion for each in decision.models}
    return frozenset(name for name, price in worst.items() if price <= worst[model.name])
