"""Modules that only fitting needs, imported when something of them is first asked for.

scipy's solvers, sparse matrices and special functions are 40 MB and a fifth of a second that most processes do without.
What a policy needs while it serves is imported when it is built (named.py).
"""

from __future__ import annotations

import importlib
from typing import Any


class LazyModule:
    """Stands for a module: `LazyModule("scipy.special")`. Raises: ImportError, when used, where it is missing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, found)  # the next look goes past this method
        return found
