"""An answer under way: relayed as it comes, charged once, whatever becomes of the client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable

from backends.types import Reply, Usage
from router.gateway.eligibility import expected_prompt_tokens
from router.gateway.run_eagerly import begin
from router.gateway.types import Attempt, Call, usd
from router.types import NanoUsd, Spend

_DONE = b"data: [DONE]\n\n"
_USAGE = re.compile(rb'"usage":\s*\{')  # an object: OpenAI sends `"usage": null` in every event before it
_ONE_USAGE = ("/v1/chat/completions", "/v1/completions")  # messages and responses report theirs in parts
Settle = Callable[[Attempt, Spend, Reply | None], Awaitable[None]]


class Answer:
    """An answer under way: iterate to relay it, and always close()."""

    def __init__(self, settle: Settle, attempt: Attempt, reply: Reply) -> None:
        self.attempt = attempt
        self.reply = reply
        self.cost: NanoUsd | None = None  # known once settled
        self.before = 0  # nano-USD of answers that were held back for this one
        self._charge = settle
        self._settling: asyncio.Future[None] | None = None  # while it has to wait, or failed
        self._is_settled = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body as the engine sends it. A stream's usage event gains `usage.cost`; it is settled before [DONE]."""
        annotated = not self.attempt.call.stream or self.attempt.call.path not in _ONE_USAGE
        async for chunk in self.reply:
            if not annotated and self.reply.usage is not None and _USAGE.search(chunk) is not None:
                annotated = (
                    True  # usage is known as soon as its event is read, which may be blocks before it is relayed
                )
                yield with_cost(chunk, self.spend().cost)
                continue
            if chunk.endswith(_DONE):
                await self.settle()
            yield chunk

    async def pour(self, sink: Callable[[bytes], bool]) -> None:
        """As Reply.pour: what it hands on is what iterating would have yielded unchanged."""
        await self.reply.pour(sink)

    @property
    def is_streamed(self) -> bool:
        """Whether it is relayed as it comes, and not settled before."""
        return is_streamed(self.attempt.call, self.reply)

    @property
    def total(self) -> NanoUsd:
        """What the request costs with everything that was held back."""
        cost = self.spend().cost if self.cost is None else self.cost
        return NanoUsd(self.before + cost)

    async def settle(self) -> None:
        """Charge what this answer cost, shielded from cancellation. Idempotent. Raises: StoreUnavailable."""
        if self._is_settled:
            return
        if self._settling is None:
            self._settling = begin(self._settle())
        if self._settling is not None:
            await asyncio.shield(self._settling)
        self._is_settled = True

    async def close(self) -> None:
        """Cut the engine off if it is still generating, then settle. Idempotent. Raises: StoreUnavailable."""
        if self.reply.body is None and (closing := begin(self.reply.aclose())) is not None:
            await asyncio.shield(closing)
        await self.settle()

    async def _settle(self) -> None:
        self.attempt.stages.mark("relay")
        spend = self.spend()
        await self._charge(self.attempt, spend, self.reply)
        self.cost = spend.cost

    def spend(self) -> Spend:
        """What this answer costs: the engine's usage, or a count of what was relayed. Never more than the hold."""
        model, usage = self.attempt.model, self.reply.usage
        estimated = usage is None
        if usage is None:
            needs = self.attempt.call.needs
            usage = Usage(expected_prompt_tokens(model, needs), -int(-self.reply.produced // model.bytes_per_token))
        cost = min(model.price.of(usage.prompt_tokens, usage.completion_tokens), self.attempt.hold.amount)
        return Spend(NanoUsd(cost), usage.prompt_tokens, usage.completion_tokens, "settled", estimated)


def is_streamed(call: Call, reply: Reply) -> bool:
    """Whether bytes of this answer are sent before it is settled."""
    return call.stream and reply.status == 200


def with_cost(event: bytes, cost: NanoUsd) -> bytes:
    """The usage event of a stream with `"cost"` in USD put first into its usage object."""
    found = _USAGE.search(event)
    if found is None:
        return event
    head, rest = event[: found.end()], event[found.end() :]
    separator = b"" if rest.lstrip().startswith(b"}") else b","
    return head + b'"cost":' + usd(cost).encode() + separator + rest
