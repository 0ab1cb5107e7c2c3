"""OpenAI's Responses over chat completions: the request.

Left out, since chat completions cannot say it: `include`, `truncation`, `background`, summaries of reasoning, and tools
that the provider runs, which are refused where they stand alone. Refused: items by reference, files by id. A tool of
type `custom` becomes a function of one text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from backends.dialects.chat import own_tools
from backends.dialects.responses_reply import ResponseEvents, from_chat, id_of
from backends.dialects.types import Dialect, Tree, Untranslatable

_SAME = ("model", "stream", "temperature", "top_p", "top_logprobs", "parallel_tool_calls", "user", "service_tier")
_ALSO = ("prompt_cache_key", "safety_identifier", "seed")
_OWN = frozenset({"function", "custom"})  # tools that the client runs itself
_CUSTOM = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def to_chat(request: Mapping[str, Any]) -> Tree:
    """See Dialect.to_chat."""
    for field in ("previous_response_id", "conversation", "prompt"):
        if request.get(field) is not None:
            raise Untranslatable(f"{field}: this model keeps nothing between requests", param=field)
    chat: Tree = {key: request[key] for key in (*_SAME, *_ALSO) if request.get(key) is not None}
    chat["messages"] = [*_instructions(request), *_merged(_items(request.get("input") or ""))]
    if (longest := request.get("max_output_tokens")) is not None:
        chat["max_tokens"] = longest
    if effort := (request.get("reasoning") or {}).get("effort"):
        chat["reasoning_effort"] = effort
    if tools := own_tools(request, _OWN):
        chat["tools"] = [_tool(tool) for tool in tools]
        if (choice := request.get("tool_choice")) is not None:
            chat["tool_choice"] = _choice(choice)
    if (form := _format((request.get("text") or {}).get("format"))) is not None:
        chat["response_format"] = form
    if chat.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    return chat


def _instructions(request: Mapping[str, Any]) -> list[Tree]:
    text = request.get("instructions")
    return [{"role": "system", "content": text}] if text else []


def _items(given: object) -> Iterator[Tree]:
    """One chat message an item."""
    if isinstance(given, str):
        yield {"role": "user", "content": given}
        return
    for number, item in enumerate(given if isinstance(given, list) else []):
        path, kind = f"input[{number}]", item.get("type", "message")
        if kind == "message":
            yield _message(item, path)
        elif kind in {"function_call", "custom_tool_call"}:
            yield {"role": "assistant", "content": None, "tool_calls": [_call(item)]}
        elif kind in {"function_call_output", "custom_tool_call_output"}:
            output = item.get("output") or ""
            text = output if isinstance(output, str) else _text(output, f"{path}.output")
            yield {"role": "tool", "tool_call_id": item["call_id"], "content": text}
        elif kind != "reasoning":  # the model's own thinking is not said again
            raise Untranslatable(f"{path}: this model cannot read an item of type {kind!r}", param=path)


def _message(item: Mapping[str, Any], path: str) -> Tree:
    role = "system" if item["role"] == "developer" else item["role"]
    content = item.get("content") or ""
    if isinstance(content, str):
        return {"role": role, "content": content}
    if role != "user":
        return {"role": role, "content": _text(content, f"{path}.content")}
    parts = [_part(part, f"{path}.content[{number}]") for number, part in enumerate(content)]
    alone = all(part["type"] == "text" for part in parts)
    return {"role": role, "content": "".join(part["text"] for part in parts) if alone else parts}


def _text(parts: list[Mapping[str, Any]], path: str) -> str:
    kinds = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
    for number, part in enumerate(parts):
        if part.get("type") not in kinds:
            at = f"{path}[{number}]"
            raise Untranslatable(f"{at}: this model cannot read a part of type {part.get('type')!r} here", param=at)
    return "".join(str(part.get(kinds[part["type"]], "")) for part in parts)


def _part(part: Mapping[str, Any], path: str) -> Tree:
    kind = part.get("type")
    if kind in {"input_text", "output_text", "text"}:
        return {"type": "text", "text": part["text"]}
    if kind == "input_image" and part.get("image_url"):
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    if kind == "input_file" and part.get("file_data"):
        file = {"filename": part.get("filename") or "file", "file_data": part["file_data"]}
        return {"type": "file", "file": file}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    raise Untranslatable(f"{path}: this model cannot read a part of type {kind!r}", param=path)


def _merged(messages: Iterator[Tree]) -> Iterator[Tree]:
    """Calls of tools that follow each other, or an assistant's text, are one message in chat completions."""
    held: Tree | None = None
    for message in messages:
        if held is not None and message["role"] == "assistant" and message.get("tool_calls"):
            held["tool_calls"] = [*held.get("tool_calls", []), *message["tool_calls"]]
            continue
        if held is not None:
            yield held
        held = None
        if message["role"] == "assistant":
            held = message
        else:
            yield message
    if held is not None:
        yield held


def _call(item: Mapping[str, Any]) -> Tree:
    arguments = item.get("arguments")
    if item["type"] == "custom_tool_call":
        arguments = msgspec.json.encode({"input": item.get("input") or ""}).decode()
    function = {"name": item["name"], "arguments": arguments or "{}"}
    return {"id": item["call_id"], "type": "function", "function": function}


def _tool(tool: Mapping[str, Any]) -> Tree:
    kind = tool.get("type")
    if kind == "custom":
        about = {"description": tool["description"]} if tool.get("description") else {}
        return {"type": "function", "function": {"name": tool["name"], **about, "parameters": _CUSTOM}}
    kept = {key: tool[key] for key in ("name", "description", "parameters", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": kept}


def _choice(choice: object) -> object:
    if isinstance(choice, Mapping) and choice.get("type") in {"function", "custom"}:
        return {"type": "function", "function": {"name": choice["name"]}}
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        return choice.get("mode", "auto")
    return choice


def _format(form: Mapping[str, Any] | None) -> Tree | None:
    if form is None or form.get("type") == "text":
        return None
    if form.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}
    return dict(form)


RESPONSES = Dialect(to_chat, from_chat, id_of, ResponseEvents)
