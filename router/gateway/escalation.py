"""Escalation: an answer whose own signature predicts failure is held back and a dearer model is asked.

Only plain chat answers of one choice are judged: a stream's first bytes are gone before its signature is known.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.types import Whole
from policies.records import PINNED
from policies.signature import chat_signature
from router.gateway.types import Call, Decision
from router.types import Model

TOP_LOGPROBS = 5


class Escalating(Protocol):
    """A policy that can tell from an answer's signature whether it may be returned."""

    def returns(self, arm: str, signature: NDArray[np.float64]) -> bool:
        """False: ask a dearer arm."""


def is_judged(call: Call, decision: Decision, *, escalating: Escalating | None) -> bool:
    """Whether the answer to this call is looked at before it is returned."""
    plain = call.path == "/v1/chat/completions" and not call.stream and call.needs.choices == 1
    return escalating is not None and plain and decision.record.policy != PINNED


def asked_for_logprobs(call: Call) -> bool:
    """Whether the client itself wants them."""
    return bytes(call.fields.get("logprobs", b"")) == b"true"


def read(reply: Whole, *, keep_logprobs: bool) -> tuple[Whole, NDArray[np.float64] | None]:
    """The reply and its signature (12,), None where the engine sent no logprobs. Logprobs asked for on the
    gateway's own account are taken out again."""
    try:
        answer: dict[str, Any] = msgspec.json.decode(reply.body)
        choice = answer["choices"][0]
        found = chat_signature(choice)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return reply, None
    if keep_logprobs:
        return reply, found
    choice["logprobs"] = None
    return Whole(msgspec.json.encode(answer), reply.report), found


def not_dearer(model: Model, decision: Decision) -> frozenset[str]:
    """Names of the candidates that cost no more than this one, itself among them: where escalation does not go."""
    worst = {each.name: each.price.prompt + each.price.completion for each in decision.models}
    return frozenset(name for name, price in worst.items() if price <= worst[model.name])
