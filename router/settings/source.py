"""Reads a settings file: YAML without duplicate keys, with values from the environment put in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from router.errors import SettingsError

Steps = tuple[str | int, ...]
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}")
_LITELLM = "os.environ/"


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[object] = set()
    for key, _ in node.value:
        name = loader.construct_object(key, deep=True)
        if isinstance(name, str) and name in seen:
            line = key.start_mark.line + 1
            raise SettingsError(f"line {line}: the key {name!r} is given twice, expected once", param=name)
        seen.add(name if isinstance(name, str) else id(key))
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def path_of(steps: Steps) -> str:
    """models[2].price.prompt"""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".") or "the file"


def read(path: Path) -> dict[str, Any]:
    """The file's mapping; an empty file is an empty mapping. Raises: SettingsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    return parse(text, name=str(path))


def parse(text: str, *, name: str = "settings") -> dict[str, Any]:
    """The mapping in a YAML text. Raises: SettingsError with the line."""
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SettingsError(f"{name}: {where}not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise SettingsError(f"{name}: got {_kind(tree)}, expected a mapping of sections such as `models:`")
    return tree


def substitute(tree: object, env: Mapping[str, str], *, litellm: bool = False) -> tuple[Any, dict[Steps, str]]:
    """(the tree with ${NAME} and ${NAME:-default} put in, the places it was done with the variable's name).

    `$${` is a plain `${`. With `litellm`, a whole value `os.environ/NAME` is replaced as well.
    Raises: SettingsError for a variable that is not set and has no default.
    """
    places: dict[Steps, str] = {}

    def text(value: str, steps: Steps) -> str:
        if litellm and value.startswith(_LITELLM):
            value = f"${{{value.removeprefix(_LITELLM)}}}"
        return _VARIABLE.sub(lambda match: _value(match, env, steps, places), value)

    return _walk(tree, (), text), places


def _value(match: re.Match[str], env: Mapping[str, str], steps: Steps, places: dict[Steps, str]) -> str:
    name, has_default, default = match.groups()
    if name is None:
        return "${"
    places[steps] = name
    if has_default and not env.get(name):
        return str(default)
    if name not in env:
        path = path_of(steps)
        raise SettingsError(
            f"{path}: the environment variable {name} is not set, expected a value or ${{{name}:-default}}", param=path
        )
    return env[name]


def _walk(tree: object, steps: Steps, text: Callable[[str, Steps], str]) -> object:
    if isinstance(tree, dict):
        return {key: _walk(value, (*steps, key), text) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_walk(value, (*steps, index), text) for index, value in enumerate(tree)]
    return text(tree, steps) if isinstance(tree, str) else tree


def _kind(value: object) -> str:
    kinds = ((list, "a list"), (dict, "a mapping"), (str, "a text"))
    return next((name for kind, name in kinds if isinstance(value, kind)), repr(value))
