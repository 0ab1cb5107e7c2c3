"""Messages and their parts: what the user said last, and what is in them beside text. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from router.errors import InvalidRequest

_ABSENT = msgspec.Raw()  # msgspec reads no `Raw | None`
_IMAGES = ("image_url", "image", "input_image")
_WORDS = """text input_text output_text summary_text reasoning_text refusal thinking redacted_thinking reasoning message
tool_use tool_result tool_call function_call function_call_output custom_tool_call custom_tool_call_output"""
_TEXTS = frozenset(_WORDS.split())


class ContentPart(msgspec.Struct):
    """A part of a message, as far as it matters here."""

    type: str = "text"
    text: str | None = None
    content: Any = None  # of a tool's result
    image_url: msgspec.Raw = _ABSENT
    source: msgspec.Raw = _ABSENT


class Message(msgspec.Struct):
    """A message of chat or of Anthropic's API."""

    role: str = "user"
    content: str | list[ContentPart | str] | None = None


class Seen(msgspec.Struct):
    """What is in the parts of messages beside text."""

    images: int = 0
    image_bytes: int = 0  # of their data or addresses
    unforeseen: str = ""  # the first part of which nobody knows how many tokens it is

    @property
    def features(self) -> frozenset[str]:
        """What these parts ask of a model: see router.gateway.abilities."""
        if self is NOTHING_SEEN:
            return _NO_FEATURES
        audio = "audio" in self.unforeseen
        other = {"audio"} if audio else {"files"} if self.unforeseen else set()
        return frozenset(other | ({"images"} if self.images else set()))


_NO_FEATURES: frozenset[str] = frozenset()
NOTHING_SEEN = Seen()


def unescaped(body: bytes) -> bytes:
    """The body as an engine reads it, to measure: é, which a client may send as six bytes of ASCII, is two."""
    if b"\\u" not in body:
        return body
    try:
        return msgspec.json.encode(msgspec.json.decode(body))
    except (ValueError, OverflowError, RecursionError):  # whoever reads its fields says what is wrong
        return body


def look_through(messages: list[Message]) -> Seen:
    """Look through the parts. Raises: InvalidRequest where there is nothing to answer."""
    if not messages:
        raise InvalidRequest("messages is empty; send at least one message", param="messages")
    seen = NOTHING_SEEN
    for message in messages:
        if isinstance(message.content, list):
            seen = Seen() if seen is NOTHING_SEEN else seen
            for part in message.content:
                if isinstance(part, ContentPart):
                    _look_at(part, seen)
    return seen


def _look_at(part: ContentPart, seen: Seen) -> None:
    if part.type in _IMAGES:
        seen.images += 1
        seen.image_bytes += len(memoryview(part.image_url)) + len(memoryview(part.source))
    elif part.type not in _TEXTS:
        seen.unforeseen = seen.unforeseen or part.type
    elif isinstance(part.content, list):
        seen_in(part.content, seen)


def seen_in(items: list[Any], seen: Seen) -> Seen:
    """The same of parts that are decoded already: of a tool's result, and the items of a response's input."""
    for item in items:
        if not isinstance(item, dict):
            continue
        kind = str(item.get("type") or "message")
        if kind in _IMAGES:
            seen.images += 1
            seen.image_bytes += sum(
                len(msgspec.json.encode(item[name])) for name in ("image_url", "source") if name in item
            )
        elif kind not in _TEXTS:
            seen.unforeseen = seen.unforeseen or str(kind)
        for inside in (item.get("content"), item.get("output")):
            if isinstance(inside, list):
                seen_in(inside, seen)
    return seen


def last_user_text(messages: list[Message]) -> str:
    """What the user said last; where nobody is a user, the last message's text."""
    for message in reversed(messages):
        if message.role == "user":
            return _content_text(message.content)
    return _content_text(messages[-1].content)


def _content_text(content: str | list[ContentPart | str] | None) -> str:
    if isinstance(content, str):
        return content
    return "\n".join([p if isinstance(p, str) else p.text or "" for p in content or ()])


def last_item_text(items: list[Any]) -> str:
    """The text of the last item of a response's input that has one."""
    for item in reversed(items):
        content = item.get("content") if isinstance(item, dict) else item
        if isinstance(content, str):
            return content
        if isinstance(content, list):
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            return "\n".join([text for text in texts if isinstance(text, str)])
    return ""
