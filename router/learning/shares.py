"""Things of many owners, a bounded number of them: the oldest of whoever has most goes first.

So nobody loses a thing while somebody else has more, and what is kept follows from the order of what was put in alone.
Arithmetic only; fails nowhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Shares(Generic[T]):
    """At most `most` things by name."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[str, tuple[str, T]] = {}  # owner and thing, by name
        self._of: dict[str, dict[str, None]] = {}  # names of each owner, oldest first
        self._heap: list[tuple[int, str]] = []  # (−how many, owner), some of them out of date

    def __len__(self) -> int:
        return len(self._found)

    def get(self, name: str) -> T | None:
        """The thing of this name."""
        found = self._found.get(name)
        return None if found is None else found[1]

    def put(self, owner: str, name: str, thing: T) -> None:
        """Keep a thing; one of its name takes its place and becomes the newest."""
        self._remove(name)
        self._found[name] = owner, thing
        self._of.setdefault(owner, {})[name] = None
        self._count(owner)
        while len(self._found) > self._most:
            self._forget()

    def items(self) -> Iterator[tuple[str, str, T]]:
        """(owner, name, thing): each owner's oldest first."""
        for owner, names in self._of.items():
            for name in names:
                yield owner, name, self._found[name][1]

    def _forget(self) -> None:
        while True:
            count, owner = heapq.heappop(self._heap)
            names = self._of.get(owner, {})
            if -count == len(names):
                self._remove(next(iter(names)))
                return

    def _remove(self, name: str) -> None:
        found = self._found.pop(name, None)
        if found is None:
            return
        names = self._of[found[0]]
        del names[name]
        if names:
            self._count(found[0])
        else:
            del self._of[found[0]]

    def _count(self, owner: str) -> None:
        heapq.heappush(self._heap, (-len(self._of[owner]), owner))
        if len(self._heap) > 4 * len(self._found) + 64:  # most are out of date
            self._heap = [(-len(names), each) for each, names in self._of.items()]
            heapq.heapify(self._heap)
