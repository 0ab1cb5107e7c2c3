"""An answer as its client saw it: the text and the first choice, of a whole body or of a stream's events together.

Nothing fails here: what cannot be read is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from backends.dialects.chat import text_of

CHAT = "/v1/chat/completions"
_decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class ShownAnswer:
    """What was said, and in chat also what a grader may look at."""

    text: str = ""
    choice: dict[str, Any] = field(default_factory=dict)  # as a plain answer of chat has it; empty in other protocols


def shown_answer(path: str, data: bytes, *, streamed: bool) -> ShownAnswer | None:
    """Of a body, or of all events of a stream; None where it cannot be read."""
    try:
        return _of_events(path, data) if streamed else _of_body(path, _decode(data))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None


def _of_body(path: str, body: Any) -> ShownAnswer:
    if path == "/v1/messages":
        return ShownAnswer("".join([str(each.get("text") or "") for each in body["content"]]))
    if path == "/v1/responses":
        parts = [part for item in body["output"] for part in item.get("content") or ()]
        return ShownAnswer("".join([str(part.get("text") or "") for part in parts]))
    choice: dict[str, Any] = body["choices"][0]
    if path != CHAT:
        return ShownAnswer(str(choice["text"]))
    return ShownAnswer(text_of(choice.get("message") or {}), choice)


def _events(data: bytes) -> Iterator[Any]:
    for line in data.split(b"\n"):
        if line.startswith(b"data:") and (body := line[5:].strip()) != b"[DONE]":
            yield _decode(body)


def _of_events(path: str, data: bytes) -> ShownAnswer:
    if path == "/v1/messages":
        return ShownAnswer("".join([str((each.get("delta") or {}).get("text") or "") for each in _events(data)]))
    if path == "/v1/responses":
        spoken = [each for each in _events(data) if each.get("type") == "response.output_text.delta"]
        return ShownAnswer("".join([str(each.get("delta") or "") for each in spoken]))
    parts = [part for each in _events(data) for part in each.get("choices") or () if part.get("index", 0) == 0]
    if path != CHAT:
        return ShownAnswer("".join([str(part.get("text") or "") for part in parts]))
    return _of_deltas(parts)


def _of_deltas(parts: list[dict[str, Any]]) -> ShownAnswer:
    """One choice of chat from its parts."""
    text, refusal, reason = "", "", None
    calls: dict[int, dict[str, Any]] = {}
    tokens: list[Any] = []
    for part in parts:
        delta = part.get("delta") or {}
        text, refusal = text + text_of(delta), refusal + str(delta.get("refusal") or "")
        reason = part.get("finish_reason") or reason
        tokens += (part.get("logprobs") or {}).get("content") or ()
        for each in delta.get("tool_calls") or ():
            function = each.get("function") or {}
            known = calls.setdefault(each.get("index", 0), {"function": {"name": "", "arguments": ""}})["function"]
            known["name"] += function.get("name") or ""
            known["arguments"] += function.get("arguments") or ""
    message = {"content": text or None, "refusal": refusal or None, "tool_calls": [calls[at] for at in sorted(calls)]}
    logprobs = {"content": tokens} if tokens else None
    return ShownAnswer(text, {"message": message, "finish_reason": reason, "logprobs": logprobs})
