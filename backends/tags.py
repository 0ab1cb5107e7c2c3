"""Which engines a request may go to by its tags, as LiteLLM's tag filtering says it. Pure.

With tags: engines that have one of them, else those tagged `default`. Without: those tagged `default`, else all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

DEFAULT = "default"
_Engine = TypeVar("_Engine")


def admitted(engines: Iterable[tuple[_Engine, frozenset[str]]], asked: frozenset[str]) -> Sequence[_Engine]:
    """The engines, each given with its tags, that a request with these tags may go to; perhaps none."""
    tagged = list(engines)
    usual = [engine for engine, tags in tagged if DEFAULT in tags]
    if not asked:
        return usual or [engine for engine, _ in tagged]
    return [engine for engine, tags in tagged if tags & asked] or usual
