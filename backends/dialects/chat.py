"""Chat completions as both protocols read them: one choice, its text, its reasoning and its calls of tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from backends.dialects.types import Untranslatable
from backends.usage import usage_of


class Counts(NamedTuple):
    """Tokens of one answer; cached and written are parts of prompt, reasoning is one of completion."""

    prompt: int
    completion: int
    cached: int
    reasoning: int
    written: int = 0  # to the provider's cache


def counts_of(usage: object) -> Counts:
    """From a chat answer's `usage`; zeros for what is missing or no whole number."""
    whole = usage if isinstance(usage, Mapping) else {}
    return Counts(
        _count(whole, "prompt_tokens"),
        _count(whole, "completion_tokens"),
        _count(whole.get("prompt_tokens_details"), "cached_tokens"),
        _count(whole.get("completion_tokens_details"), "reasoning_tokens"),
        _written(whole),
    )


def _written(usage: Mapping[str, Any]) -> int:
    found = usage_of(usage)
    return found.parts.cache_write + found.parts.cache_write_1h if found is not None else 0


def _count(tree: object, key: str) -> int:
    value = tree.get(key) if isinstance(tree, Mapping) else 0
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def first_choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first choice of an answer or a chunk; an empty one where there is none."""
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    return first if isinstance(first, Mapping) else {}


def model_of(request: Mapping[str, Any], answer: Mapping[str, Any]) -> object:
    """The name that the answer gives its model, else the one that was asked for."""
    found = answer.get("model")
    return found if isinstance(found, str) and found else request.get("model")


def delta_of(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a choice of a stream's chunk adds; nothing where it adds nothing that can be read."""
    found = choice.get("delta")
    return found if isinstance(found, Mapping) else {}


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message or a delta."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))


def reasoning_of(message: Mapping[str, Any]) -> str:
    """What the model thought aloud, by either of the names that engines use."""
    found = message.get("reasoning_content") or message.get("reasoning") or ""
    return found if isinstance(found, str) else ""


def calls_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The calls of tools in a message or a delta."""
    found = message.get("tool_calls")
    return [call for call in found if isinstance(call, Mapping)] if isinstance(found, list) else []


def function_of(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function a call names, with its arguments as text."""
    found = call.get("function")
    return found if isinstance(found, Mapping) else {}


def own_tools(request: Mapping[str, Any], kinds: frozenset[str | None]) -> list[Mapping[str, Any]]:
    """The tools that the client runs itself. Raises: Untranslatable where there are others alone, or one is forced."""
    tools = request.get("tools") or []
    own = [tool for tool in tools if tool.get("type") in kinds]
    choice = request.get("tool_choice")
    usual = (*kinds, "auto", "any", "none", "tool", "allowed_tools")
    forced = isinstance(choice, Mapping) and choice.get("type") not in usual
    if tools and (not own or forced):
        number, tool = next((n, tool) for n, tool in enumerate(tools) if tool.get("type") not in kinds or forced)
        path = f"tools[{number}]"
        raise Untranslatable(f"{path}: this model cannot run the tool {tool.get('type')!r}", param=path)
    return own


def event(kind: str, data: Mapping[str, Any]) -> bytes:
    """One server-sent event with its kind."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(data))
