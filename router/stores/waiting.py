"""What waits to be stored, to be taken in the order of the file. Pure; fails nowhere.

Neighbours share a page, so storing them together costs less. Hundreds of thousands of them are sorted a part at a time:
all at once would stop the event loop for as long as that takes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

T = TypeVar("T")

PART = 2048  # sorted at once, in a millisecond or two
LEAST = 100  # taken at once, if so many are left


class Waiting(Generic[T]):
    """Things in any order; those taken come in ascending order of `key`."""

    def __init__(self, key: Callable[[T], Any]) -> None:
        self._key = key
        self._unsorted: list[T] = []
        self._sorted: list[list[T]] = []
        self._merged: Iterator[T] = iter(())
        self._left = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._left

    def add(self, things: Iterable[T]) -> None:
        """More of them; what waits already is sorted again."""
        for part in (self._merged, *self._sorted, things):
            self._unsorted.extend(part)
        self._merged, self._sorted, self._left = iter(()), [], len(self._unsorted)

    def sort_some(self) -> bool:
        """Sort one part; False where all are sorted."""
        if not self._unsorted:
            return False
        part = self._unsorted[-PART:]
        del self._unsorted[-PART:]
        part.sort(key=self._key)
        self._sorted.append(part)
        if not self._unsorted:
            self._merged, self._sorted = heapq.merge(*self._sorted, key=self._key), []
        return True

    def take(self, parts: int) -> list[T]:
        """One of so many parts of what is left and sorted, and LEAST of them at least."""
        taken = list(islice(self._merged, max(LEAST, -(-self._left // parts))))
        self._left -= len(taken)
        return taken
