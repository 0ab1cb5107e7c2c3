"""Names that stand for many, `openai/*`: one star for any characters. Pure."""

from __future__ import annotations

from collections.abc import Iterable

STAR = "*"


def captured(pattern: str, name: str) -> str | None:
    """What the star stands for in this name; None where the name does not fit."""
    before, star, after = pattern.partition(STAR)
    fits = star and len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after)
    return name[len(before) : len(name) - len(after)] if fits else None


def nearest(patterns: Iterable[str], name: str) -> str | None:
    """The pattern with the most characters of its own that this name fits; None where it fits none."""
    fitting = [each for each in patterns if captured(each, name) is not None]
    return max(fitting, key=len, default=None)
