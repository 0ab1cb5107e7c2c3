"""Sums kept for each arm by name, so that arms may come and go while the gateway runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from policies.types import Arm, Float


class Tally:
    """One row of float64 sums for every arm ever seen; rows are only appended."""

    def __init__(self, *shape: int) -> None:
        self._shape = shape
        self._rows: dict[str, int] = {}
        self.sums: Float = np.zeros((0, *shape))  # (M, *shape)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> list[str]:
        """Arms in the order they were first seen."""
        return list(self._rows)

    def row(self, name: str) -> int:
        """The row of an arm, appended as zeros when it is new."""
        if name not in self._rows:
            self._rows[name] = len(self._rows)
            self.sums = np.concatenate([self.sums, np.zeros((1, *self._shape))])
        return self._rows[name]

    def at(self, name: str) -> Float:
        """(*shape,) the sums of an arm, to be added to in place; zeros when it is new."""
        row = self.row(name)
        view: Float = self.sums[row]
        return view

    def find(self, name: str) -> int:
        """The row of an arm, or -1 where it was never seen."""
        return self._rows.get(name, -1)

    def rows(self, arms: Iterable[Arm]) -> NDArray[np.intp]:
        """(n,) rows of these arms, -1 where never seen."""
        find = self._rows.get
        return np.array([find(arm.name, -1) for arm in arms], dtype=np.intp)

    def take(self, arms: Iterable[Arm]) -> Float:
        """(n, *shape) sums of these arms; zeros where never seen."""
        rows = self.rows(arms)
        if len(self._rows) == 0:
            return np.zeros((len(rows), *self._shape))
        taken = self.sums[rows]
        taken[rows < 0] = 0.0
        return taken

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return {"names": np.array(self.names, dtype=np.str_), "sums": self.sums.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Raises: ValueError where the sums have another width."""
        sums = np.array(state["sums"], dtype=np.float64)
        if sums.shape[1:] != self._shape:
            raise ValueError(f"stored rows have shape {sums.shape[1:]}, expected {self._shape}")
        self._rows = {str(name): i for i, name in enumerate(state["names"])}
        self.sums = sums
