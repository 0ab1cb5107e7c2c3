"""A stored answer, how one is recorded, and how one is sent again. Nothing here fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from backends.types import Reply, Report, Request, Stream, Usage, Whole
from router.gateway.eligibility import Requirements
from router.gateway.metering import Bill
from router.gateway.replayed_ids import fresh_id, renamed
from router.gateway.shown import shown_answer
from router.gateway.types import Attempt, Call
from router.types import Model, NanoUsd, Offer, Principal, Spend


class KeptAnswer(msgspec.Struct, array_like=True):
    """An answer as it is stored."""

    made_by: str  # the decision
    model: str
    at_ms: int
    cost: int  # nano-USD, when it was made
    response_id: str | None
    finish_reason: str | None
    tokens: tuple[int, int]
    asked: str  # the question, where similar ones may have this answer
    blocks: list[bytes]  # a body, or a stream as it came
    made_with: str = ""  # a digest of what the model was then
    asked_at: float = 0.0

    def report(self) -> Report:
        """What is said of it when it is given again, under an id of its own."""
        usage = Usage(*self.tokens)
        return Report(usage, complete=True, finish_reason=self.finish_reason, response_id=fresh_id(self.response_id))

    def text(self, call: Call) -> str | None:
        """What it says to a call of its own shape."""
        return text_of(call, self.blocks)


class Recording:
    """An answer under way that is to be stored: its blocks, until there are too many."""

    def __init__(self, reply: Stream, most: int) -> None:
        self._reply, self._most = reply, most
        self.blocks: list[bytes] = []
        self.size = 0

    @property
    def report(self) -> Report:
        """The engine's own."""
        return self._reply.report

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for block in self._reply:
            self.size += len(block)
            if self.size <= self._most:
                self.blocks.append(block)
            yield block

    async def aclose(self) -> None:
        """Stop at once."""
        await self._reply.aclose()


class ReplayedStream:
    """A stored stream, block by block. See Stream."""

    def __init__(self, kept: KeptAnswer) -> None:
        self._kept, self.report = kept, kept.report()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self._kept.blocks:
            yield renamed(block, self._kept.response_id, self.report.response_id)

    async def aclose(self) -> None:
        """Nothing is under way."""


class Replay:
    """A stored answer on its way. See Running."""

    attempt: Attempt

    def __init__(self, kept: KeptAnswer, how: str, clock: Callable[[], float]) -> None:
        self._kept, self._how, self._clock = kept, how, clock

    async def send(self, request: Request) -> Reply:
        """See Backend.send; nothing can fail."""
        kept = self._kept
        self.attempt.stored = f"{self._how}; age={max(0, int(self._clock()) - kept.at_ms // 1000)}"
        if request.stream:
            return ReplayedStream(kept)
        report = kept.report()
        return Whole(renamed(b"".join(kept.blocks), kept.response_id, report.response_id), report)

    def bill(self) -> Bill:
        """Nothing, and what it cost when it was made."""
        return Bill(Spend(NanoUsd(0), 0, 0, "settled", saved=NanoUsd(self._kept.cost)))


class StoredAnswer:
    """What stands for a model's answer among the candidates. See router.types.Program."""

    def __init__(self, kept: KeptAnswer, how: str, clock: Callable[[], float]) -> None:
        self._kept, self._how, self._clock = kept, how, clock

    def offer(self, model: Model, requirements: Requirements) -> Offer:
        """See Program.offer."""
        return Offer(model.name, NanoUsd(0), 0)

    def reason(self, requirements: Requirements, principal: Principal, is_up: Callable[[str], bool]) -> str | None:
        """See Program.reason: whoever made it may serve, or it was not offered."""
        return None

    def begin(self, gateway: Any, call: Any) -> Replay:
        """See Program.begin."""
        return Replay(self._kept, self._how, self._clock)


def text_of(call: Call, blocks: list[bytes]) -> str | None:
    """What an answer to a call says; None where nobody can tell."""
    shown = shown_answer(call.path, b"".join(blocks), streamed=call.stream)
    return None if shown is None else shown.text
