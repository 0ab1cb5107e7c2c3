"""OpenAI's Responses over chat completions: the answer, whole or event by event."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from backends.dialects.blocks import Block, Blocks, BlockStep, blocks_of
from backends.dialects.chat import Counts, counts_of, delta_of, event, first_choice, model_of
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
    "store": True,
}  # fields of the request that the answer repeats, with what stands there where the request does not say
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def from_chat(request: Mapping[str, Any], answer: Mapping[str, Any]) -> Tree:
    """See Dialect.from_chat."""
    choice = first_choice(answer)
    items = [_Item(block, _customs(request)) for block in blocks_of(choice.get("message") or {})]
    return _finished(_head(request, answer), items, str(choice.get("finish_reason")), counts_of(answer.get("usage")))


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
        "created_at": created if type(created) is int else int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": model_of(request, answer),
        "output": [],
        **echoed,
        "tools": [_tool(each) for each in echoed["tools"]],
        "text": {**_ECHOED["text"], **(request.get("text") or {})},
        "reasoning": {"effort": (request.get("reasoning") or {}).get("effort"), "summary": None},
    }


def _tool(tool: Any) -> Any:
    """A tool as answers repeat it, which say of a function what a request may leave out."""
    is_function = isinstance(tool, Mapping) and tool.get("type") == "function"
    return {"parameters": None, "strict": None, **tool} if is_function else tool


def _finished(head: Tree, items: list[_Item], finish: str, counts: Counts) -> Tree:
    is_cut = any(item.block.is_cut for item in items)  # a call that nobody must run
    incomplete = "max_output_tokens" if is_cut else _INCOMPLETE.get(finish)
    return head | {
        "status": "incomplete" if incomplete else "completed",
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "output": [item.whole() for item in items],
        "usage": {
            "input_tokens": counts.prompt,
            "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.written},
            "output_tokens": counts.completion,
            "output_tokens_details": {"reasoning_tokens": counts.reasoning},
            "total_tokens": counts.prompt + counts.completion,
        },
    }


def _customs(request: Mapping[str, Any]) -> frozenset[str]:
    """Names of the request's tools that take plain text."""
    return frozenset(str(tool.get("name")) for tool in request.get("tools") or [] if tool.get("type") == "custom")


_PREFIXES = {"text": "msg", "refusal": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}
_TEXTS = {
    "text": "output_text",
    "refusal": "refusal",
    "reasoning": "reasoning_text",
    "function_call": "function_call_arguments",
    "custom_tool_call": "custom_tool_call_input",
}  # what events call an item's text


class _Item:
    """One item of the output, and the events that tell of it."""

    def __init__(self, block: Block, customs: frozenset[str]) -> None:
        self.block = block
        self.kind: str = block.kind
        if block.kind == "call":
            self.kind = "custom_tool_call" if block.name in customs else "function_call"
        self.item_id = f"{_PREFIXES[self.kind]}_{secrets.token_hex(12)}"

    def begun(self) -> list[tuple[str, Tree]]:
        """(kind of event, what it holds) when it opens"""
        item = self._made("", "in_progress")
        parts = item.get("content", []) if item["type"] == "message" else []
        events: list[tuple[str, Tree]] = [("output_item.added", {"item": item | ({"content": []} if parts else {})})]
        return events + [("content_part.added", self._placed(content_index=0, part=part)) for part in parts]

    def more(self, text: str) -> list[tuple[str, Tree]]:
        """The same of some text more. What a custom tool gets is inside JSON, and told when that is whole."""
        return [] if self.kind == "custom_tool_call" else [self._delta(text)]

    def _delta(self, text: str) -> tuple[str, Tree]:
        logprobs: Tree = {"logprobs": []} if self.kind == "text" else {}
        return f"{_TEXTS[self.kind]}.delta", self._placed(**self._part_index, delta=text, **logprobs)

    def done(self) -> list[tuple[str, Tree]]:
        """The same when it closes."""
        item, text = self.whole(), self.block.text
        ends: dict[str, Tree] = {
            "text": {"text": text, "logprobs": []},
            "reasoning": {"text": text},
            "refusal": {"refusal": text},
            "function_call": {"arguments": text, "name": self.block.name},
            "custom_tool_call": {"input": self.custom_text},
        }
        events = [self._delta(self.custom_text)] if self.kind == "custom_tool_call" else []
        events.append((f"{_TEXTS[self.kind]}.done", self._placed(**self._part_index, **ends[self.kind])))
        if item["type"] == "message":
            events.append(("content_part.done", self._placed(content_index=0, part=item["content"][0])))
        return [*events, ("output_item.done", {"item": item})]

    @property
    def _part_index(self) -> Tree:
        return {} if self.block.kind == "call" else {"content_index": 0}

    def _placed(self, **more: Any) -> Tree:
        return {"item_id": self.item_id, **more}

    @property
    def custom_text(self) -> str:
        """The text of a custom tool's call; as the model wrote it where it is not as it was asked to be."""
        said = (self.block.arguments or {}).get("input")
        return said if isinstance(said, str) else self.block.text

    def whole(self) -> Tree:
        """The item with all its text."""
        return self._made(self.block.text, "incomplete" if self.block.is_cut else "completed")

    def _made(self, text: str, status: str) -> Tree:
        item: Tree = {"id": self.item_id, "type": "message", "status": status, "role": "assistant"}
        called = {"call_id": self.block.id, "name": self.block.name}
        if self.kind == "reasoning":
            content = [{"type": "reasoning_text", "text": text}] if text else []
            return {"id": self.item_id, "type": "reasoning", "summary": [], "content": content}
        if self.kind == "custom_tool_call":
            return {"id": self.item_id, "type": self.kind, **called, "input": self.custom_text if text else ""}
        if self.kind == "function_call":
            return {"id": self.item_id, "type": self.kind, "status": status, **called, "arguments": text}
        if self.kind == "refusal":
            return item | {"content": [{"type": "refusal", "refusal": text}]}
        return item | {"content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]}


class ResponseEvents:
    """A chat stream as Responses' events. See Events."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._customs = _customs(request)
        self._head: Tree | None = None
        self._number = 0
        self._blocks = Blocks()
        self._items: list[_Item] = []
        self._finish = "stop"
        self._counts = Counts(0, 0, 0, 0)

    def take(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """See Events.take."""
        if self._head is None:
            yield from self._begin(chunk)
        choice = first_choice(chunk)
        for step in self._blocks.take(delta_of(choice)):
            yield from self._events_of(step)
        self._finish = choice.get("finish_reason") or self._finish
        if chunk.get("usage"):
            self._counts = counts_of(chunk["usage"])

    def end(self) -> Iterator[bytes]:
        """See Events.end."""
        if self._head is None:
            yield from self._begin({})
        for step in self._blocks.end():
            yield from self._events_of(step)
        done = _finished(self._head or {}, self._items, str(self._finish), self._counts)
        yield self._event(done["status"], response=done)

    def _begin(self, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        self._head = _head(self._request, chunk)
        yield self._event("created", response=self._head)
        yield self._event("in_progress", response=self._head)

    def _events_of(self, step: BlockStep) -> Iterator[bytes]:
        if step.does == "open":
            self._items.append(_Item(step.block, self._customs))
        item = self._items[-1]
        events = {"open": item.begun, "close": item.done}
        for kind, data in events[step.does]() if step.does in events else item.more(step.text):
            yield self._event(kind, output_index=len(self._items) - 1, **data)

    def _event(self, kind: str, **more: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        kind = f"response.{kind}"
        return event(kind, {"type": kind, "sequence_number": number, **more})
