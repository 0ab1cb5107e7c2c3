"""How many connections there may be, and which one makes room. What a head may be and how long it may take to come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class Resting(Protocol):
    """A connection between two requests."""

    def make_room(self) -> None:
        """Close at once."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """How long a head may be, how long it may take to come, and how many connections there may be."""

    head_bytes: int = 64 * 1024
    headers: int = 100
    head_s: float = 10.0
    idle_s: float = 75.0  # between two requests: longer than clients keep a connection, so that they close it first
    stalled_s: float = 60.0  # without taking anything of an answer
    connections: int = 8_192
    per_address: int | None = None
    ahead_bytes: int = 64 * 1024  # of the next requests, kept while one is answered
    body_bytes: int = 16 * 1024 * 1024  # of a body whose end only the parser sees; as many again for its framing

    @property
    def silent_s(self) -> float:
        """Before the first byte of a connection, which nobody has any reason to keep."""
        return min(self.head_s, self.idle_s)


@dataclass(slots=True)
class Connections:
    """Those of one worker process. One between two requests makes room for a new one where there are too many."""

    limits: HeadLimits
    turned_away: Callable[[int, str, str], None] = lambda *_: None  # status, code, path
    open: int = 0
    by_address: Counter[str] = field(default_factory=Counter)
    resting: dict[Resting, str] = field(default_factory=dict)  # between two requests, the longest first; its address
    ending: bool = False  # the server stops: nobody rests any more

    def admit(self, address: str) -> str | None:
        """Count a connection in; or why not."""
        most, per_address = self.limits.connections, self.limits.per_address
        if per_address is not None and self.by_address[address] >= per_address and not self._close_one(address):
            return f"{per_address} connections from this address are open, which is the limit"
        if self.open >= most and not self._close_one():
            return f"{most} connections are open, which is the limit of this gateway"
        self.open += 1
        self.by_address[address] += 1
        return None

    def end(self) -> None:
        """The server stops: close those at rest, and from now on each after its request."""
        self.ending = True
        while self._close_one():
            pass

    def leave(self, address: str) -> None:
        """A connection that was counted in is gone."""
        self.open -= 1
        self.by_address[address] -= 1
        if not self.by_address[address]:
            del self.by_address[address]

    def _close_one(self, address: str | None = None) -> bool:
        """The one that has rested longest, of an address or of all; whether there was one."""
        longest = next((each for each, its in self.resting.items() if address in (None, its)), None)
        if longest is not None:
            longest.make_room()
        return longest is not None
