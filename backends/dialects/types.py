"""What a protocol needs to be spoken over chat completions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Tree = dict[str, Any]


class Untranslatable(ValueError):
    """A field that chat completions cannot say. `param` is its path in the caller's request."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class Events(Protocol):
    """A stream on its way into another protocol: chat chunks in, whole SSE events out."""

    def take(self, chunk: Mapping[str, Any]) -> Iterable[bytes]:
        """The events that one chunk of the chat stream makes."""

    def end(self) -> Iterable[bytes]:
        """The events that close the stream, once the engine is done."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One protocol over chat completions."""

    to_chat: Callable[[Mapping[str, Any]], Tree]
    """The chat request for a request of this protocol. Raises: Untranslatable."""
    from_chat: Callable[[Mapping[str, Any], Mapping[str, Any]], Tree]
    """(the caller's request, a whole chat answer) -> a whole answer of this protocol."""
    id_of: Callable[[str], str]
    """The id of a chat answer -> the id that the client sees."""
    events: Callable[[Mapping[str, Any]], Events]
    """The caller's request -> what turns its chat stream into this protocol's events."""
