"""What OpenAI has published of its answers, and what Anthropic's SDK declares of its own: complaints about an answer.

How it fails: where the published schema is absent, `complaint` knows nothing of OpenAI's routes and says nothing.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import anthropic.types
import jsonschema
import pydantic
from anthropic.types.shared import ErrorResponse
from referencing import Registry
from referencing.jsonschema import DRAFT202012

FILE = Path(__file__).parents[2] / "shared" / "openai" / "openapi.json.xz"
_BASE = "urn:openai"
_ROUTES = {
    "POST /chat/completions": ("CreateChatCompletionResponse", "CreateChatCompletionStreamResponse"),
    "POST /completions": ("CreateCompletionResponse", "CreateCompletionResponse"),
    "POST /embeddings": ("CreateEmbeddingResponse", ""),
    "POST /responses": ("Response", "ResponseStreamEvent"),
    "GET /responses/NAME": ("Response", ""),
    "GET /responses/NAME/input_items": ("ResponseItemList", ""),
    "POST /responses/input_tokens": ("TokenCountsResource", ""),
    "GET /models": ("ListModelsResponse", ""),
    "GET /models/NAME": ("Model", ""),
}
_ANTHROPIC: dict[str, tuple[Any, Any]] = {
    "POST /messages": (anthropic.types.Message, anthropic.types.RawMessageStreamEvent),
    "POST /messages/count_tokens": (anthropic.types.MessageTokensCount, None),
}
_PREFIX = re.compile(r"^(/openai)?(/v1)?(/deployments/[^/]+)?(?=/)")
_TEXT = re.compile(rb'"(content|delta|text|arguments)": ?"[^"\\]*(?:\\.[^"\\]*)*"')  # which may be anything
_NAMED = re.compile(r"^/(responses|models)/(?!input_tokens$)[^/]+")


def route_of(method: str, path: str) -> str:
    """POST /chat/completions, whichever of its paths was asked."""
    named = _NAMED.sub(r"/\1/NAME", _PREFIX.sub("", path))
    return f"{method} {named}"


def complaint(method: str, path: str, status: int, kind: str, body: bytes) -> str | None:
    """What is wrong with an answer; None where nothing is, or the route is nobody's published one."""
    route = route_of(method, path)
    if route not in _ROUTES and route not in _ANTHROPIC:
        return None
    try:
        for event, data in _parts(kind, body):
            _check(route, status, data, event=event, stream=kind.startswith("text/event-stream"))
    except (ValueError, jsonschema.ValidationError) as problem:
        said = problem.message if isinstance(problem, jsonschema.ValidationError) else str(problem)
        return f"{route} ({status}): {said[:600]}\nin {body[-600:]!r}"
    return None


def _parts(kind: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """(kind of the event, its data) of each whole event; ("", the body) of a plain answer."""
    if not kind.startswith("text/event-stream"):
        yield "", body
        return
    seen = set()
    for block in body.split(b"\n\n")[:-1]:
        shape = _TEXT.sub(rb'"\1": ""', block)
        if shape in seen:
            continue  # 20,000 events that say one word each
        seen.add(shape)
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line and line[:1] != b":")
        if (data := fields.get(b"data", b"")) and data != b"[DONE]":
            yield fields.get(b"event", b"").decode(), data


def _check(route: str, status: int, data: bytes, *, event: str, stream: bool) -> None:
    """Raises: ValueError, jsonschema.ValidationError"""
    tree = json.loads(data)
    if route in _ANTHROPIC:
        if event and event != tree.get("type"):
            raise ValueError(f"an event of kind {event} holds a {tree.get('type')}")
        failed = status >= 400 or tree.get("type") == "error"
        if status == 413:  # which Anthropic's documentation has, and its SDK's types have not
            data = data.replace(b'"request_too_large"', b'"invalid_request_error"')
        strict(ErrorResponse if failed else _ANTHROPIC[route][stream], data)
        return
    name = _ROUTES[route][stream]
    if status >= 400 or (stream and set(tree) == {"error"} and name != "ResponseStreamEvent"):
        name = "ErrorResponse"
    elif name == "ResponseStreamEvent":
        if event != tree.get("type"):
            raise ValueError(f"an event of kind {event} holds a {tree.get('type')}")
        name = events().get(str(tree.get("type")), name)
    elif route == "POST /completions" and stream:
        for choice in tree["choices"]:  # OpenAI's own streams say null until the last, which its document forgot
            choice["finish_reason"] = choice["finish_reason"] or "stop"
    validate(name, tree)


def strict(kind: Any, data: bytes) -> None:
    """Raises: ValueError where Anthropic's own type, read strictly, does not fit."""
    _adapter(kind).validate_json(data, strict=True)


@lru_cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def validate(name: str, tree: object) -> None:
    """Raises: jsonschema.ValidationError where it is not what OpenAI publishes under that name."""
    if document() is not None:
        problem = jsonschema.exceptions.best_match(_validator(name).iter_errors(tree))
        if problem is not None:
            problem.message = f"{problem.json_path}: {problem.message[:300]} (not a {name})"
            raise problem


@lru_cache
def document() -> Any:
    """OpenAI's published document; None where it is absent."""
    return _with_nulls(json.loads(lzma.decompress(FILE.read_bytes()))) if FILE.exists() else None


def _with_nulls(schema: Any) -> Any:
    """The same where `nullable`, which JSON Schema does not know, is said as JSON Schema says it."""
    if isinstance(schema, list):
        return [_with_nulls(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _with_nulls(value) for key, value in schema.items() if key != "nullable" or value is not True}
    return {"anyOf": [made, {"type": "null"}]} if len(made) < len(schema) else made


@lru_cache
def events() -> dict[str, str]:
    """The type of each event of Responses -> the name of its schema."""
    schemas = document()["components"]["schemas"] if document() else {}
    names = [each["$ref"].rpartition("/")[2] for each in schemas.get("ResponseStreamEvent", {}).get("anyOf", [])]
    return {kind: name for name in names for kind in schemas[name]["properties"]["type"].get("enum", [])}


@lru_cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    resource = DRAFT202012.create_resource(document())
    registry: Registry[Any] = Registry().with_resource(_BASE, resource)
    return jsonschema.Draft202012Validator({"$ref": f"{_BASE}#/components/schemas/{name}"}, registry=registry)
