"""An engine's answer on its way to the client: bytes through, usage and ids read in passing.

A stream is relayed in blocks of whole SSE events, as many as one socket read held. Nothing is parsed per token: a
block is searched for a few byte strings, and only an event that carries a usage object is decoded.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from backends.errors import BackendError, Failed
from backends.types import Report, Request
from backends.usage import merged, usage_of
from backends.visible import ShownText
from backends.whole import FINISH, ID, MODEL, mended, read

_LONGEST_EVENT_BYTES = 32 * 1024 * 1024
_SEAM = 3  # bytes of an event's end, \r\n\r\n, that may have come before its last
_BOM = b"\xef\xbb\xbf"
USAGE = re.compile(rb'"usage"\s*:\s*\{')  # an object: some send `null` in every event before it
_ERROR = re.compile(rb'(?:^|\n)data: ?\{"(?:error"|type": ?"error"|object": ?"error")')
DONE = b"data: [DONE]\n\n"
_EVENT = re.compile(rb".*?\n\n", re.DOTALL)
_LAST = re.compile(rb"(?:^|\n)event: (?:message_stop|response\.(?:completed|incomplete|failed))\n")


class EventStream:
    """A Stream in whole SSE events.

    The usage event is a block of its own: where the report's usage changes with a block, that block is this event.
    `start` has to be awaited once, before the first iteration.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        close: Callable[[], None],
        *,
        request: Request,
        backend: str,
        aclose: Callable[[], Awaitable[None]] | None = None,
        progressed: Callable[[], None] | None = None,
    ) -> None:
        self.report = Report(shown=ShownText(request.path))
        self._read = read
        self._close = close
        self._aclose = aclose  # for sources that can only be cut by awaiting
        self._progressed = progressed or _nobody  # is told of each read that held more than comments
        self._backend = backend
        self._request = request
        self._rename: tuple[bytes, bytes] | None = None
        self._held: list[bytes] = []  # of an event whose end has not come …
        self._held_bytes = 0
        self._seam = b""  # … and its last bytes: the end may lie across two reads
        self._ready: deque[bytes] = deque()
        self._said_done = False  # by [DONE], which nothing may follow
        self._over = False  # nothing more will be read

    async def start(self, read: Callable[[], Awaitable[bytes]]) -> None:
        """Wait for the first whole event, with a reader of its own patience.

        Raises: Failed where it is an error or none comes, and what reading raises.
        """
        try:
            first = await self._first(read)
            error = _ERROR.search(first)
            if error is not None and b"data:" not in first[: error.start()]:
                raise Failed(f"began with an error: {_shown(first[error.start() :])}", backend=self._backend)
        except BaseException:
            self._close()
            raise
        self._pass(first)

    async def _first(self, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """All up to the first block that holds more than comments: they keep a connection warm, and are no answer."""
        parts, size = [b""], 0
        while b"data:" not in parts[-1]:
            data = await read()
            if not data:
                raise Failed("ended a stream before its first event", backend=self._backend)
            parts.append(self._whole(data))
            size += len(parts[-1])
            self._bounded(size)
        return b"".join(parts).removeprefix(_BOM)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            await self._advance()
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Stop at once: an engine still generating is cut off. Idempotent."""
        self._over = True
        self._close()
        if self._aclose is not None:
            await self._aclose()

    async def _advance(self) -> None:
        try:
            data = await self._read()
            if data:
                self._pass(self._whole(data))
            else:
                self._judge_end()
                self._over = True
        except BackendError as problem:
            self._over = True
            if not self.report.complete:
                self.report.failure = str(problem)
        if self._over:
            self._close()

    def _whole(self, data: bytes) -> bytes:
        """The whole events so far; the rest waits for the next read."""
        seam = self._seam + data
        if b"\n\n" not in seam and b"\n\r\n" not in seam:
            self._hold(data, seam)
            return b""
        if self._held:
            data = b"".join((*self._held, data))
            self._held.clear()
            self._held_bytes = 0
        if b"\r" in data:  # sse-starlette ends its lines with CRLF; JSON never holds a bare CR
            data = data.replace(b"\r\n", b"\n")
        cut = data.rfind(b"\n\n") + 2
        rest = data[cut:]
        self._seam = rest[-_SEAM:]
        if rest:
            self._hold(rest, rest)
        return mended(data[:cut])

    def _hold(self, data: bytes, seam: bytes) -> None:
        """Keep what ends no event: it is joined once, however many reads it takes. Raises: Failed."""
        self._held.append(data)
        self._held_bytes += len(data)
        self._seam = seam[-_SEAM:]
        self._bounded(self._held_bytes)

    def _bounded(self, size: int) -> None:
        if size > _LONGEST_EVENT_BYTES:
            raise Failed(f"sent an event of more than {_LONGEST_EVENT_BYTES} bytes", backend=self._backend)

    def _meet(self, block: bytes) -> None:
        """Read from the first events what every event repeats."""
        found = ID.search(block)
        self.report.response_id = found[1].decode(errors="replace") if found else None
        model = MODEL.search(block)
        wanted = msgspec.json.encode(self._request.answers_as)
        if model is not None and b'"%b"' % model[1] != wanted:
            self._rename = (model[0], model[0].replace(b'"%b"' % model[1], wanted))

    def _pass(self, block: bytes) -> None:
        """Make ready what of a block goes to the client, in order."""
        if self._said_done or DONE in block:
            block = self._until_done(block)
        if b"data:" in block:
            self._progressed()
        if self.report.response_id is None:
            self._meet(block)
        self.report.shown.add(block)
        if (b'_reason":"' in block or b'_reason": "' in block) and (finish := FINISH.search(block)) is not None:
            self.report.finish_reason = finish[1].decode(errors="replace")
        if b'rror"' in block and (error := _ERROR.search(block)) is not None:
            self.report.failure, self._over = f"broke off with an error: {_shown(block[error.start() :])}", True
            before, gap, _ = block[: error.start() + 1].rpartition(b"\n\n")
            block = before + gap
        elif b"event: " in block and _LAST.search(block) is not None:
            self.report.complete = True
        if self._rename is not None:
            block = block.replace(*self._rename)
        if b'"usage"' in block and USAGE.search(block) is not None:
            self._pass_usage(block)
        elif block:
            self._ready.append(block)

    def _until_done(self, block: bytes) -> bytes:
        """The block up to [DONE]: of what an engine sends after it only usage is read, and nothing is relayed."""
        cut = 0 if self._said_done else block.index(DONE) + len(DONE)
        rest, self._over = block[cut:], self._said_done
        self.report.complete = self._said_done = True
        for event in _EVENT.findall(rest):
            if USAGE.search(event) is not None:
                self._read_usage(event)
        return block[:cut]

    def _pass_usage(self, block: bytes) -> None:
        others = b""
        for event in _EVENT.findall(block):
            if USAGE.search(event) is None:
                others += event
                continue
            alone = self._read_usage(event)
            if others:
                self._ready.append(others)
                others = b""
            if self._request.wants_usage or not alone:
                self._ready.append(event)
        if others:
            self._ready.append(others)

    def _read_usage(self, event: bytes) -> bool:
        """Whether the event is there for its usage alone, as `include_usage` makes it."""
        data = event[event.find(b"data:") + 5 :]
        try:
            said = read(data)
        except ValueError:
            return False
        teller = said if said.usage else said.message or said.response or said
        usage = usage_of(teller.usage, teller.service_tier)
        if usage is not None:
            self.report.usage = merged(usage, self.report.usage)
        if said.response is not None:
            self.report.shown.repeat(data)
        return said.choices == []

    def _judge_end(self) -> None:
        if b"".join(self._held).strip():
            self.report.failure = "ended in the middle of an event"
        elif not self.report.complete and self.report.finish_reason is None:
            self.report.failure = "ended before the answer was complete"


def _shown(event: bytes) -> str:
    return event.strip()[:300].decode("utf-8", errors="replace")


def _nobody() -> None:
    """Nobody waits."""
