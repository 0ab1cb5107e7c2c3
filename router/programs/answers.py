"""Chat answers as programs read and write them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from backends.dialects.chat import calls_of, first_choice, function_of, text_of
from backends.errors import Failed
from backends.types import Whole
from backends.whole import decoded
from router.types import Spend

Tree = dict[str, Any]


def choice_of(reply: Whole) -> Tree:
    """The first choice of a plain answer. Raises: Failed where there is none."""
    try:
        choice = dict(first_choice(decoded(reply.body)))
    except (ValueError, TypeError, RecursionError) as problem:
        raise Failed(f"answered something that is no answer ({problem})", backend="program") from problem
    if not isinstance(choice.get("message"), Mapping):
        raise Failed("answered no message", backend="program")
    return choice


def said(choice: Mapping[str, Any]) -> str:
    """The text of a choice; of calls of tools, their names and arguments."""
    message = choice["message"]
    calls = [f"{function_of(call).get('name')}({function_of(call).get('arguments')})" for call in calls_of(message)]
    return "\n".join([text_of(message), *calls]).strip()


def vote_of(text: str) -> str:
    """What of an answer must be the same for two to agree: its words, but for case, white space and a last stop."""
    return " ".join(text.split()).casefold().rstrip(".")


def renamed(reply: Whole, name: str, spend: Spend) -> Whole:
    """The answer under the program's name, with what all its steps used; as it is where no decoder follows it."""
    try:
        body = decoded(reply.body)
    except (ValueError, RecursionError):
        return reply
    body["model"], body["usage"] = name, {**_object(body.get("usage")), **usage_of(spend)}
    return Whole(msgspec.json.encode(body), reply.report)


def usage_of(spend: Spend) -> Mapping[str, int]:
    """Tokens as chat completions report them."""
    prompt, completion = spend.prompt_tokens, spend.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def with_usage(event: bytes, spend: Spend) -> bytes:
    """The usage event of a stream with what all steps used."""
    head, colon, data = event.partition(b"data:")
    try:
        chunk = decoded(data)
        used = {**_object(chunk["usage"]), **usage_of(spend)}
    except (ValueError, KeyError, TypeError, RecursionError):
        return event
    return head + colon + b" " + msgspec.json.encode({**chunk, "usage": used}) + b"\n\n"


def events_of(reply: Whole, *, wants_usage: bool) -> Iterator[bytes]:
    """A plain chat answer as the events of a stream."""
    body: Tree = decoded(reply.body)
    choice = first_choice(body)
    head: Tree = {key: body[key] for key in ("id", "created", "model") if key in body}
    head["object"] = "chat.completion.chunk"
    message = dict(choice.get("message") or {})
    if calls := calls_of(message):
        message["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
    for delta, reason in ((message, None), ({}, choice.get("finish_reason") or "stop")):
        yield event({**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})
    if wants_usage:
        yield event({**head, "choices": [], "usage": body.get("usage")})
    yield b"data: [DONE]\n\n"


def event(data: Mapping[str, object]) -> bytes:
    """One event."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def choice_in(blocks: Sequence[bytes]) -> Tree:
    """The choice that the events of a stream make, as far as they came: text, calls of tools, logprobs, its end."""
    text, reason = "", None
    tokens: list[Any] = []
    calls: dict[int, Tree] = {}
    for block in blocks:
        for line in block.split(b"\n"):
            if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
                continue
            try:
                part = first_choice(decoded(line[5:]))
            except (ValueError, TypeError, RecursionError):
                continue
            delta = _object(part.get("delta"))
            text += text_of(delta)
            tokens += _object(part.get("logprobs")).get("content") or []
            reason = part.get("finish_reason") or reason
            for call in calls_of(delta):
                _add_call(calls, call)
    message: Tree = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [calls[place] for place in sorted(calls)]
    return {"message": message, "finish_reason": reason, "logprobs": {"content": tokens} if tokens else None}


def _add_call(calls: dict[int, Tree], part: Mapping[str, Any]) -> None:
    place, function = part.get("index"), function_of(part)
    known = calls.setdefault(place if isinstance(place, int) else 0, {"type": "function", "function": {}})
    known.update({key: part[key] for key in ("id", "type") if part.get(key)})
    for key in ("name", "arguments"):
        if isinstance(found := function.get(key), str):
            known["function"][key] = known["function"].get(key, "") + found


def _object(value: object) -> Tree:
    return dict(value) if isinstance(value, Mapping) else {}
