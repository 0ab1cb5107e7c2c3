"""A backend that answers from a script: a public fake with failures to order, for tests, demos and benchmarks.

`Scripted` answers in this process; `benchmarks/scripted_server.py` says the same words over real HTTP.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from backends.errors import Cut, Failed, Overloaded, Refused, TimedOut, Unreachable
from backends.openai import decoded
from backends.sse import EventStream
from backends.types import Reply, Request
from backends.whole import whole

Trouble = Literal["hang", "reset", "half chunk", "error event", "500", "html", "garbage", "busy", "refuse", "down"]
"""What goes wrong: the first four may come after `trouble_after` pieces of a stream, the others come at once.
"down" refuses connections in process and cuts them over HTTP."""


@dataclass(frozen=True, slots=True)
class Line:
    """One answer of a script. Delays in seconds."""

    text: str = "All is well."
    prompt_tokens: int | None = None  # None: words of the prompt
    completion_tokens: int | None = None  # None: words of the text
    reports_usage: bool = True
    usage: object = None  # reported in place of the honest usage: what JSON can hold, or its bytes
    verbatim: tuple[bytes, ...] = ()  # the whole answer as it leaves: a body, or the pieces of a stream
    finish_reason: str = "stop"
    delay_s: float = 0.0  # before the first byte
    piece_delay_s: float = 0.0  # between pieces of a stream
    trouble: Trouble | None = None
    trouble_after: int = 0  # pieces of a stream that still arrive
    retry_after_s: float | None = None  # with "busy"
    message: Mapping[str, object] | None = None  # laid over the answer's message, e.g. tool_calls
    fields: Mapping[str, object] | None = None  # vendor fields laid over the answer and every chunk


Script = Callable[[str, Mapping[str, Any]], Line]
"""The model asked for and the request's body, to a line."""


def always(line: Line) -> Script:
    """The same line every time."""
    return lambda _model, _body: line


def in_turn(lines: Sequence[Line]) -> Script:
    """One line after another, then the last for ever."""
    left: Iterator[Line] = itertools.chain(lines, itertools.repeat(lines[-1]))
    return lambda _model, _body: next(left)


def by_model(lines: Mapping[str, Line]) -> Script:
    """A line for each model's upstream name."""
    return lambda model, _body: lines[model]


class Scripted:
    """A Backend that says its lines. `sent` keeps every body it was asked with, `aborted` counts streams cut short."""

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        patience_s: float = 60.0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.up = True
        self.aborted = 0
        self.sent: list[Mapping[str, Any]] = []
        self._script = script
        self._patience_s = patience_s
        self._sleep = sleep
        self._numbers = itertools.count(1)

    async def send(self, request: Request) -> Reply:
        """Raises: what the line's trouble is over HTTP."""
        body = decoded(request.fields, backend=self.name)
        self.sent.append({**body, "model": request.model, **request.extra})
        line = self._script(request.model, body)
        if line.delay_s:
            await self._sleep(line.delay_s)
        if line.trouble is not None and (line.trouble_after == 0 or not request.stream):
            await self._fail(line)
        answer_id = f"chatcmpl-{self.name}-{next(self._numbers)}"
        if not request.stream:
            body_of_it = plain_answer(line, model=request.model, body=body, path=request.path, answer_id=answer_id)
            return whole(body_of_it, request=request, backend=self.name)
        return await self._stream(request, line, list(events(line, request.model, body, request.path, answer_id)))

    async def ping(self) -> bool:
        """Whatever `up` was set to."""
        return self.up

    async def aclose(self) -> None:
        """Nothing to release."""

    async def _stream(self, request: Request, line: Line, pieces: list[bytes]) -> Reply:
        left = iter(pieces if line.trouble is None else pieces[: line.trouble_after])
        done = False

        async def read() -> bytes:
            nonlocal done
            if line.piece_delay_s:
                await self._sleep(line.piece_delay_s)
            piece = next(left, b"")
            if not piece and line.trouble is not None:
                await self._break(line.trouble)
            done = done or not piece
            return piece

        def close() -> None:
            nonlocal done
            self.aborted += not done
            done = True

        reply = EventStream(read, close, request=request, backend=self.name)
        await reply.start(read)
        return reply

    async def _fail(self, line: Line) -> None:
        match line.trouble:
            case "hang":
                await self._sleep(self._patience_s)
                raise TimedOut(f"sent nothing for {self._patience_s:g} s", backend=self.name)
            case "busy":
                raise Overloaded(
                    "answered 429: busy", backend=self.name, retry_after_s=line.retry_after_s, limited=True
                )
            case "refuse":
                raise Refused("answered 400: refused", backend=self.name, status=400, body=REFUSAL)
            case "reset":
                raise Cut("closed the connection", backend=self.name)
            case "down":
                raise Unreachable("no connection", backend=self.name)
            case trouble:
                raise Failed(f"answered {trouble}", backend=self.name)

    async def _break(self, trouble: Trouble) -> None:
        if trouble == "hang":
            await self._sleep(self._patience_s)
            raise TimedOut(f"sent nothing for {self._patience_s:g} s", backend=self.name)
        raise Cut("closed the connection in the middle of an answer", backend=self.name)


REFUSAL = b'{"error":{"message":"The script refuses this.","type":"BadRequestError","param":null,"code":400}}'


def plain_answer(line: Line, *, model: str, body: Mapping[str, Any], path: str, answer_id: str) -> bytes:
    """A whole answer as the path's API writes it; embeddings are one small vector for each input."""
    if line.verbatim:
        return b"".join(line.verbatim)
    usage = _usage(line, body)
    if path == "/v1/embeddings":
        return _embeddings(model, body, usage)
    head: dict[str, object] = {"id": answer_id, "object": "chat.completion", "created": 1_700_000_000, "model": model}
    choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": line.finish_reason}
    if path == "/v1/completions":
        head["object"], choice["text"] = "text_completion", line.text
    else:
        choice["message"] = {"role": "assistant", "content": line.text, "refusal": None, **(line.message or {})}
    tail = {"usage": usage} if line.reports_usage else {}
    return msgspec.json.encode({**head, "choices": [choice], **tail, **(line.fields or {})})


def events(line: Line, model: str, body: Mapping[str, Any], path: str, answer_id: str) -> Iterator[bytes]:
    """The same answer as SSE events, one for each word, then the finish, usage if asked for, and [DONE]."""
    if line.verbatim:
        yield from line.verbatim
        return
    chat = path != "/v1/completions"
    head: dict[str, object] = {
        "id": answer_id,
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": 1_700_000_000,
        "model": model,
        **(line.fields or {}),
    }
    for piece in pieces_of(line.text):
        part: dict[str, object] = {"delta": {"content": piece}} if chat else {"text": piece}
        yield event({**head, "choices": [{"index": 0, **part, "logprobs": None, "finish_reason": None}]})
    last: dict[str, object] = {"delta": dict(line.message or {})} if chat else {"text": ""}
    yield event({**head, "choices": [{"index": 0, **last, "logprobs": None, "finish_reason": line.finish_reason}]})
    if line.reports_usage:
        yield event({**head, "choices": [], "usage": _usage(line, body)})
    yield b"data: [DONE]\n\n"


def event(content: Mapping[str, object]) -> bytes:
    """One SSE event."""
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def pieces_of(text: str) -> list[str]:
    """Words with the space before them: what a stream sends one by one."""
    return [word if number == 0 else f" {word}" for number, word in enumerate(text.split(" "))]


def _usage(line: Line, body: Mapping[str, Any]) -> object:
    if line.usage is not None:
        return msgspec.Raw(line.usage) if isinstance(line.usage, bytes) else line.usage
    asked = body.get("messages") or body.get("prompt") or body.get("input") or ""
    prompt = len(str(asked).split()) if line.prompt_tokens is None else line.prompt_tokens
    completion = len(line.text.split()) if line.completion_tokens is None else line.completion_tokens
    if "input" in body:  # embeddings
        return {"prompt_tokens": prompt, "total_tokens": prompt}
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def _embeddings(model: str, body: Mapping[str, Any], usage: object) -> bytes:
    asked = body.get("input", "")
    texts = asked if isinstance(asked, list) else [asked]
    data = [
        {"object": "embedding", "index": number, "embedding": [1.0, float(len(str(text))), 0.0]}
        for number, text in enumerate(texts)
    ]
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})
