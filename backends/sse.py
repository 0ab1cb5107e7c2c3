"""An engine's answer on its way to the client: bytes through, usage and ids read in passing.

A stream is relayed in blocks of whole SSE events, as many as one socket read held. Nothing is parsed per token: a
block is searched for a few byte strings, and only an event that carries a usage object is decoded.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from backends.errors import BackendError, Failed
from backends.types import Request, Usage
from backends.usage import merged, usage_of
from backends.visible import visible_bytes, visible_streamed

_UNCOUNTED = 256  # blocks kept to be counted later
_LONGEST_EVENT_BYTES = 32 * 1024 * 1024
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_MODEL = re.compile(rb'"model": ?"((?:[^"\\]|\\.)*)"')
_ID = re.compile(rb'"id": ?"([^"\\]*)"')
_FINISH = re.compile(rb'_reason": ?"([^"\\]*)"')  # of finish_reason and stop_reason
_ERROR = re.compile(rb'(?:^|\n)data: ?\{"(?:error"|type": ?"error"|object": ?"error")')
_DONE = b"data: [DONE]\n\n"
_EVENT = re.compile(rb".*?\n\n", re.DOTALL)
_LAST = re.compile(rb"(?:^|\n)event: (?:message_stop|response\.(?:completed|incomplete|failed))\n")


_SKIMMED = (("id", _ID), ("model", _MODEL), ("reason", _FINISH))


class _Inner(msgspec.Struct):
    usage: Any = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    """What is read of a plain answer, or of an event that carries usage."""

    id: str | None = None
    model: str | None = None
    usage: Any = None
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
    complete = True

    def __init__(self, body: bytes, *, request: Request, backend: str, content_type: str = "application/json") -> None:
        try:
            answer = _read(body)
        except ValueError as problem:
            raise Failed(f"answered something that is no answer ({problem})", backend=backend) from problem
        if bytes(answer.error) not in {b"", b"null"}:
            raise Failed("answered an error under status 200", backend=backend)
        self.status = 200
        self.content_type = content_type
        self.usage = usage_of(answer.usage)
        self.response_id = answer.id
        self.finish_reason = _finish_reason(answer)
        self.body: bytes | None = _renamed(body, answer.model, request.answers_as)
        self._text, self._path = body, request.path

    @property
    def produced(self) -> int:
        """Bytes of text in the answer; counted when asked."""
        return visible_bytes(self._path, self._text)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.body is not None:
            yield self.body

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
        request: Request,
        backend: str,
        aclose: Callable[[], Awaitable[None]] | None = None,
        progressed: Callable[[], None] | None = None,
    ) -> None:
        self.usage: Usage | None = None
        self.failure: str | None = None
        self._produced = 0  # bytes of text, without those of …
        self._uncounted: list[bytes] = []  # … the latest blocks
        self.response_id: str | None = None
        self.finish_reason: str | None = None
        self._read = read
        self._close = close
        self._aclose = aclose  # for sources that can only be cut by awaiting
        self._progressed = progressed or _nobody  # is told of each read that held more than comments
        self._backend = backend
        self._request = request
        self._rename: tuple[bytes, bytes] | None = None
        self._tail = b""
        self._ready: deque[bytes] = deque()
        self.complete = False  # the engine said it was done
        self._said_done = False  # by [DONE], which nothing may follow
        self._shown_at_last = 0  # bytes of text in an event that repeats the whole answer
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
            if not self.complete:
                self.failure = str(problem)
        if self._over:
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
        """Bytes of text so far; counted when asked."""
        self._count()
        return max(self._produced, self._shown_at_last)

    def _count(self) -> None:
        self._produced += visible_streamed(self._request.path, b"".join(self._uncounted))
        self._uncounted.clear()

    def _meet(self, block: bytes) -> None:
        """Read from the first events what every event repeats."""
        found = _ID.search(block)
        self.response_id = found[1].decode() if found else None
        model = _MODEL.search(block)
        wanted = msgspec.json.encode(self._request.answers_as)
        if model is not None and b'"%b"' % model[1] != wanted:
            self._rename = (model[0], model[0].replace(b'"%b"' % model[1], wanted))

    def _pass(self, block: bytes) -> None:
        """Make ready what of a block goes to the client, in order."""
        if self._said_done or _DONE in block:
            block = self._until_done(block)
        if b"data:" in block:
            self._progressed()
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
            block = before + gap
        elif b"event: " in block and _LAST.search(block) is not None:
            self.complete = True
        if self._rename is not None:
            block = block.replace(*self._rename)
        if b'"usage"' in block and _USAGE.search(block) is not None:
            self._pass_usage(block)
        elif block:
            self._ready.append(block)

    def _until_done(self, block: bytes) -> bytes:
        """The block up to [DONE]: of what an engine sends after it only usage is read, and nothing is relayed."""
        cut = 0 if self._said_done else block.index(_DONE) + len(_DONE)
        rest, self._over = block[cut:], self._said_done
        self.complete = self._said_done = True
        for event in _EVENT.findall(rest):
            if _USAGE.search(event) is not None:
                self._read_usage(event)
        return block[:cut]

    def _pass_usage(self, block: bytes) -> None:
        others = b""
        for event in _EVENT.findall(block):
            if _USAGE.search(event) is None:
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
            answer = _read(data)
        except ValueError:
            return False
        said = answer.usage or _within(answer.message) or _within(answer.response)
        usage = usage_of(said)
        if usage is not None:
            self.usage = merged(usage, self.usage)
        if answer.response is not None:
            self._shown_at_last = visible_bytes(self._request.path, data)
        return answer.choices == []

    def _judge_end(self) -> None:
        if self._tail.strip():
            self.failure = "ended in the middle of an event"
        elif not self.complete and self.finish_reason is None:
            self.failure = "ended before the answer was complete"


def _read(data: bytes) -> _Answer:
    """What is read of an answer. Raises: ValueError where it is no JSON object."""
    try:
        try:
            return _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _read_leniently(data)
    except RecursionError:  # brackets in brackets, which no decoder follows: what is needed is found without one
        return _skimmed(data)


def _skimmed(data: bytes) -> _Answer:
    if not (data.lstrip().startswith(b"{") and data.rstrip().endswith(b"}")):
        raise ValueError("it is no object")
    found = {name: match[1].decode(errors="replace") for name, key in _SKIMMED if (match := key.search(data))}
    return _Answer(found.get("id"), found.get("model"), stop_reason=found.get("reason"))


def _read_leniently(data: bytes) -> _Answer:
    """The same of what Python engines send where a number is none (NaN), or a field is not of its usual type."""
    said = json.loads(data, parse_int=_integer)
    if not isinstance(said, dict):
        raise ValueError("it is no object")
    choices, texts = said.get("choices"), {}
    for name in ("id", "model", "stop_reason", "status"):
        texts[name] = found if isinstance(found := said.get(name), str) else None
    reasons = [each.get("finish_reason") for each in choices or () if isinstance(each, dict)]
    return _Answer(
        **texts,
        usage=said.get("usage"),
        choices=[_Choice(why if isinstance(why, str) else None) for why in reasons] if choices is not None else None,
        message=_Inner(_usage_in(said.get("message"))),
        response=_Inner(_usage_in(said["response"])) if isinstance(said.get("response"), dict) else None,
        error=msgspec.Raw(b"" if said.get("error") is None else b"{}"),
    )


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 30 else float("inf")


def _usage_in(said: object) -> object:
    return said.get("usage") if isinstance(said, dict) else None


def _finish_reason(answer: _Answer) -> str | None:
    if answer.choices:
        return answer.choices[0].finish_reason
    return answer.stop_reason or answer.status


def _within(inner: _Inner | None) -> object:
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


def _nobody() -> None:
    """Nobody waits."""
