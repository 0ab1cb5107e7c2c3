"""Anthropic's Messages over chat completions.

Left out, since chat completions cannot say it: thinking budgets, cache_control, citations, signatures, and tools that
the provider runs, which are refused where they stand alone. Refused: documents by address or file id. CLAUDE is for
chat completions that say more, as litellm's do for Claude at other providers: thinking, with its signatures, and
cache_control go along.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from backends.dialects.blocks import Block, Blocks, BlockStep, blocks_of
from backends.dialects.chat import Counts, counts_of, delta_of, event, first_choice, model_of, own_tools
from backends.dialects.types import Dialect, Tree, Untranslatable

_SAME = ("model", "stream", "temperature", "top_p", "top_k", "max_tokens", "service_tier")
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use"}
_STOPS |= {"content_filter": "refusal"}
_MARK, _THOUGHTS = "cache_control", ("thinking", "redacted_thinking")
_OWN = frozenset({None, "custom"})  # tools that the client runs itself
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def to_chat(request: Mapping[str, Any], *, to_claude: bool = False) -> Tree:
    """See Dialect.to_chat. `to_claude`: what is Claude's own goes along."""
    chat: Tree = {key: request[key] for key in _SAME if request.get(key) is not None}
    messages = [*_messages(request.get("messages") or [], to_claude=to_claude)]
    if to_claude and request.get("thinking") and _may_think(messages):
        chat["thinking"] = request["thinking"]
    chat["messages"] = [*_system(request.get("system"), to_claude=to_claude), *messages]
    if stops := request.get("stop_sequences"):
        chat["stop"] = stops
    if user := (request.get("metadata") or {}).get("user_id"):
        chat["user"] = user
    if tools := own_tools(request, _OWN):
        chat["tools"] = [_marked(_tool(tool), tool, to_claude) for tool in tools]
    if choice := request.get("tool_choice"):
        chat["tool_choice"] = _choice(choice)
        if choice.get("disable_parallel_tool_use"):
            chat["parallel_tool_calls"] = False
    if chat.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    return chat


def _marked(said: Tree, block: Mapping[str, Any], to_claude: bool) -> Tree:
    """With what the block says of a cache."""
    return said | {_MARK: block[_MARK]} if to_claude and block.get(_MARK) else said


def _system(system: object, *, to_claude: bool) -> list[Tree]:
    if not system:
        return []
    parts = system if isinstance(system, list) else [{"text": system}]
    if to_claude and any(part.get(_MARK) for part in parts):
        texts = [{"type": "text", "text": str(part.get("text", ""))} for part in parts]
        marked = [_marked(text, part, to_claude) for text, part in zip(texts, parts, strict=True)]
        return [{"role": "system", "content": marked}]
    return [{"role": "system", "content": "\n\n".join(str(part.get("text", "")) for part in parts)}]


def _messages(messages: list[Mapping[str, Any]], *, to_claude: bool) -> Iterator[Tree]:
    for number, message in enumerate(messages):
        content, path = message.get("content"), f"messages[{number}].content"
        if isinstance(content, str):
            yield {"role": message["role"], "content": content}
        elif message["role"] == "assistant":
            yield _assistant(content or [], path, to_claude=to_claude)
        else:
            yield from _user(content or [], path, to_claude=to_claude)


def _assistant(blocks: list[Mapping[str, Any]], path: str, *, to_claude: bool) -> Tree:
    """What the model said before. Its thinking is its own and is said again to Claude alone, who signed it."""
    said = [block["text"] for block in blocks if block.get("type") == "text"]
    thoughts = [dict(block) for block in blocks if to_claude and block.get("type") in _THOUGHTS and _is_signed(block)]
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    for number, block in enumerate(blocks):
        if block.get("type") not in {"text", "tool_use", *_THOUGHTS}:
            raise _unsaid(block, f"{path}[{number}]")
    content: object = "".join(said) or None
    if to_claude and any(block.get(_MARK) for block in blocks if block.get("type") == "text"):
        texts = [block for block in blocks if block.get("type") == "text"]
        content = [_marked({"type": "text", "text": block["text"]}, block, to_claude) for block in texts]
    message: Tree = {"role": "assistant", "content": content}
    return message | ({"tool_calls": calls} if calls else {}) | ({"thinking_blocks": thoughts} if thoughts else {})


def _is_signed(block: Mapping[str, Any]) -> bool:
    """Whether Claude will know the thought for its own: those of other models are not."""
    return bool(block.get("signature") or block.get("data"))


def _may_think(messages: list[Tree]) -> bool:
    """Whether Claude takes the wish to think: a turn that called tools must begin with its own thoughts."""
    last = next((each for each in reversed(messages) if each["role"] == "assistant"), {})
    return "tool_calls" not in last or "thinking_blocks" in last


def _call(block: Mapping[str, Any]) -> Tree:
    arguments = msgspec.json.encode(block.get("input") or {}).decode()
    return {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": arguments}}


def _user(blocks: list[Mapping[str, Any]], path: str, *, to_claude: bool) -> Iterator[Tree]:
    """Results of tools first, as chat completions want them, then what the user said."""
    parts: list[Tree] = []
    for number, block in enumerate(blocks):
        if block.get("type") == "tool_result":
            text, images = _result(block, f"{path}[{number}]")
            marked = _marked({"type": "text", "text": text}, block, to_claude)
            yield {
                "role": "tool",
                "tool_call_id": block["tool_use_id"],
                "content": [marked] if _MARK in marked else text,
            }
            parts += images
        else:
            parts.append(_marked(_part(block, f"{path}[{number}]"), block, to_claude))
    if parts:
        alone = all(part["type"] == "text" and _MARK not in part for part in parts)
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
    blocks = blocks_of(choice.get("message") or {})
    reason, sequence = _stop(choice, blocks)
    return _head(request, answer) | {
        "content": [_begun(block) | _filled(block) for block in blocks],
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": _usage(counts_of(answer.get("usage"))),
    }


def _head(request: Mapping[str, Any], answer: Mapping[str, Any]) -> Tree:
    named = {"id": id_of(answer.get("id")), "model": model_of(request, answer)}
    return {"type": "message", "role": "assistant", **named}


def id_of(chat_id: object) -> str:
    """The same tail under Anthropic's own prefix; a new one where the engine gave none."""
    tail = (chat_id.partition("-")[2] or chat_id) if isinstance(chat_id, str) and chat_id else secrets.token_hex(12)
    return f"msg_{tail}"


def _begun(block: Block) -> Tree:
    """The block with nothing in it."""
    if block.kind == "call":
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _filled(block: Block) -> Tree:
    if block.kind == "call":
        return {"input": block.arguments or {}}
    if block.kind == "reasoning":
        return {"thinking": block.text, "signature": block.signature}
    return {"text": block.text}


def _stop(choice: Mapping[str, Any], blocks: list[Block]) -> tuple[str | None, str | None]:
    """(reason, the stop sequence that was met, where the engine says which). A call that is cut must not be run."""
    met, finish = choice.get("stop_reason"), str(choice.get("finish_reason"))
    if any(block.is_cut for block in blocks):
        return "max_tokens", None
    if any(block.kind == "call" for block in blocks) and finish not in {"length", "content_filter"}:
        return "tool_use", None  # also where the engine says "stop"
    if any(block.kind == "refusal" for block in blocks):
        return "refusal", None
    if finish == "stop" and isinstance(met, str):
        return "stop_sequence", met
    return _STOPS.get(finish, "end_turn"), None


def _usage(counts: Counts) -> Tree:
    return {
        "input_tokens": max(0, counts.prompt - counts.cached - counts.written),
        "cache_read_input_tokens": counts.cached,
        "cache_creation_input_tokens": counts.written,
        "output_tokens": counts.completion,
    }


class MessageEvents:
    """A chat stream as Messages' events. See Events."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._begun = False
        self._blocks = Blocks()
        self._last: Mapping[str, Any] = {}  # the choice that says why the answer ended
        self._counts = Counts(0, 0, 0, 0)

    def take(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """See Events.take."""
        if not self._begun:
            yield self._begin(chunk)
        choice = first_choice(chunk)
        yield from map(self._event, self._blocks.take(delta_of(choice)))
        if choice.get("finish_reason"):
            self._last = choice
        if chunk.get("usage"):
            self._counts = counts_of(chunk["usage"])

    def end(self) -> Iterator[bytes]:
        """See Events.end."""
        if not self._begun:
            yield self._begin({})
        yield from map(self._event, self._blocks.end())
        reason, sequence = _stop(self._last, self._blocks.done)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        yield event("message_delta", {"type": "message_delta", "delta": delta, "usage": _usage(self._counts)})
        yield event("message_stop", {"type": "message_stop"})

    def _begin(self, chunk: Mapping[str, Any]) -> bytes:
        self._begun = True
        empty: Tree = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(self._counts)}
        return event("message_start", {"type": "message_start", "message": _head(self._request, chunk) | empty})

    def _event(self, step: BlockStep) -> bytes:
        index, block = len(self._blocks.done) - 1, step.block
        if step.does == "open":
            return _block_event("start", index, content_block=_begun(block))
        if step.does == "more":
            return _block_event("delta", index, delta=_delta(block, step.text))
        signed = {"type": "signature_delta", "signature": block.signature}
        before = _block_event("delta", index, delta=signed) if block.signature else b""
        return before + _block_event("stop", index)


def _block_event(kind: str, index: int, **more: Tree) -> bytes:
    return event(f"content_block_{kind}", {"type": f"content_block_{kind}", "index": index, **more})


def _delta(block: Block, text: str) -> Tree:
    if block.kind == "call":
        return {"type": "input_json_delta", "partial_json": text}
    if block.kind == "reasoning":
        return {"type": "thinking_delta", "thinking": text}
    return {"type": "text_delta", "text": text}


MESSAGES = Dialect(to_chat, from_chat, id_of, MessageEvents)
CLAUDE = Dialect(partial(to_chat, to_claude=True), from_chat, id_of, MessageEvents)
