"""An answer under way: relayed as it comes, charged once, whatever becomes of the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from backends.sse import DONE, USAGE
from backends.types import Reply, Report, Whole
from router.gateway.metering import Bill, billed
from router.gateway.run_eagerly import to_its_end
from router.gateway.types import Attempt
from router.types import NanoUsd, show_usd

_ONE_USAGE = ("/v1/chat/completions", "/v1/completions")  # messages and responses report theirs in parts
Settle = Callable[[Attempt, Bill, Report | None], Awaitable[None]]


class RelayedAnswer:
    """An answer under way: iterate to relay it, and always close()."""

    def __init__(self, settle: Settle, attempt: Attempt, reply: Reply) -> None:
        self.attempt = attempt
        self.reply = reply
        self.cost: NanoUsd | None = None  # known once settled
        self._charge = settle
        self._settled: asyncio.Future[None] | None = None  # once it is begun

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body as the engine sends it. A stream's usage event gains `usage.cost`; it is settled before [DONE]."""
        if isinstance(self.reply, Whole):
            yield self.reply.body
            return
        annotates = self.attempt.call.path in _ONE_USAGE
        async for chunk in self.reply:
            if annotates and self._is_last_usage(chunk):
                yield with_cost(chunk, self.bill().spend.cost)
                continue
            if chunk.endswith(DONE):
                await self.settle()
            yield chunk

    def _is_last_usage(self, chunk: bytes) -> bool:
        """Whether this is the usage of the whole answer. Some engines report theirs in every event."""
        known = self.report.usage is not None and self.report.finish_reason is not None
        return known and USAGE.search(chunk) is not None

    @property
    def report(self) -> Report:
        """What the engine said of it, as far as it has come."""
        return self.reply.report

    @property
    def total(self) -> NanoUsd:
        """What the request costs, as far as it has come."""
        return self.bill().spend.cost if self.cost is None else self.cost

    def bill(self) -> Bill:
        """What this answer costs as far as it has come, in full."""
        return billed(self.attempt, self.report)

    async def settle(self) -> None:
        """Charge what this answer cost, shielded from cancellation. Idempotent. Raises: StoreUnavailable."""
        if self._settled is None:
            self._settled = asyncio.get_running_loop().create_future()
            await to_its_end(self._settle(self._settled))
        elif not self._settled.done():
            await asyncio.shield(self._settled)
        self._settled.result()

    async def close(self) -> None:
        """Cut the engine off if it is still generating, then settle. Idempotent. Raises: StoreUnavailable."""
        if not isinstance(self.reply, Whole):
            await to_its_end(self.reply.aclose())
        await self.settle()

    async def _settle(self, settled: asyncio.Future[None]) -> None:
        try:
            self.attempt.timings.mark("relay")
            bill = self.bill()
            await self._charge(self.attempt, bill, self.report)
            self.cost = bill.spend.cost
        except asyncio.CancelledError:
            settled.cancel()
            raise
        except Exception as problem:  # for whoever asks, now and later
            settled.set_exception(problem)
        else:
            settled.set_result(None)


def with_cost(event: bytes, cost: NanoUsd) -> bytes:
    """The usage event of a stream with `"cost"` in USD put first into its usage object."""
    found = USAGE.search(event)
    if found is None:
        return event
    head, rest = event[: found.end()], event[found.end() :]
    separator = b"" if rest.lstrip().startswith(b"}") else b","
    return head + b'"cost":' + show_usd(cost).encode() + separator + rest
