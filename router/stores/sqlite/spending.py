"""What one transaction adds to the tables of spend. Pure but for write(), which fails as the database does."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

from backends.types import NO_PARTS
from router.stores.limits import day_of
from router.stores.sqlite.database import Database
from router.stores.sqlite.statements import CORRECT, more_parts, more_spend
from router.types import Spend

Write = Callable[[Callable[[int], str], Sequence[tuple[Any, ...]]], None]


class SpendChanges:
    """Requests, tokens and cost of a day, tenant, team, key and model; and kinds of tokens."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, ...], tuple[int, ...]] = {}
        self._parts: collections.Counter[tuple[str, ...]] = collections.Counter()

    def add(self, who: tuple[str, ...], at_ms: int, spend: Spend, *, requests: int, cost: int) -> None:
        """To the line of a day. A sum below zero corrects what is there."""
        line, sums = (day_of(at_ms), *who), (requests, spend.prompt_tokens, spend.completion_tokens, cost)
        known = self._lines.get(line)
        self._lines[line] = sums if known is None else tuple([a + b for a, b in zip(known, sums, strict=True)])
        if spend.parts is not NO_PARTS or spend.saved:
            self._parts.update({(*line, kind): count for kind, count in spend.kinds.items()})

    def write(self, database: Database, write: Write) -> None:
        """Within the transaction that is open."""
        more = []
        for line, sums in self._lines.items():
            if min(sums) >= 0:
                more.append((*line, *sums))
            else:
                database.execute(CORRECT, (*sums, *line))
        write(more_spend, more)
        write(more_parts, [(*line, tokens) for line, tokens in self._parts.items()])
