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
from backends.types import Usage

Sink = Callable[[bytes], bool]
_UNCOUNTED = 256  # blocks kept to be counted later
_LONGEST_EVENT_BYTES = 32 * 1024 * 1024
_USAGE = re.compile(rb'"usage": ?\{')
_MODEL = re.compile(rb'"model": ?"((?:[^"\\]|\\.)*)"')
_ID = re.compile(rb'"id": ?"([^"\\]*)"')
_FINISH = re.compile(rb'_reason": ?"([^"\\]*)"')  # of finish_reason and stop_reason
_TEXT = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|refusal|arguments|thinking|partial_json)": ?"((?:[^"\\]|\\.)*)"'
)
_ERROR = re.compile(rb'(?:^|\n)data: ?\{"(?:error"|type": ?"error"|object": ?"error")')
_DONE = b"data: [DONE]\n"
_LAST = re.compile(rb"(?:^|\n)event: (?:message_stop|response\.(?:completed|incomplete|failed))\n")


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    """The three dialects of usage: chat and completions, responses, messages."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    def tokens(self) -> Usage:
        """In one dialect. Anthropic counts cached input beside `input_tokens`, the others within it."""
        details = self.prompt_tokens_details or self.input_tokens_details
        beside = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return Usage(
            prompt_tokens=(self.prompt_tokens or self.input_tokens or 0) + beside,
            completion_tokens=self.completion_tokens or self.output_tokens or 0,
            cached_tokens=(details.cached_tokens if details else None) or self.cache_read_input_tokens or 0,
        )


class _Inner(msgspec.Struct):
    usage: _Usage | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    """What is read of a plain answer, or of an event that carries usage."""

    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None
    choices: list[_Choice] | None = None
    stop_reason: str | None = None
    status: str | None = None
    message: _Inner | None = None  # message_start
    response: _Inner | None = None  # response.completed
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Answer).decode


class PlainReply:
    """An answer that came whole. Raises (on construction): Failed where it is no JSON object or holds an error."""

    failure: str | None = None

    def __init__(self, body: bytes, *, backend: str, answers_as: str, content_type: str = "application/json") -> None:
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise Failed(f"answered something that is no answer ({problem})", backend=backend) from problem
        if bytes(answer.error) not in {b"", b"null"}:
            raise Failed("answered an error under status 200", backend=backend)
        self.status = 200
        self.content_type = content_type
        self.usage = answer.usage.tokens() if answer.usage else None
        self.response_id = answer.id
        self.finish_reason = _finish_reason(answer)
        self.body: bytes | None = _renamed(body, answer.model, answers_as)
        self._text = body

    @property
    def produced(self) -> int:
        """Characters of text in the answer; counted only when asked, which billing does where usage is missing."""
        return characters(self._text)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.body is not None:
            yield self.body

    async def pour(self, sink: Sink) -> None:
        """It came whole."""

    async def aclose(self) -> None:
        """Nothing is left to stop."""


class StreamReply:
    """A stream in whole SSE events.

    The usage event is a block of its own: where `usage` turns from None after a block, that block is this event.
    `start` has to be awaited once, before the first iteration.
    """

    status = 200
    content_type = "text/event-stream"
    body: bytes | None = None

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        close: Callable[[], None],
        *,
        backend: str,
        answers_as: str,
        wants_usage: bool,
        aclose: Callable[[], Awaitable[None]] | None = None,
        pour: Callable[[Sink], Awaitable[None]] | None = None,
    ) -> None:
        self.usage: Usage | None = None
        self.failure: str | None = None
        self._produced = 0  # characters of text, without those of …
        self._uncounted: list[bytes] = []  # … the latest blocks
        self.response_id: str | None = None
        self.finish_reason: str | None = None
        self._read = read
        self._close = close
        self._pour = pour  # for sources that can push
        self._sink: Sink | None = None  # where what is poured goes
        self._aclose = aclose  # for sources that can only be cut by awaiting
        self._backend = backend
        self._answers_as = answers_as
        self._wants_usage = wants_usage
        self._rename: tuple[bytes, bytes] | None = None
        self._tail = b""
        self._ready: deque[bytes] = deque()
        self._complete = False  # the engine said it was done
        self._over = False  # nothing more will be read

    async def start(self, read: Callable[[], Awaitable[bytes]]) -> None:
        """Wait for the first whole event, with a reader of its own patience.

        Raises: Failed where it is an error or none comes, and what reading raises.
        """
        first = b""
        try:
            while b"data:" not in first:  # comments keep a connection warm, they are no answer
                data = await read()
                if not data:
                    raise Failed("ended a stream before its first event", backend=self._backend)
                first += self._whole(data)
            error = _ERROR.search(first)
            if error is not None and b"data:" not in first[: error.start()]:
                raise Failed(f"began with an error: {_shown(first[error.start() :])}", backend=self._backend)
        except BaseException:
            self._close()
            raise
        self._pass(first)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            await self._advance()
        return self._ready.popleft()

    async def pour(self, sink: Sink) -> None:
        """Hand blocks to `sink` the moment they come, as long as they need no more than that and it says True."""
        if self._pour is None or self._ready or self._over:
            return
        self._sink = sink
        try:
            await self._pour(self._arrive)
        except BackendError as problem:
            self._break_off(problem)

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
            self._break_off(problem)
        if self._over:
            self._close()

    def _arrive(self, data: bytes) -> bool:
        """Take in what was pushed; whether that was all plain and the sink wants more."""
        try:
            plain = self._pass(self._whole(data))
        except BackendError as problem:
            self._break_off(problem)
            return False
        if not plain or self._sink is None:
            return False
        return not self._ready or self._sink(self._ready.popleft())

    def _break_off(self, problem: BackendError) -> None:
        self._over = True
        if not self._complete:
            self.failure = str(problem)
        self._close()

    def _whole(self, data: bytes) -> bytes:
        """The whole events so far; the rest waits for the next read."""
        if self._tail:
            data = self._tail + data
        if b"\r" in data:  # sse-starlette ends its lines with CRLF; JSON never holds a bare CR
            data = data.replace(b"\r\n", b"\n")
        cut = data.rfind(b"\n\n") + 2
        if cut == len(data):
            self._tail = b""
            return data
        if cut < 2:
            cut = 0
        self._tail = data[cut:]
        if len(self._tail) > _LONGEST_EVENT_BYTES:
            raise Failed(f"sent an event of more than {_LONGEST_EVENT_BYTES} bytes", backend=self._backend)
        return data[:cut]

    @property
    def produced(self) -> int:
        """Characters of text so far; counted when asked, which billing does where usage is missing."""
        self._count()
        return self._produced

    def _count(self) -> None:
        self._produced += characters(b"".join(self._uncounted))
        self._uncounted.clear()

    def _meet(self, block: bytes) -> None:
        """Read from the first events what every event repeats."""
        found = _ID.search(block)
        self.response_id = found[1].decode() if found else None
        model = _MODEL.search(block)
        wanted = msgspec.json.encode(self._answers_as)
        if model is not None and b'"%b"' % model[1] != wanted:
            self._rename = (model[0], model[0].replace(b'"%b"' % model[1], wanted))

    def _pass(self, block: bytes) -> bool:
        """Make ready what of a block goes to the client, in order; whether it needs no more than to be relayed."""
        plain = True
        if self.response_id is None:
            self._meet(block)
        self._uncounted.append(block)
        if len(self._uncounted) > _UNCOUNTED:
            self._count()
        if (b'_reason":"' in block or b'_reason": "' in block) and (finish := _FINISH.search(block)) is not None:
            self.finish_reason = finish[1].decode()
        if b'rror"' in block and (error := _ERROR.search(block)) is not None:
            self.failure, self._over = f"broke off with an error: {_shown(block[error.start() :])}", True
            before, gap, _ = block[: error.start() + 1].rpartition(b"\n\n")
            block, plain = before + gap, False
        elif _DONE in block or (b"event: " in block and _LAST.search(block) is not None):
            self._complete, plain = True, False
        if self._rename is not None:
            block = block.replace(*self._rename)
        if b'"usage"' in block and _USAGE.search(block) is not None:
            self._pass_usage(block)
            return False
        if block:
            self._ready.append(block)
        return plain

    def _pass_usage(self, block: bytes) -> None:
        others = b""
        for event in re.findall(rb".*?\n\n", block, re.DOTALL):
            if _USAGE.search(event) is None:
                others += event
                continue
            alone = self._read_usage(event)
            if others:
                self._ready.append(others)
                others = b""
            if self._wants_usage or not alone:
                self._ready.append(event)
        if others:
            self._ready.append(others)

    def _read_usage(self, event: bytes) -> bool:
        """Whether the event is there for its usage alone, as `include_usage` makes it."""
        start = event.find(b"data:") + 5
        try:
            answer = _decode(event[start:])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        counted = answer.usage or _within(answer.message) or _within(answer.response)
        if counted is not None:
            new, old = counted.tokens(), self.usage or Usage(0, 0)
            self.usage = Usage(  # messages reports the prompt first and the completion last
                max(new.prompt_tokens, old.prompt_tokens),
                max(new.completion_tokens, old.completion_tokens),
                max(new.cached_tokens, old.cached_tokens),
            )
        return answer.choices == []

    def _judge_end(self) -> None:
        if self._tail.strip():
            self.failure = "ended in the middle of an event"
        elif not self._complete and self.finish_reason is None:
            self.failure = "ended before the answer was complete"


def characters(body: bytes) -> int:
    """Characters of answer text in a JSON body or a block of events, found without parsing it."""
    return sum(_length(text) for text in _TEXT.findall(body))


def _length(text: bytes) -> int:
    if text.isascii() and b"\\" not in text:
        return len(text)
    try:
        return len(msgspec.json.decode(b'"%b"' % text, type=str))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return len(text)


def _finish_reason(answer: _Answer) -> str | None:
    if answer.choices:
        return answer.choices[0].finish_reason
    return answer.stop_reason or answer.status


def _within(inner: _Inner | None) -> _Usage | None:
    return inner.usage if inner is not None else None


def _renamed(body: bytes, model: str | None, answers_as: str) -> bytes:
    if model is None or model == answers_as:
        return body
    old, new = msgspec.json.encode(model), msgspec.json.encode(answers_as)
    for colon in (b'"model":', b'"model": '):
        if colon + old in body:
            return body.replace(colon + old, colon + new, 1)
    return body


def _shown(event: bytes) -> str:
    return event.strip()[:300].decode("utf-8", errors="replace")
