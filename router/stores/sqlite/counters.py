"""What one limit has counted, as a row of the table `counters`. Pure integer arithmetic; fails nowhere.

Nothing goes below zero or beyond TOP, whatever is asked.
"""

from __future__ import annotations

import msgspec

from router.stores.limits import Limit
from router.stores.sqlite.schema import TOP

Parts = list[tuple[int, int]]  # when it stops counting, in milliseconds, and how much it is; ascending

COLUMNS = "id, scope, meter, spent, held, fresh, ends_ms, past"
NO_PARTS = "[]"

_decode = msgspec.json.Decoder(Parts).decode
_encode = msgspec.json.Encoder().encode


class WindowCounter(msgspec.Struct, gc=False):
    """Spent within a window and held beyond it. `fresh` of `spent` counts until `ends_ms`, `past` until earlier."""

    id: int
    scope: str
    meter: str
    spent: int = 0
    held: int = 0
    fresh: int = 0
    ends_ms: int = 0
    past: str = NO_PARTS
    changed: bool = False

    def roll(self, now_ms: int, ends_ms: int) -> None:
        """Forget what has stopped counting; from now on things count until `ends_ms`, in a part of their own."""
        if self.spent:
            parts = [part for part in self._parts() if part[0] > now_ms and part[1]]
            self.spent = sum([amount for _, amount in parts])
            self.past, self.fresh = _text(parts), 0
        self.ends_ms = ends_ms

    def count(self, amount: int) -> int:
        """So much more was spent now, or as much as fits; how much that was."""
        amount = min(amount, TOP - self.spent)
        self.fresh += amount
        self.spent += amount
        self.changed = True
        return amount

    def correct(self, ends_ms: int, amount: int) -> None:
        """What counts until then was so much more, or less; what has stopped counting stays as it is."""
        amount = min(amount, TOP - self.spent)
        if ends_ms == self.ends_ms:
            amount = max(amount, -self.fresh)
            self.fresh += amount
        else:
            parts = dict(self._parts()[:-1])
            if ends_ms not in parts:
                return
            amount = max(amount, -parts[ends_ms])
            parts[ends_ms] += amount
            self.past = _text(sorted(parts.items()))
        self.spent += amount
        self.changed = True

    def _parts(self) -> Parts:
        """All of them, the newest last."""
        past = [] if self.past == NO_PARTS else _decode(self.past)
        return [*past, (self.ends_ms, self.fresh)]

    def wait_ms(self, limit: Limit, need: int, now_ms: int) -> int:
        """Milliseconds until `need` fits, if nothing else comes. Holds are taken to last."""
        if limit.kind == "concurrent":
            return 1000
        over = self.spent + self.held + need - limit.limit
        for ends_ms, amount in self._parts():
            over -= amount
            if over <= 0:
                return max(1, ends_ms - now_ms)
        return max(1, self.ends_ms - now_ms)


def _text(parts: Parts) -> str:
    return _encode(parts).decode() if parts else NO_PARTS
