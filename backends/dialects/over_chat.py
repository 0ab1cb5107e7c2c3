"""Sends requests of another protocol to a model that only speaks chat completions, and brings its answers back.

How it fails: what chat completions cannot say is Unsupported, before anything is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec

from backends.dialects.types import Dialect, Events, Untranslatable
from backends.errors import Refused, Unsupported
from backends.types import Reply, Request, Usage

CHAT = "/v1/chat/completions"
_CODE = "unsupported"  # what this model cannot be asked, and another one may


class Sender(Protocol):
    """What sends requests: the first method of a Backend."""

    async def send(self, request: Request) -> Reply:
        """See Backend.send."""


async def send_over_chat(sender: Sender, request: Request, dialect: Dialect) -> Reply:
    """As Backend.send. Raises: BackendError."""
    asked = {key: msgspec.json.decode(value) for key, value in request.fields.items()}
    fields = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in _chat(asked, dialect, request).items()}
    reply = await sender.send(msgspec.structs.replace(request, path=CHAT, fields=fields, wants_usage=True))
    return TranslatedReply(reply, asked, dialect)


def _chat(asked: Mapping[str, Any], dialect: Dialect, request: Request) -> dict[str, Any]:
    try:
        return dialect.to_chat(asked)
    except Untranslatable as problem:
        said, param = str(problem), problem.param
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        said, param = f"the request is not as {request.path} wants it: {type(problem).__name__} {problem}", None
    error = {"message": said, "type": "invalid_request_error", "param": param, "code": _CODE}
    kind = Unsupported if param is not None else Refused
    raise kind(said, backend=request.model, status=400, body=msgspec.json.encode({"error": error}))


class TranslatedReply:
    """A chat reply in another protocol. See Reply."""

    def __init__(self, reply: Reply, asked: Mapping[str, Any], dialect: Dialect) -> None:
        self._reply = reply
        self._events: Events = dialect.events(asked)
        self._dialect = dialect
        self.status = reply.status
        self.content_type = reply.content_type
        self.body: bytes | None = None
        self._id: str | None = None
        if reply.body is not None:
            whole = dialect.from_chat(asked, msgspec.json.decode(reply.body))
            self.body, self._id = msgspec.json.encode(whole), whole["id"]

    @property
    def usage(self) -> Usage | None:
        """As the engine reported it."""
        return self._reply.usage

    @property
    def failure(self) -> str | None:
        """What broke the answer midway."""
        return self._reply.failure

    @property
    def produced(self) -> int:
        """UTF-8 bytes of answer text relayed so far."""
        return self._reply.produced

    @property
    def complete(self) -> bool:
        """Whether the engine said that its answer was whole."""
        return self._reply.complete

    @property
    def response_id(self) -> str | None:
        """As the client sees it."""
        found = self._reply.response_id
        return self._id or (None if found is None else self._dialect.id_of(found))

    @property
    def finish_reason(self) -> str | None:
        """As the engine gave it."""
        return self._reply.finish_reason

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.body is not None:
            yield self.body
            return
        async for block in self._reply:
            if events := b"".join([event for chunk in _chunks(block) for event in self._events.take(chunk)]):
                yield events
        if self._reply.failure is None:
            yield b"".join(self._events.end())

    async def aclose(self) -> None:
        """Stop at once."""
        await self._reply.aclose()


def _chunks(block: bytes) -> list[Mapping[str, Any]]:
    """The chat chunks in a block of whole events; what is no JSON object is left out."""
    found = []
    for line in block.split(b"\n"):
        if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
            try:
                chunk = msgspec.json.decode(line[5:])
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if isinstance(chunk, Mapping):
                found.append(chunk)
    return found
