"""YAML that cannot hurt: bounded in size, depth, aliases, numbers and time. What is beyond fails with SettingsError.

PyYAML shares what an alias repeats, but whoever walks the tree afterwards does not: an alias counts as all of it.
"""

from __future__ import annotations

import time
from typing import Any

import yaml

from router.errors import SettingsError

MOST_BYTES = 2 * 2**20  # of a file
MOST_DEPTH = 64
MOST_NODES = 100_000  # values, with those that aliases repeat
MOST_DIGITS = 64  # of a number
MOST_S = 30.0
MOST_SAID = 200  # characters of what is wrong


class _Loader(yaml.SafeLoader):
    """SafeLoader that counts, and refuses a key given twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0
        self._sizes: dict[int, int] = {}  # by the id of a whole node
        self._until = time.monotonic() + MOST_S

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As Composer.compose_node, counting. Raises: SettingsError beyond a bound."""
        alias = self.check_event(yaml.AliasEvent)
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]  # the stubs give it none
        before, self._depth = self._nodes, self._depth + 1
        if self._depth > MOST_DEPTH:
            raise SettingsError(f"line {line}: nested deeper than {MOST_DEPTH} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        if alias and id(node) not in self._sizes:
            raise SettingsError(f"line {line}: an alias inside what it stands for")
        self._nodes += self._sizes[id(node)] if alias else 1
        self._sizes[id(node)] = self._nodes - before
        if self._nodes > MOST_NODES:
            raise SettingsError(f"line {line}: more than {MOST_NODES} values, those that aliases repeat counted in")
        if time.monotonic() > self._until:
            raise SettingsError(f"line {line}: reading takes longer than {MOST_S:g} s")
        self._depth -= 1
        return node


def parsed(text: str) -> Any:
    """What a YAML text says. Raises: SettingsError with the line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SettingsError(f"{where}not YAML: {_short(getattr(error, 'problem', None) or 'unreadable')}") from None
    except (ValueError, KeyError, AttributeError, TypeError, ArithmeticError, RecursionError) as error:
        raise SettingsError(f"not YAML: {_short(f'{type(error).__name__}: {error}')}") from None


def _short(text: str) -> str:
    return text if len(text) <= MOST_SAID else text[:MOST_SAID] + "…"


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[object] = set()
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        name = loader.construct_object(key, deep=True)
        if isinstance(name, str) and name in seen:
            raise SettingsError(f"{_line(key)}: the key {name!r} is given twice, expected once", param=name)
        seen.add(name if isinstance(name, str) else id(key))
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _scalar(kind: str) -> Any:
    """PyYAML's own constructor of a kind of scalar, for short ones that it understands."""
    construct = yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{kind}"]

    def bounded(loader: _Loader, node: yaml.ScalarNode) -> Any:
        if len(node.value) > MOST_DIGITS:
            raise SettingsError(
                f"{_line(node)}: a number of {len(node.value)} characters, expected at most {MOST_DIGITS}"
            )
        try:
            return construct(loader, node)
        except (ValueError, OverflowError) as error:
            raise SettingsError(f"{_line(node)}: got {node.value!r}, expected a {kind}: {error}") from None

    return bounded


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
for _kind in ("int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _scalar(_kind))
