"""Turns what pydantic found wrong into one error that names the key, the value seen and what was expected."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from router.errors import SettingsError
from router.settings.scalars import URL
from router.settings.source import Steps, path_of
from router.terms import NAME

_SECRETIVE = {"api_key", "admin_key", "secret", "redis", "headers", "params"}  # never echoed, nor anything inside
_PATTERNS = {NAME: "a name without spaces, commas and bars", URL: "an address that begins with http:// or https://"}
_KEY = "[key]"  # where pydantic means a key itself
Fault = tuple[str, str]  # path of the key, what is wrong


def refuse(faults: Iterable[Fault], origins: Mapping[str, str] = MappingProxyType({})) -> SettingsError:
    """One error for all of them, a line each; `param` is the first path.

    `origins` are the paths of the user's own file, by the paths that were made of them.
    """
    lines = [(own_path(path, origins), text) for path, text in faults]
    return SettingsError("\n".join(f"{path}: {text}" for path, text in lines), param=lines[0][0])


def translate(
    error: ValidationError,
    root: type[BaseModel],
    tree: Mapping[str, Any],
    places: Mapping[Steps, str],
    origins: Mapping[str, str] = MappingProxyType({}),
) -> SettingsError:
    """What pydantic found in this tree. `places` are the values that came from the environment."""
    return refuse((_fault(each, root, tree, places) for each in error.errors(include_url=False)), origins)


def own_path(path: str, origins: Mapping[str, str]) -> str:
    """The path in the user's own file: the longest part that was translated, and what follows it."""
    made = [each for each in origins if each and (path == each or path.startswith((f"{each}.", f"{each}[")))]
    if made:
        longest = max(made, key=len)
        return origins[longest] + path.removeprefix(longest)
    return origins.get("", "") + path


def _fault(each: ErrorDetails, root: type[BaseModel], tree: Mapping[str, Any], places: Mapping[Steps, str]) -> Fault:
    steps = _without_tags(each["loc"], tree)
    path = path_of(steps)
    if each["type"] == "extra_forbidden":
        return path, _unknown(str(steps[-1]), _keys_at(steps[:-1], root, tree))
    if each["type"] == "missing":
        return path, f"missing, expected {_described(steps, root, tree)}"
    if each["type"] == "union_tag_not_found":
        return f"{path}.kind", f"missing, expected {_tags(each)}"
    if each["type"] == "union_tag_invalid":
        return f"{path}.kind", f"got {each['ctx']['tag']!r}, expected {_tags(each)}"
    return path, f"got {_seen(_written(steps, each['input'], tree), steps, places)}, {_expected(each)}"


def _expected(each: ErrorDetails) -> str:
    text = each["msg"].removeprefix("Value error, ")
    if text.startswith("expected"):
        return text
    if each["type"] == "model_type":
        return "expected a mapping"
    if "should match pattern" in text:
        return f"expected {_PATTERNS.get(each['ctx']['pattern'], 'text like ' + each['ctx']['pattern'])}"
    return "expected " + text.removeprefix("Input should be ").removeprefix("Input should ").partition(", unable")[0]


def _tags(each: ErrorDetails) -> str:
    kinds = each.get("ctx", {}).get("expected_tags")
    return kinds.replace("'", "") if isinstance(kinds, str) else "the kind: vllm, litellm, embedded or scripted"


def _seen(value: object, steps: Steps, places: Mapping[Steps, str]) -> str:
    if steps in places:
        return f"the value of ${{{places[steps]}}}"
    is_key = steps[-1:] == ("keys",) or steps[-2:-1] == ("keys",)  # its secret, written without its name
    if isinstance(value, SecretStr) or _SECRETIVE & set(map(str, steps)) or (is_key and isinstance(value, str)):
        return "a value not shown here"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "…"


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown key, {hint}expected one of {', '.join(sorted(known))}"


def _written(steps: Steps, value: object, tree: object) -> object:
    """What the file has there where it is a short form: '5 USD per day', of which pydantic saw a part."""
    for step in steps:
        tree = _child(tree, step)
    return tree if isinstance(tree, str) else value


def _without_tags(loc: Steps, tree: object) -> Steps:
    """The steps that the file has: neither the kind of a backend, which pydantic puts in, nor parts of a short form."""
    kept: list[str | int] = []
    node: object = tree
    for step in loc:
        if isinstance(node, dict) and step not in node and node.get("kind", "hashing") == step:
            continue
        if step == _KEY or (isinstance(step, int) and not isinstance(node, list) and not _has(node, step)):
            continue
        if node is not None and not isinstance(node, dict | list):
            break
        kept.append(step)
        node = _child(node, step)
    return tuple(kept)


def _has(node: object, step: int) -> bool:
    """Whether it is a mapping whose keys are numbers, this one among them."""
    return isinstance(node, dict) and step in node


def _child(node: object, step: str | int) -> object:
    if isinstance(node, dict):
        return node.get(step)
    return node[step] if isinstance(node, list) and isinstance(step, int) and step < len(node) else None


def _models_at(steps: Steps, root: type[BaseModel], tree: object) -> list[type[BaseModel]]:
    """The sections that may stand at a place: several where the kind decides and is not known."""
    models, node = [root], tree
    for step in steps:
        fields = [model.model_fields[step] for model in models if isinstance(step, str) and step in model.model_fields]
        node = _child(node, step)
        models = [inner for field in fields for inner in _models_in(field.annotation)] or models
        kind = node.get("kind") if isinstance(node, dict) else None
        models = [model for model in models if kind in _kinds(model)] or models
    return models


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    ):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _kinds(model: type[BaseModel]) -> tuple[object, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()


def _keys_at(steps: Steps, root: type[BaseModel], tree: object) -> list[str]:
    return sorted({key for model in _models_at(steps, root, tree) for key in model.model_fields})


def _described(steps: Steps, root: type[BaseModel], tree: object) -> str:
    for model in _models_at(steps[:-1], root, tree):
        field = model.model_fields.get(str(steps[-1]))
        if field is not None and field.description:
            return field.description.rstrip(".").partition(";")[0]
    return "a value"
