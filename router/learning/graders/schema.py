"""JSON values against the part of JSON Schema that tools and response formats use; touches nothing.

Understood: type, enum, const, properties, required, additionalProperties, items, minItems, maxItems, anyOf, oneOf,
allOf, minimum, maximum, minLength, maxLength, local $ref. Anything else is taken as satisfied, so a violation reported
here is a violation, and silence is no proof. Patterns are left out on purpose: a schema comes with the request, and a
regular expression of a stranger's can keep a process busy for hours. For the same reason a check takes a bounded number
of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["missing", "extra", "type", "value"]
DEPTH = 64  # of nested schemas; a reference that goes round in circles ends here
STEPS = 20_000  # schemas looked at


@dataclass(slots=True)
class _Search:
    """The whole schema, and how many steps are left."""

    root: Mapping[str, Any]
    steps: int = STEPS


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which a value is not what its schema says."""

    kind: Kind
    path: str  # "$.city", "$.items[2]"
    message: str


def violations(value: Any, schema: Mapping[str, Any]) -> list[Violation]:
    """Everything wrong with a value; empty where nothing is."""
    return list(_check(value, schema, "$", _Search(schema), DEPTH))


def _check(value: Any, schema: Any, path: str, search: _Search, depth: int) -> Iterator[Violation]:
    search.steps -= 1
    if not isinstance(schema, Mapping) or depth == 0 or search.steps < 0:
        if schema is False:
            yield Violation("extra", path, f"{path} is not allowed")
        return
    if isinstance(reference := schema.get("$ref"), str):
        yield from _check(value, _resolve(reference, search.root), path, search, depth - 1)
    if not _is_of_type(value, schema.get("type")):
        yield Violation("type", path, f"{path} is {_type_of(value)}, expected {schema['type']}")
        return
    yield from _check_value(value, schema, path)
    yield from _check_branches(value, schema, path, search, depth)
    if isinstance(value, dict):
        yield from _check_object(value, schema, path, search, depth)
    elif isinstance(value, list):
        items = schema.get("items", True)
        for place, each in enumerate(value):
            yield from _check(each, items, f"{path}[{place}]", search, depth - 1)


def _check_object(
    value: dict[str, Any], schema: Mapping[str, Any], path: str, search: _Search, depth: int
) -> Iterator[Violation]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield Violation("missing", f"{path}.{name}", f"{path}.{name} is missing")
    others = schema.get("additionalProperties", True)
    for name, each in value.items():
        if name in properties:
            yield from _check(each, properties[name], f"{path}.{name}", search, depth - 1)
        elif others is False:
            yield Violation("extra", f"{path}.{name}", f"{path}.{name} is not in the schema")
        else:
            yield from _check(each, others, f"{path}.{name}", search, depth - 1)


def _check_branches(
    value: Any, schema: Mapping[str, Any], path: str, search: _Search, depth: int
) -> Iterator[Violation]:
    for each in schema.get("allOf", ()):
        yield from _check(value, each, path, search, depth - 1)
    for key in ("anyOf", "oneOf"):
        branches = schema.get(key)
        if branches and all(any(_check(value, each, path, search, depth - 1)) for each in branches):
            yield Violation("value", path, f"{path} fits no branch of {key}")


LIMITS: Mapping[str, tuple[type | tuple[type, ...], Callable[[Any, Any], bool]]] = {
    "minimum": ((int, float), lambda value, limit: value >= limit),
    "maximum": ((int, float), lambda value, limit: value <= limit),
    "minLength": (str, lambda value, limit: len(value) >= limit),
    "maxLength": (str, lambda value, limit: len(value) <= limit),
    "minItems": (list, lambda value, limit: len(value) >= limit),
    "maxItems": (list, lambda value, limit: len(value) <= limit),
}


def _check_value(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[Violation]:
    if "enum" in schema and value not in schema["enum"]:
        yield Violation("value", path, f"{path} is {value!r}, expected one of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        yield Violation("value", path, f"{path} is {value!r}, expected {schema['const']!r}")
    for key, (kinds, holds) in LIMITS.items():
        if key in schema and isinstance(value, kinds) and not holds(value, schema[key]):
            yield Violation("value", path, f"{path} is {value!r}, expected {key} {schema[key]!r}")


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    """A local reference, "#/$defs/City"; anything else is taken as satisfied."""
    found: Any = root
    if reference == "#":
        return root
    for part in reference.removeprefix("#/").split("/"):
        if not reference.startswith("#/") or not isinstance(found, Mapping) or part not in found:
            return True
        found = found[part]
    return found


TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def _is_of_type(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_is_of_type(value, each) for each in wanted)
    if wanted not in TYPES:
        return True
    if isinstance(value, bool):
        return bool(wanted == "boolean")
    if wanted == "integer" and isinstance(value, float):
        return bool(value.is_integer())
    return any(isinstance(value, kind) for kind in TYPES[wanted])


def _type_of(value: Any) -> str:
    return next((name for name in ("boolean", "integer", *TYPES) if _is_of_type(value, name)), type(value).__name__)
