"""Reads a settings file: YAML without duplicate keys, with values from the environment put in."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from router.errors import SettingsError
from router.settings import bounded_yaml

Steps = tuple[str | int, ...]
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}")
_LITELLM = "os.environ/"
SHORTEST_MASKED = 4  # characters of a value that no message shows


def path_of(steps: Steps) -> str:
    """models[2].price.prompt"""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".") or "the file"


def read(path: Path) -> dict[str, Any]:
    """The file's mapping; an empty file is an empty mapping. Raises: SettingsError."""
    try:
        text = _bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    return parse(text, name=str(path))


def _bytes(path: Path) -> bytes:
    """A regular file's content; a FIFO is not waited for. Raises: SettingsError, OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123  (by descriptor)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise SettingsError(f"{path}: cannot be read: expected a regular file")
        data = file.read(bounded_yaml.MOST_BYTES + 1)
    if len(data) > bounded_yaml.MOST_BYTES:
        raise SettingsError(f"{path}: more than {bounded_yaml.MOST_BYTES} bytes, expected a smaller file")
    return data


def parse(text: str, *, name: str = "settings") -> dict[str, Any]:
    """The mapping in a YAML text. Raises: SettingsError with the line."""
    try:
        tree = bounded_yaml.parsed(text)
    except SettingsError as error:
        raise SettingsError(f"{name}: {error.message}", param=error.param) from None
    if tree is None:
        return {}
    if isinstance(tree, dict) and (odd := [key for key in tree if not isinstance(key, str)]):
        raise SettingsError(f"{name}: got the key {odd[0]!r}, expected names of sections such as `models:`")
    if not isinstance(tree, dict):
        raise SettingsError(f"{name}: got {_kind(tree)}, expected a mapping of sections such as `models:`")
    return tree


def with_text_keys(tree: Any) -> Any:
    """The tree with every key as text, as JSON would have it."""
    if isinstance(tree, Mapping):
        return {str(key): with_text_keys(value) for key, value in tree.items()}
    return [with_text_keys(each) for each in tree] if isinstance(tree, list) else tree


def mapping_at(tree: Mapping[str, Any], key: str, under: str = "") -> dict[str, Any]:
    """The mapping under a key, {} where there is none. Raises: SettingsError naming its path."""
    value, path = tree.get(key) or {}, f"{under}.{key}".removeprefix(".")
    if not isinstance(value, dict):
        raise SettingsError(f"{path}: got {_kind(value)}, expected a mapping", param=path)
    return value


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


def masked(message: str, tree: object, env: Mapping[str, str]) -> str:
    """The message without what a tree took from the environment: it may be a secret in the wrong place."""
    for name in sorted(_named(tree)):
        value = env.get(name, "")
        if len(value) >= SHORTEST_MASKED:
            message = message.replace(value, f"${{{name}}}")
    return message


def _named(tree: object) -> set[str]:
    """The variables whose values a tree asks for."""
    if isinstance(tree, dict):
        return set().union(*map(_named, tree.values()))
    if isinstance(tree, list):
        return set().union(*map(_named, tree))
    if not isinstance(tree, str):
        return set()
    return {match[1] for match in _VARIABLE.finditer(tree) if match[1]} | (
        {tree.removeprefix(_LITELLM)} if tree.startswith(_LITELLM) else set()
    )


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


def state_of(path: Path) -> tuple[int, ...] | None:
    """What differs once the file is another or was written; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
