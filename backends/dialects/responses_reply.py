"""OpenAI's Responses over chat completions: the answer, whole or event by event."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from backends.dialects.chat import (
    Counts,
    arguments_of,
    calls_of,
    counts_of,
    event,
    first_choice,
    function_of,
    reasoning_of,
    text_of,
)
from backends.dialects.types import Tree

_ECHOED: Tree = {
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_output_tokens": None,
    "tool_choice": "auto",
    "tools": [],
    "truncation": "disabled",
    "text": {"format": {"type": "text"}},
    "store": False,
}  # fields of the request that the answer repeats, with what stands there where the request does not say
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def from_chat(request: Mapping[str, Any], answer: Mapping[str, Any]) -> Tree:
    """See Dialect.from_chat."""
    choice = first_choice(answer)
    message = choice.get("message") or {}
    output: list[Tree] = []
    if thought := reasoning_of(message):
        output.append(_thought(thought))
    if text := text_of(message):
        output.append(_said(text))
    elif refusal := message.get("refusal"):
        output.append(_said(refusal, refused=True))
    output += [_called(call, _customs(request)) for call in calls_of(message)]
    head = _head(request, answer)
    return _finished(head, output, str(choice.get("finish_reason")), counts_of(answer.get("usage")))


def id_of(chat_id: object) -> str:
    """The same tail under the prefix of responses; a new one where the engine gave none."""
    tail = (chat_id.partition("-")[2] or chat_id) if isinstance(chat_id, str) and chat_id else secrets.token_hex(12)
    return f"resp_{tail}"


def _head(request: Mapping[str, Any], answer: Mapping[str, Any]) -> Tree:
    created = answer.get("created")
    echoed = {key: request[key] if request.get(key) is not None else value for key, value in _ECHOED.items()}
    return {
        "id": id_of(answer.get("id")),
        "object": "response",
        "created_at": created if isinstance(created, int) else int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": answer.get("model") or request.get("model"),
        "output": [],
        **echoed,
        "text": {**_ECHOED["text"], **(request.get("text") or {})},
        "reasoning": {"effort": (request.get("reasoning") or {}).get("effort"), "summary": None},
    }


def _finished(head: Tree, output: list[Tree], reason: str, counts: Counts) -> Tree:
    incomplete = _INCOMPLETE.get(reason)
    return head | {
        "status": "incomplete" if incomplete else "completed",
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "output": output,
        "usage": {
            "input_tokens": counts.prompt,
            "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": 0},
            "output_tokens": counts.completion,
            "output_tokens_details": {"reasoning_tokens": counts.reasoning},
            "total_tokens": counts.prompt + counts.completion,
        },
    }


def _thought(text: str, item_id: str = "") -> Tree:
    content = [{"type": "reasoning_text", "text": text}]
    return {"id": item_id or _new("rs"), "type": "reasoning", "summary": [], "content": content}


def _said(text: str, item_id: str = "", *, refused: bool = False) -> Tree:
    part = {"type": "refusal", "refusal": text} if refused else _text_part(text)
    return {
        "id": item_id or _new("msg"),
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }


def _text_part(text: str) -> Tree:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _called(call: Mapping[str, Any], customs: frozenset[str], item_id: str = "") -> Tree:
    function = function_of(call)
    name, arguments = str(function.get("name") or ""), function.get("arguments") or ""
    if name in customs:
        said = arguments_of(arguments).get("input", "")
        item: Tree = {"id": item_id or _new("ctc"), "type": "custom_tool_call", "input": said}
    else:
        item = {"id": item_id or _new("fc"), "type": "function_call", "arguments": arguments, "status": "completed"}
    return item | {"call_id": call.get("id") or _new("call"), "name": name}


def _customs(request: Mapping[str, Any]) -> frozenset[str]:
    """Names of the request's tools that take plain text."""
    return frozenset(str(tool.get("name")) for tool in request.get("tools") or [] if tool.get("type") == "custom")


def _new(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"


class ResponseEvents:
    """A chat stream as Responses' events. See Events."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._customs = _customs(request)
        self._head: Tree | None = None
        self._number = 0
        self._output: list[Tree] = []
        self._open: _Item | None = None
        self._reason = "stop"
        self._counts = Counts(0, 0, 0, 0)

    def take(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """See Events.take."""
        if self._head is None:
            yield from self._begin(chunk)
        choice = first_choice(chunk)
        delta = choice.get("delta") or {}
        if thought := reasoning_of(delta):
            yield from self._enter("reasoning", 0, {})
            yield from self._more(thought)
        if text := text_of(delta):
            yield from self._enter("text", 0, {})
            yield from self._more(text)
        for call in calls_of(delta):
            yield from self._enter("call", int(call.get("index") or 0), call)
            if arguments := function_of(call).get("arguments"):
                yield from self._more(str(arguments))
        self._reason = choice.get("finish_reason") or self._reason
        if chunk.get("usage"):
            self._counts = counts_of(chunk["usage"])

    def end(self) -> Iterator[bytes]:
        """See Events.end."""
        if self._head is None:
            yield from self._begin({})
        yield from self._leave()
        done = _finished(self._head or {}, self._output, self._reason, self._counts)
        yield self._event(f"response.{done['status']}", response=done)

    def fail(self, message: str) -> Iterator[bytes]:
        """See Events.fail."""
        if self._head is None:
            yield from self._begin({})
        error = {"code": "server_error", "message": message}
        failed = (self._head or {}) | {"status": "failed", "error": error, "output": self._output}
        yield self._event("response.failed", response=failed)

    def _begin(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        self._head = _head(self._request, chunk)
        yield self._event("response.created", response=self._head)
        yield self._event("response.in_progress", response=self._head)

    def _enter(self, kind: str, number: int, call: Mapping[str, Any]) -> Iterator[bytes]:
        """Open an item, unless the one that is open goes on."""
        if self._open is not None and (self._open.kind, self._open.number) == (kind, number):
            return
        yield from self._leave()
        self._open = _Item(kind, number, call, self._customs)
        yield self._about("response.output_item.added", item=self._open.begun())
        if kind == "text":
            yield self._within("response.content_part.added", content_index=0, part=_text_part(""))

    def _more(self, text: str) -> Iterator[bytes]:
        assert self._open is not None
        self._open.text += text
        kind, extra = self._open.delta
        yield self._within(kind, delta=text, **extra)

    def _leave(self) -> Iterator[bytes]:
        if self._open is None:
            return
        item = self._open
        done, extra = item.done
        yield self._within(done, **extra)
        if item.kind == "text":
            yield self._within("response.content_part.done", content_index=0, part=_text_part(item.text))
        whole = item.whole()
        yield self._about("response.output_item.done", item=whole)
        self._output.append(whole)
        self._open = None

    def _about(self, kind: str, **more: Any) -> bytes:
        return self._event(kind, output_index=len(self._output), **more)

    def _within(self, kind: str, **more: Any) -> bytes:
        assert self._open is not None
        return self._about(kind, item_id=self._open.item_id, **more)

    def _event(self, kind: str, **more: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event(kind, {"type": kind, "sequence_number": number, **more})


class _Item:
    """One item of the output while it comes."""

    def __init__(self, kind: str, number: int, call: Mapping[str, Any], customs: frozenset[str]) -> None:
        self.kind = kind
        self.number = number
        self.text = ""
        self._customs = customs
        self._call: Tree = {"id": call.get("id") or _new("call"), "function": dict(function_of(call))}
        self._is_custom = self._call["function"].get("name") in customs
        prefix = {"text": "msg", "reasoning": "rs", "call": "ctc" if self._is_custom else "fc"}[kind]
        self.item_id = _new(prefix)

    @property
    def delta(self) -> tuple[str, Tree]:
        """(kind of the event that brings more, what it needs beside the text)"""
        if self.kind == "text":
            return "response.output_text.delta", {"content_index": 0, "logprobs": []}
        if self.kind == "reasoning":
            return "response.reasoning_text.delta", {"content_index": 0}
        kind = "custom_tool_call_input" if self._is_custom else "function_call_arguments"
        return f"response.{kind}.delta", {}

    @property
    def done(self) -> tuple[str, Tree]:
        """(kind of the event that ends it, what it holds)"""
        if self.kind == "text":
            return "response.output_text.done", {"content_index": 0, "text": self.text, "logprobs": []}
        if self.kind == "reasoning":
            return "response.reasoning_text.done", {"content_index": 0, "text": self.text}
        if self._is_custom:
            return "response.custom_tool_call_input.done", {"input": arguments_of(self.text).get("input", "")}
        name = self._call["function"].get("name") or ""
        return "response.function_call_arguments.done", {"arguments": self.text, "name": name}

    def begun(self) -> Tree:
        """The item as it is announced, with nothing in it."""
        item = self._made("")
        if "status" in item:
            item["status"] = "in_progress"
        if self.kind == "text":
            item["content"] = []
        return item

    def whole(self) -> Tree:
        """The item with all its text."""
        return self._made(self.text)

    def _made(self, text: str) -> Tree:
        if self.kind == "text":
            return _said(text, self.item_id)
        if self.kind == "reasoning":
            return _thought(text, self.item_id)
        function = self._call["function"] | {"arguments": text}
        return _called(self._call | {"function": function}, self._customs, self.item_id)
