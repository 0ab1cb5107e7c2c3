"""Writes the table of every key in docs/settings.md from the sections: `python -m tests.settings.reference`."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from router import amounts, terms
from router.settings import engine_sections, price_sections, scalars
from router.settings.document import Settings

BEGIN, END = "<!-- made by python -m tests.settings.reference -->", "<!-- end -->"
_NAMES: dict[object, str] = {
    terms.Usd: "USD",
    scalars.Dollars: "USD",
    scalars.Bytes: "size",
    scalars.Count: "number",
    scalars.Width: "bits",
    terms.Period: "period",
    scalars.Url: "address",
    terms.Name: "name",
    terms.OwnerName: "name",
    terms.Counted: "integer",
    scalars.Seconds: "seconds",
    terms.Share: "0 … 1",
    SecretStr: "secret",
    Path: "path",
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Any: "anything",
    date: "day, as 2026-12-31",
}
_SHORT: dict[object, str] = {
    price_sections.PriceSection: "price",
    terms.BudgetTerms: "budget",
    terms.OwnerBudget: "budget",
    terms.LimitTerms: "limits",
    terms.OwnerLimit: "limits",
    engine_sections.ReplicaSection: "address or mapping",
}


def tables() -> str:
    """One table a section, in Markdown; a section that stands in several places is shown at the first."""
    return "\n".join(_table("", Settings, set()))


def _table(path: str, model: type[BaseModel], shown: set[type[BaseModel]]) -> Iterator[str]:
    if model in shown:
        return
    shown.add(model)
    kind = f", kind {_kind(model)}" if _kind(model) else ""
    yield f"\n### `{path}`{kind}\n\n{model.__doc__}\n" if path else "\n### The file\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    fields = sorted(model.model_fields.items(), key=lambda item: item[0] != "kind")
    for name, field in fields:
        yield f"| `{name}` | {_type(field)} | {_default(field)} | {field.description or ''} |"
    for name, _ in fields:
        for below, suffix in _below(_hint(model, name)):
            yield from _table(f"{path}.{name}{suffix}".lstrip("."), below, shown)


def _hint(model: type[BaseModel], name: str) -> object:
    return typing.get_type_hints(model, include_extras=True)[name]


def _below(hint: object, suffix: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Sections inside a type, with what stands for the name or number between."""
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and issubclass(hint, BaseModel):
        yield hint, suffix
        return
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is dict:
        yield from _below(arguments[1], f"{suffix}.NAME")
    elif origin is tuple and Ellipsis in arguments:
        yield from _below(arguments[0], f"{suffix}[]")
    elif origin in (Annotated, Union, types.UnionType):
        for each in arguments if origin is not Annotated else arguments[:1]:
            yield from _below(each, suffix)


def _kind(model: type[BaseModel]) -> str:
    field = model.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else ""


def _type(field: FieldInfo) -> str:
    hint: object = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return _named(hint)


def _named(hint: object) -> str:
    if hint in _NAMES:
        return _NAMES[hint]
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and issubclass(hint, BaseModel):
        return _SHORT.get(hint, "mapping")
    return _composed(get_origin(hint), get_args(hint))


def _composed(origin: object, arguments: tuple[Any, ...]) -> str:
    """Of a type with parts."""
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is Annotated:
        return _annotated(arguments)
    if origin is dict:
        return f"{_named(arguments[1])} by name"
    if origin in (tuple, frozenset):
        return f"list of {_named(arguments[0])}"
    return " or ".join(dict.fromkeys(_named(each) for each in arguments if each is not type(None)))


def _annotated(arguments: tuple[Any, ...]) -> str:
    """The named alias whose constraints these are, else the bare type."""
    for alias, name in _NAMES.items():
        if get_origin(alias) is Annotated and get_args(alias)[1:] == arguments[1:]:
            return name
    return _named(arguments[0])


def _default(field: FieldInfo) -> str:
    value = field.default if field.default_factory is None else field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return f"`kind: {_kind(type(value))}`" if _kind(type(value)) else "see below"
    if isinstance(value, dict) and any(isinstance(each, BaseModel) for each in value.values()):
        return "`{family: {kind: embedded}}`"
    return f"`{_written(value)}`"


def _written(value: object) -> str:
    """A default as YAML would have it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if value == "":
        return '""'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, amounts.Period):
        return str(value)
    if isinstance(value, tuple | frozenset):
        return "[" + ", ".join(map(_written, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def rewritten(page: str) -> str:
    """The page with its tables made anew."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE = Path("docs/settings.md")
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
