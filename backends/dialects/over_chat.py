"""Sends requests of another protocol to a model that only speaks chat completions, and brings its answers back.

How it fails: what chat completions cannot say is UnsupportedRequest, before anything is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from backends.dialects.chat import first_choice
from backends.dialects.types import Dialect, Events, Untranslatable
from backends.errors import Failed, Refused, UnsupportedRequest
from backends.types import Reply, Report, Request, Stream, Whole
from backends.whole import decoded

CHAT = "/v1/chat/completions"
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # of an answer that is none
_CODE = "unsupported"  # what this model cannot be asked, and another one may


class Sender(Protocol):
    """What sends requests: the first method of a Backend."""

    async def send(self, request: Request) -> Reply:
        """See Backend.send."""


async def send_over_chat(sender: Sender, request: Request, dialect: Dialect) -> Reply:
    """As Backend.send. Raises: BackendError."""
    asked = {key: msgspec.json.decode(value) for key, value in request.fields.items()}
    fields = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in _chat(asked, dialect, request).items()}
    asked["model"] = request.answers_as  # whatever the engine calls itself
    reply = await sender.send(msgspec.structs.replace(request, path=CHAT, fields=fields, wants_usage=True))
    if isinstance(reply, Whole):
        return _translated(reply, asked, dialect, request.model)
    return TranslatedStream(reply, asked, dialect)


def _chat(asked: Mapping[str, Any], dialect: Dialect, request: Request) -> dict[str, Any]:
    try:
        return dialect.to_chat(asked)
    except Untranslatable as problem:
        said, param = str(problem), problem.param
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        said, param = f"the request is not as {request.path} wants it: {type(problem).__name__} {problem}", None
    error = {"message": said, "type": "invalid_request_error", "param": param, "code": _CODE}
    kind = UnsupportedRequest if param is not None else Refused
    raise kind(said, backend=request.model, status=400, body=msgspec.json.encode({"error": error}))


def _translated(chat: Whole, asked: Mapping[str, Any], dialect: Dialect, backend: str) -> Whole:
    try:
        said = decoded(chat.body)
        if not isinstance(first_choice(said).get("message"), Mapping):
            raise ValueError("there is no message")
        answer = dialect.from_chat(asked, said)
    except UNREADABLE as problem:
        raise Failed(f"answered something that cannot be translated ({problem})", backend=backend) from problem
    return Whole(msgspec.json.encode(answer), replace(chat.report, response_id=answer["id"]))


class TranslatedStream:
    """A chat stream in another protocol. See Stream."""

    def __init__(self, chat: Stream, asked: Mapping[str, Any], dialect: Dialect) -> None:
        self._chat = chat
        self._events: Events = dialect.events(asked)
        self._dialect = dialect
        self._is_named = False  # the report by the id that the client sees

    @property
    def report(self) -> Report:
        """The engine's own, with the id that the client sees."""
        found = self._chat.report
        if found.response_id and not self._is_named:
            found.response_id, self._is_named = self._dialect.id_of(found.response_id), True
        return found

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for block in self._chat:
            if block.startswith(b":"):  # a comment alone, which every protocol's readers skip
                yield block
            try:
                events = b"".join([event for chunk in _chunks(block) for event in self._events.take(chunk)])
            except UNREADABLE as problem:
                self._chat.report.failure = f"sent something that cannot be translated ({problem})"
                return
            if events:
                yield events
        if self._chat.report.failure is None:
            yield b"".join(self._events.end())

    async def aclose(self) -> None:
        """Stop at once."""
        await self._chat.aclose()


def _chunks(block: bytes) -> list[Mapping[str, Any]]:
    """The chat chunks in a block of whole events; what is no JSON object is left out."""
    found = []
    for line in block.split(b"\n"):
        if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
            try:
                chunk = decoded(line[5:])
            except (ValueError, RecursionError):
                continue
            if isinstance(chunk, Mapping):
                found.append(chunk)
    return found
