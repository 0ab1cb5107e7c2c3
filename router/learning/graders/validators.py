"""Grades that need no person: exact and regex answers, JSON schemas, and tool calls against the request's own tools.

Of SpecTool's error classes those decidable from the request are found: unknown tool, missing, extra or ill-typed
argument, invalid JSON, repeated call, empty answer. A failed check is nearly certain; a passed one only says that the
form is right, so it weighs little.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from router.learning.graders.schema import violations
from router.settings.scalars import expression

CERTAIN = 1.0  # the expected answer was known
FAILED_FORM = 0.8  # an answer that breaks the form asked for
PASSED_FORM = 0.2  # an answer in the right form may still be wrong


@dataclass(frozen=True, slots=True)
class Grade:
    """A score with how far to believe it: what Feedback carries."""

    score: float  # in [0, 1]
    source: str  # "validator:exact", …
    reliability: float  # in (0, 1]
    problems: tuple[str, ...] = ()  # "unknown_tool: …", one for each


def grade_exact(answer: str, expected: str) -> Grade:
    """Equal but for case and white space."""
    same = " ".join(answer.split()).casefold() == " ".join(expected.split()).casefold()
    return Grade(float(same), "validator:exact", CERTAIN)


def grade_regex(answer: str, pattern: str) -> Grade:
    """Whether the pattern is found in the answer, in time that grows with the answer alone: the expressions are those
    of Rust's regex, without look-around. Raises: ValueError for a pattern that is none."""
    return Grade(float(expression(pattern).isinstance_python(answer)), "validator:regex", CERTAIN)


def grade_json(answer: str, schema: Mapping[str, Any] | None = None) -> Grade:
    """Whether the answer is JSON and fits the schema, if there is one."""
    try:
        value = json.loads(answer)
    except ValueError as error:
        return _form("validator:schema", (f"invalid_json: {error}",))
    found = violations(value, schema or {})
    return _form("validator:schema", tuple(f"{each.kind}: {each.message}" for each in found))


def grade_tool_calls(
    calls: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] = ()
) -> Grade:
    """Tool calls of one answer against the request's tools; `before` are the calls earlier in the conversation."""
    known = {tool["function"]["name"]: tool["function"] for tool in tools if isinstance(tool.get("function"), Mapping)}
    seen = {_identity(call) for call in before}
    problems: list[str] = []
    for call in calls:
        problems += _call_problems(call, known)
        if _identity(call) in seen:
            problems.append(f"repeated_call: {_identity(call)[0]} with the same arguments")
        seen.add(_identity(call))
    return _form("validator:tools", tuple(problems))


def _call_problems(call: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    function = call.get("function") or {}
    name = str(function.get("name"))
    if name not in known:
        return [f"unknown_tool: {name!r}; there are {', '.join(known)}"]
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError as error:
        return [f"invalid_json: arguments of {name}: {error}"]
    schema = known[name].get("parameters") or {"type": "object"}
    declared = {"additionalProperties": False, **schema} if schema.get("properties") else schema
    kinds = {"missing": "missing_argument", "extra": "extra_argument"}
    return [f"{kinds.get(each.kind, 'ill_typed_argument')}: {each.message}" for each in violations(arguments, declared)]


def _identity(call: Mapping[str, Any]) -> tuple[str, str]:
    """Name and arguments, so that the order of keys does not matter."""
    function = call.get("function") or {}
    arguments = str(function.get("arguments") or "{}")
    with suppress(ValueError):  # what is no JSON is compared as it was written
        arguments = json.dumps(json.loads(arguments), sort_keys=True)
    return str(function.get("name")), arguments


def grade_chat(request: Mapping[str, Any], choice: Mapping[str, Any]) -> Grade | None:
    """What a chat request's own tools and response format say of one choice; None where they say nothing."""
    message = choice.get("message") or {}
    calls, text = message.get("tool_calls") or (), message.get("content")
    if calls:
        earlier = [call for each in request.get("messages") or () for call in each.get("tool_calls") or ()]
        return grade_tool_calls(calls, request.get("tools") or (), earlier)
    if not text and not message.get("refusal"):
        return _form("validator:empty", ("empty_answer: neither text nor a tool call",))
    wanted = request.get("response_format") or {}
    if choice.get("finish_reason") == "stop" and wanted.get("type") == "json_object":
        return grade_json(str(text))
    if choice.get("finish_reason") == "stop" and wanted.get("type") == "json_schema":
        return grade_json(str(text), (wanted.get("json_schema") or {}).get("schema"))
    return None


def _form(source: str, problems: tuple[str, ...]) -> Grade:
    return Grade(0.0 if problems else 1.0, source, FAILED_FORM if problems else PASSED_FORM, problems)
