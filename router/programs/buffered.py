"""An answer that is looked at before the client has it, of a stream up to some tokens of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from backends.types import Report, Stream, Whole
from backends.whole import decoded

_DATA = b"data:"


class Buffered:
    """A stream held back, then let go. See Stream. `quiet`: logprobs are taken out of what is relayed."""

    def __init__(self, stream: Stream, *, quiet: bool) -> None:
        self._stream, self._quiet = stream, quiet
        self._rest = stream.__aiter__()
        self.seen: list[bytes] = []

    @property
    def report(self) -> Report:
        """The engine's own."""
        return self._stream.report

    async def fill(self, tokens: int) -> bool:
        """Read up to so many events with a piece of text; whether the stream ended before."""
        count = 0
        async for block in self._rest:
            self.seen.append(block)
            count += block.count(b'"delta"')
            if count > tokens:
                return False
        return True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self.seen:
            yield self._shown(block)
        async for block in self._rest:
            yield self._shown(block)

    async def aclose(self) -> None:
        """Stop at once."""
        await self._stream.aclose()

    def _shown(self, block: bytes) -> bytes:
        if not self._quiet or b'"logprobs"' not in block:
            return block
        return b"".join([_quiet(event) + b"\n\n" for event in block.split(b"\n\n") if event])


def _quiet(event: bytes) -> bytes:
    """One event without logprobs."""
    head, colon, data = event.partition(_DATA)
    try:
        chunk = _without_logprobs(decoded(data))
    except (ValueError, RecursionError):
        return event
    return head + colon + b" " + msgspec.json.encode(chunk)


def silenced(reply: Whole) -> Whole:
    """A plain answer without logprobs."""
    return Whole(msgspec.json.encode(_without_logprobs(decoded(reply.body))), reply.report)


def _without_logprobs(said: Any) -> Any:
    """An answer or a chunk of a stream."""
    choices = said.get("choices") if isinstance(said, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            choice["logprobs"] = None
    return said
