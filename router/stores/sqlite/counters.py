"""What one limit has counted, as a row of the table `counters`. Pure integer arithmetic; fails nowhere.

Nothing goes below zero or beyond TOP, whatever is asked.
"""

from __future__ import annotations

import msgspec

from router.stores.limits import Gauge, window_of
from router.stores.sqlite.schema import TOP

Parts = list[tuple[int, int]]  # when it stops counting, in milliseconds, and how much it is; ascending
Row = tuple[str, str, int, int, int, int, str]

COLUMNS = "scope, meter, spent, held, fresh, ends_ms, past"
NO_PARTS = "[]"

_decode = msgspec.json.Decoder(Parts).decode
_encode = msgspec.json.Encoder().encode


class WindowCounter:
    """Spent within a window and held beyond it. `fresh` of `spent` counts until `ends_ms`, `past` until earlier."""

    __slots__ = ("changed", "ends_ms", "fresh", "held", "meter", "past", "scope", "spent", "window")

    def __init__(self, row: Row) -> None:
        self.scope, self.meter, self.spent, self.held, self.fresh, self.ends_ms, self.past = row
        self.window = window_of(self.meter)
        self.changed = False

    @property
    def row(self) -> Row:
        """As the table keeps it."""
        return self.scope, self.meter, self.spent, self.held, self.fresh, self.ends_ms, self.past

    def roll(self, now_ms: int) -> None:
        """Forget what has stopped counting; from now on something later counts in a part of its own."""
        ends_ms = self.window.ends_ms(now_ms)
        if ends_ms <= self.ends_ms:
            return
        if self.spent:
            parts = [part for part in self._parts() if part[0] > now_ms and part[1]]
            self.spent = sum([amount for _, amount in parts])
            self.past, self.fresh = _text(parts), 0
        self.ends_ms = ends_ms
        self.changed = True

    def hold(self, amount: int) -> None:
        """Hold so much more, or less."""
        self.held = min(max(0, self.held + amount), TOP)
        self.changed = True

    def count(self, at_ms: int, amount: int) -> None:
        """So much more was spent at this moment, or less; what has stopped counting stays as it is."""
        ends_ms = self.window.ends_ms(at_ms)
        if ends_ms == self.ends_ms:
            added = min(max(-self.fresh, amount), TOP - self.spent)
            self.fresh += added
        else:
            added = self._correct(ends_ms, amount)
        self.spent += added
        self.changed = True

    def _correct(self, ends_ms: int, amount: int) -> int:
        """Add to an older part; how much was added."""
        window = self.window
        if not self.ends_ms - (window.keep + 1) * window.width_ms < ends_ms < self.ends_ms:
            return 0
        parts = dict(self._parts()[:-1])
        known = parts.get(ends_ms, 0)
        added = min(max(-known, amount), TOP - self.spent)
        parts[ends_ms] = known + added
        self.past = _text(sorted(parts.items()))
        return added

    def _parts(self) -> Parts:
        """All of them, the newest last."""
        past = [] if self.past == NO_PARTS else _decode(self.past)
        return [*past, (self.ends_ms, self.fresh)]

    def wait_ms(self, gauge: Gauge, need: int, now_ms: int) -> int:
        """Milliseconds until `need` fits, if nothing else comes. Holds are taken to last."""
        if gauge.kind == "concurrent":
            return 1000
        over = self.spent + self.held + need - gauge.limit
        for ends_ms, amount in self._parts():
            over -= amount
            if over <= 0:
                return max(1, ends_ms - now_ms)
        return max(1, self.ends_ms - now_ms)


def _text(parts: Parts) -> str:
    return _encode(parts).decode() if parts else NO_PARTS
