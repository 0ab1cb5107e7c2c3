"""A circuit breaker: an engine that keeps failing is left alone for a while, then tried with one request.

The ban doubles with every opening, 10 s x 2^n by default,
as Petals bans unreliable servers (Borzunov et al., NeurIPS 2023).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When to open and for how long (seconds)."""

    failures: int = 5  # in a row
    ratio: float = 0.5  # of the last `window` requests
    window: int = 20
    ban_s: float = 10.0
    longest_ban_s: float = 600.0


class Breaker:
    """Closed until an engine fails `failures` times in a row or in `ratio` of its last `window` requests.

    Open, it admits nothing until the ban is over. Then it is half-open and admits one request at a time: an answer
    closes it, a failure opens it for twice as long.
    """

    def __init__(self, clock: Callable[[], float], rule: BreakerRule | None = None) -> None:
        self._clock = clock
        self._rule = rule or BreakerRule()
        self._outcomes: deque[bool] = deque(maxlen=self._rule.window)  # True: failed
        self._in_a_row = 0
        self._openings = 0  # since it last recovered
        self._open_until: float | None = None
        self._probing = False
        self._era = 0  # grows with every opening: what began in an earlier one says nothing of this one

    @property
    def state(self) -> State:
        """What it is now."""
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half-open"

    @property
    def admits(self) -> bool:
        """Whether a request may go through now."""
        return self._open_until is None or (self.state == "half-open" and not self._probing)

    def begin(self) -> int:
        """A request goes through; its era comes back with one of succeed, fail or abandon.

        It may go through although none is admitted, where there is nobody else: an answer then closes the breaker, and
        a failure says nothing new.
        """
        if self.admits:
            self._probing = self._open_until is not None
        return self._era

    def succeed(self, era: int) -> None:
        """The engine answered."""
        if era != self._era:
            return
        self._probing = False
        self._in_a_row = 0
        if self._open_until is not None:
            self._open_until = None
            self._openings = 0
        self._outcomes.append(False)

    def fail(self, era: int) -> None:
        """The engine failed."""
        if era != self._era or self.state == "open":
            return
        self._in_a_row += 1
        self._outcomes.append(True)
        if self._probing or self._in_a_row >= self._rule.failures or self._failing_often():
            self._open()

    def abandon(self, era: int) -> None:
        """The request says nothing of the engine: the client's own mistake, or the client left."""
        if era == self._era:
            self._probing = False

    def _failing_often(self) -> bool:
        full = len(self._outcomes) == self._rule.window
        return full and sum(self._outcomes) >= self._rule.ratio * self._rule.window

    def _open(self) -> None:
        ban_s = min(self._rule.ban_s * 2.0**self._openings, self._rule.longest_ban_s)
        self._openings += 1
        self._era += 1
        self._probing = False
        self._in_a_row = 0
        self._outcomes.clear()
        self._open_until = self._clock() + ban_s
