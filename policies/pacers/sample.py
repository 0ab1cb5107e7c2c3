"""What was expected of every arm on a bounded sample of queries: the rows a dual is solved on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from policies.types import Float

FIRST_ROWS = 64


class QuerySample:
    """The last `size` queries: expected quality and cost; columns are arms by name, NaN where not eligible."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"sample is {size}, expected ≥ 1")
        self.size = size
        self._names: list[str] = []
        self._added = 0
        self._quality: Float = np.full((min(size, FIRST_ROWS), 0), np.nan)  # doubled up to `size`
        self._cost: Float = np.full((min(size, FIRST_ROWS), 0), np.nan)

    def __len__(self) -> int:
        return min(self._added, self.size)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    @property
    def added(self) -> int:
        """Queries ever added, those forgotten since included."""
        return self._added

    @property
    def quality(self) -> Float:
        """(S, M)."""
        return self._quality[: len(self)]

    @property
    def cost(self) -> Float:
        """(S, M) USD."""
        return self._cost[: len(self)]

    def add(self, names: Sequence[str], quality: Float, cost: Float) -> None:
        """One query with what was expected of these arms (n,)."""
        columns = [self._column(name) for name in names]
        row = self._added % self.size
        if row >= len(self._quality):
            more = np.full((min(len(self._quality), self.size - len(self._quality)), len(self._names)), np.nan)
            self._quality, self._cost = np.vstack([self._quality, more]), np.vstack([self._cost, more])
        self._quality[row], self._cost[row] = np.nan, np.nan
        self._quality[row, columns], self._cost[row, columns] = quality, cost
        self._added += 1

    def _column(self, name: str) -> int:
        if name not in self._names:
            self._names.append(name)
            blank = np.full((len(self._quality), 1), np.nan)
            self._quality, self._cost = np.hstack([self._quality, blank]), np.hstack([self._cost, blank])
        return self._names.index(name)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return {
            "names": np.array(self._names, dtype=np.str_),
            "added": np.array(self._added),
            "quality": self._quality.copy(),
            "cost": self._cost.copy(),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Raises: ValueError where the sample is of another size."""
        rows = len(state["quality"])
        if not min(self.size, int(state["added"])) <= rows <= self.size:
            raise ValueError(f"stored sample has {rows} rows, expected {self.size} at most")
        self._names = [str(name) for name in state["names"]]
        self._added = int(state["added"])
        self._quality = np.array(state["quality"], dtype=np.float64)
        self._cost = np.array(state["cost"], dtype=np.float64)
