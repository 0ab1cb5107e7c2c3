"""How much of an answer can be seen: bytes of text that the model wrote, found without parsing what is around it.

Text, reasoning, refusals and arguments of tools count; logprobs, ids and what a server adds do not. Nothing fails
here: what is no JSON shows nothing.
"""

from __future__ import annotations

import re

import msgspec

_Key = tuple[bytes, re.Pattern[bytes]]  # as it is written, and with its text
_Keys = tuple[_Key, ...]


def _keys(names: str) -> _Keys:
    written = [b'"%b"' % name.encode() for name in names.split()]
    return tuple((key, re.compile(key + rb'\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)"')) for key in written)


# Of each API: keys whose texts add up, and keys that may repeat one another, of which the longest counts.
_STREAMED: dict[str, tuple[_Keys, _Keys]] = {
    "/v1/chat/completions": (_keys("content refusal arguments transcript"), _keys("reasoning reasoning_content text")),
    "/v1/completions": (_keys("text"), ()),
    "/v1/responses": (_keys("delta"), ()),
    "/v1/messages": (_keys("text thinking partial_json"), ()),
}
_WHOLE = {**_STREAMED, "/v1/responses": (_keys("text refusal arguments"), ())}
_NOTHING: tuple[_Keys, _Keys] = ((), ())


class _Block(msgspec.Struct):
    text: str = ""
    thinking: str = ""
    input: msgspec.Raw = msgspec.Raw()  # of a tool, as JSON that the model wrote


class _Message(msgspec.Struct):
    content: list[_Block]


_UNCOUNTED = 256  # blocks kept to be counted later
_MESSAGE = msgspec.json.Decoder(_Message)


class ShownText:
    """How much text an answer shows: of a whole body, or of a stream's events as they come. Counted when asked."""

    __slots__ = ("_bytes", "_path", "_uncounted", "_whole")

    def __init__(self, path: str, whole: bytes = b"") -> None:
        self._path = path
        self._whole = whole  # a whole answer, or the event that repeats one
        self._bytes = 0  # of events, without those of …
        self._uncounted: list[bytes] = []  # … the latest blocks

    def add(self, events: bytes) -> None:
        """Some events of a stream."""
        self._uncounted.append(events)
        if len(self._uncounted) > _UNCOUNTED:
            self._count()

    def repeat(self, event: bytes) -> None:
        """An event that repeats the whole answer."""
        self._whole = event

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the text so far."""
        self._count()
        return max(self._bytes, visible_bytes(self._path, self._whole) if self._whole else 0)

    def _count(self) -> None:
        if not self._uncounted:
            return
        self._bytes += visible_streamed(self._path, b"".join(self._uncounted))
        self._uncounted.clear()


def visible_bytes(path: str, answer: bytes) -> int:
    """UTF-8 bytes of the text in a whole answer of this API."""
    if path == "/v1/messages":
        try:
            blocks = _MESSAGE.decode(answer).content
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        else:
            return sum(len((block.text + block.thinking).encode()) + len(bytes(block.input)) for block in blocks)
    return _found(answer, *_WHOLE.get(path, _NOTHING))


def visible_streamed(path: str, events: bytes) -> int:
    """The same of some events of a stream."""
    return _found(events, *_STREAMED.get(path, _NOTHING))


def _found(data: bytes, adding: _Keys, repeating: _Keys) -> int:
    total = sum([_length(pattern, data) for written, pattern in adding if written in data])
    if longest := [_length(pattern, data) for written, pattern in repeating if written in data]:
        total += max(longest)  # most keys are not there: looking for them is quicker than their pattern
    return total


def _length(pattern: re.Pattern[bytes], data: bytes) -> int:
    return sum([len(text) if b"\\" not in text else _unescaped(text) for text in pattern.findall(data)])


def _unescaped(text: bytes) -> int:
    try:
        return len(msgspec.json.decode(b'"%b"' % text, type=str).encode())
    except (msgspec.DecodeError, UnicodeError):
        return len(text)
