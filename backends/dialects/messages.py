"""Anthropic's Messages over chat completions.

Left out, since chat completions cannot say it: thinking budgets, cache_control, citations, signatures, and tools that
the provider runs, which are refused where they stand alone. Refused: documents by address or file id.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from backends.dialects.chat import (
    Counts,
    arguments_of,
    calls_of,
    counts_of,
    event,
    first_choice,
    function_of,
    own_tools,
    reasoning_of,
    text_of,
)
from backends.dialects.types import Dialect, Tree, Untranslatable

_SAME = ("model", "stream", "temperature", "top_p", "top_k", "max_tokens", "service_tier")
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use"}
_STOPS |= {"content_filter": "refusal"}
_OWN = frozenset({None, "custom"})  # tools that the client runs itself
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def to_chat(request: Mapping[str, Any]) -> Tree:
    """See Dialect.to_chat."""
    chat: Tree = {key: request[key] for key in _SAME if request.get(key) is not None}
    chat["messages"] = [*_system(request.get("system")), *_messages(request.get("messages") or [])]
    if stops := request.get("stop_sequences"):
        chat["stop"] = stops
    if user := (request.get("metadata") or {}).get("user_id"):
        chat["user"] = user
    if tools := own_tools(request, _OWN):
        chat["tools"] = [_tool(tool) for tool in tools]
    if choice := request.get("tool_choice"):
        chat["tool_choice"] = _choice(choice)
        if choice.get("disable_parallel_tool_use"):
            chat["parallel_tool_calls"] = False
    if chat.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    return chat


def _system(system: object) -> list[Tree]:
    if not system:
        return []
    parts = system if isinstance(system, list) else [{"text": system}]
    return [{"role": "system", "content": "\n\n".join(str(part.get("text", "")) for part in parts)}]


def _messages(messages: list[Mapping[str, Any]]) -> Iterator[Tree]:
    for number, message in enumerate(messages):
        content, path = message.get("content"), f"messages[{number}].content"
        if isinstance(content, str):
            yield {"role": message["role"], "content": content}
        elif message["role"] == "assistant":
            yield _assistant(content or [], path)
        else:
            yield from _user(content or [], path)


def _assistant(blocks: list[Mapping[str, Any]], path: str) -> Tree:
    """What the model said before. Its thinking is its own and is not said again."""
    said = [block["text"] for block in blocks if block.get("type") == "text"]
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    for number, block in enumerate(blocks):
        if block.get("type") not in {"text", "tool_use", "thinking", "redacted_thinking"}:
            raise _unsaid(block, f"{path}[{number}]")
    message: Tree = {"role": "assistant", "content": "".join(said) or None}
    return message | ({"tool_calls": calls} if calls else {})


def _call(block: Mapping[str, Any]) -> Tree:
    arguments = msgspec.json.encode(block.get("input") or {}).decode()
    return {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": arguments}}


def _user(blocks: list[Mapping[str, Any]], path: str) -> Iterator[Tree]:
    """Results of tools first, as chat completions want them, then what the user said."""
    parts: list[Tree] = []
    for number, block in enumerate(blocks):
        if block.get("type") == "tool_result":
            text, images = _result(block, f"{path}[{number}]")
            yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text}
            parts += images
        else:
            parts.append(_part(block, f"{path}[{number}]"))
    if parts:
        alone = all(part["type"] == "text" for part in parts)
        yield {"role": "user", "content": "\n\n".join(part["text"] for part in parts) if alone else parts}


def _result(block: Mapping[str, Any], path: str) -> tuple[str, list[Tree]]:
    """(text, images) of a tool's result; a tool's message holds text alone, so images go to the user's."""
    content = block.get("content") or ""
    if isinstance(content, str):
        return content, []
    parts = [_part(each, f"{path}.content[{number}]") for number, each in enumerate(content)]
    said = "\n\n".join(part["text"] for part in parts if part["type"] == "text")
    return said, [part for part in parts if part["type"] != "text"]


def _part(block: Mapping[str, Any], path: str) -> Tree:
    kind, source = block.get("type"), block.get("source") or {}
    if kind == "text":
        return {"type": "text", "text": block["text"]}
    if kind == "image" and source.get("type") == "url":
        return {"type": "image_url", "image_url": {"url": source["url"]}}
    if kind == "image" and source.get("type") == "base64":
        return {"type": "image_url", "image_url": {"url": f"data:{source['media_type']};base64,{source['data']}"}}
    if kind == "document" and source.get("type") == "text":
        return {"type": "text", "text": source["data"]}
    if kind == "document" and source.get("type") == "base64":
        data = f"data:{source.get('media_type', 'application/pdf')};base64,{source['data']}"
        return {"type": "file", "file": {"filename": block.get("title") or "document.pdf", "file_data": data}}
    raise _unsaid(block, path)


def _tool(tool: Mapping[str, Any]) -> Tree:
    function = {"name": tool["name"], "parameters": tool.get("input_schema") or {"type": "object", "properties": {}}}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _choice(choice: Mapping[str, Any]) -> object:
    if choice.get("type") == "tool":
        return {"type": "function", "function": {"name": choice["name"]}}
    return _CHOICES.get(str(choice.get("type")), "auto")


def _unsaid(block: Mapping[str, Any], path: str) -> Untranslatable:
    return Untranslatable(f"{path}: this model cannot read a block of type {block.get('type')!r}", param=path)


def from_chat(request: Mapping[str, Any], answer: Mapping[str, Any]) -> Tree:
    """See Dialect.from_chat."""
    choice = first_choice(answer)
    message = choice.get("message") or {}
    content: list[Tree] = []
    if thought := reasoning_of(message):
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text := text_of(message) or message.get("refusal"):
        content.append({"type": "text", "text": text})
    for call in calls_of(message):
        function = function_of(call)
        content.append(_tool_use(call) | {"input": arguments_of(function.get("arguments"))})
    reason, sequence = _stop(choice)
    return {
        "id": id_of(answer.get("id")),
        "type": "message",
        "role": "assistant",
        "model": answer.get("model") or request.get("model"),
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": _usage(counts_of(answer.get("usage"))),
    }


def id_of(chat_id: object) -> str:
    """The same tail under Anthropic's own prefix; a new one where the engine gave none."""
    tail = (chat_id.partition("-")[2] or chat_id) if isinstance(chat_id, str) and chat_id else secrets.token_hex(12)
    return f"msg_{tail}"


def _tool_use(call: Mapping[str, Any]) -> Tree:
    name = function_of(call).get("name") or ""
    return {"type": "tool_use", "id": call.get("id") or f"toolu_{secrets.token_hex(12)}", "name": name, "input": {}}


def _stop(choice: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(reason, the stop sequence that was met, where the engine says which)"""
    met = choice.get("stop_reason")
    if choice.get("finish_reason") == "stop" and isinstance(met, str):
        return "stop_sequence", met
    return _STOPS.get(str(choice.get("finish_reason")), "end_turn"), None


def _usage(counts: Counts) -> Tree:
    return {
        "input_tokens": max(0, counts.prompt - counts.cached),
        "cache_read_input_tokens": counts.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": counts.completion,
    }


class MessageEvents:
    """A chat stream as Messages' events. See Events."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._model = request.get("model")
        self._begun = False
        self._open: tuple[str, int] | None = None  # kind of the block that is open, and a tool call's own index
        self._index = -1  # of that block
        self._stop: tuple[str | None, str | None] = ("end_turn", None)
        self._counts = Counts(0, 0, 0, 0)

    def take(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """See Events.take."""
        if not self._begun:
            yield from self._begin(chunk)
        choice = first_choice(chunk)
        delta = choice.get("delta") or {}
        if thought := reasoning_of(delta):
            yield from self._enter("thinking", 0, {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": thought})
        if text := text_of(delta) or delta.get("refusal"):
            yield from self._enter("text", 0, {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": text})
        for call in calls_of(delta):
            yield from self._enter("tool", int(call.get("index") or 0), _tool_use(call))
            if arguments := function_of(call).get("arguments"):
                yield self._delta({"type": "input_json_delta", "partial_json": arguments})
        if choice.get("finish_reason"):
            self._stop = _stop(choice)
        if chunk.get("usage"):
            self._counts = counts_of(chunk["usage"])

    def end(self) -> Iterator[bytes]:
        """See Events.end."""
        if not self._begun:
            yield from self._begin({})
        yield from self._leave()
        reason, sequence = self._stop
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        yield event("message_delta", {"type": "message_delta", "delta": delta, "usage": _usage(self._counts)})
        yield event("message_stop", {"type": "message_stop"})

    def fail(self, message: str) -> Iterator[bytes]:
        """See Events.fail."""
        yield event("error", {"type": "error", "error": {"type": "api_error", "message": message}})

    def _begin(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        self._begun = True
        head = from_chat({"model": self._model}, {"id": chunk.get("id"), "model": chunk.get("model")})
        message = head | {"stop_reason": None}
        yield event("message_start", {"type": "message_start", "message": message})

    def _enter(self, kind: str, number: int, block: Tree) -> Iterator[bytes]:
        """Open a block, unless the one that is open goes on."""
        if self._open == (kind, number):
            return
        yield from self._leave()
        self._open, self._index = (kind, number), self._index + 1
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        yield event("content_block_start", start)

    def _leave(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open = None
            yield event("content_block_stop", {"type": "content_block_stop", "index": self._index})

    def _delta(self, delta: Tree) -> bytes:
        return event("content_block_delta", {"type": "content_block_delta", "index": self._index, "delta": delta})


MESSAGES = Dialect(to_chat, from_chat, id_of, MessageEvents)
