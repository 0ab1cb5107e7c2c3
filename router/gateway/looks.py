"""How a plain answer of chat looks: logprobs asked for on the gateway's own account, read, and taken out again."""

from __future__ import annotations

from typing import Any

import msgspec

from backends.dialects.chat import text_of
from backends.types import Reply, Whole
from backends.whole import decoded
from policies.signature import HAS_LOGPROBS, chat_signature
from router.gateway.shown import CHAT
from router.gateway.types import Attempt, Call, Options

ASKED: dict[str, object] = {"logprobs": True, "top_logprobs": 5}


def reads(attempt: Attempt, options: Options) -> bool:
    """Whether logprobs are asked of this engine so that the looks of its answers can be learned."""
    call = attempt.call
    plain = call.path == CHAT and not call.stream and call.requirements.choices == 1 and attempt.run is None
    return plain and "signature" in options.sources_of(attempt.principal) and "logprobs" in attempt.model.capabilities


def wants_logprobs(call: Call) -> bool:
    """Whether the client itself asked for them."""
    return bytes(call.fields.get("logprobs", b"")) == b"true"


def expected_tokens(attempt: Attempt) -> float:
    """Completion tokens that the model was expected to take, by what it was expected to cost; 0 where nobody knows."""
    record = attempt.decision.record
    place = record.context.names.index(record.model)
    arm, cost = record.context.arms[place], float(record.evidence.expected.cost[place])
    if arm.completion_price <= 0.0:
        return 0.0
    return max((cost - record.context.prompt_tokens * arm.prompt_price) / arm.completion_price, 0.0)


def noted(reply: Reply, attempt: Attempt) -> Reply:
    """The reply as its client may see it; how it looks is noted in the attempt where its engine sent logprobs."""
    if not isinstance(reply, Whole):
        return reply
    try:
        answer: dict[str, Any] = decoded(reply.body)
        choice = answer["choices"][0]
        found = chat_signature(choice, expected=expected_tokens(attempt), text=text_of(choice.get("message") or {}))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return reply
    if found[HAS_LOGPROBS]:
        attempt.looks = found.astype("<f4").tobytes()
    if wants_logprobs(attempt.call) or "logprobs" not in choice:
        return reply
    choice["logprobs"] = None
    return Whole(msgspec.json.encode(answer), reply.report)
