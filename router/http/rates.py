"""How often a key or a tenant may do what costs no money, counted in this process. Pure arithmetic; fails nowhere."""

from __future__ import annotations

from collections.abc import Callable

from router.errors import RateLimited

MOST = 100_000  # names remembered; whoever was idle longest is forgotten, and may do as much as a new one


class Rates:
    """A token bucket for each name: `per_minute` at once, and as many again each minute."""

    def __init__(self, what: str, per_minute: int, *, clock: Callable[[], float], most: int = MOST) -> None:
        self._what, self._per_minute, self._clock, self._most = what, per_minute, clock, most
        self._left: dict[str, tuple[float, float]] = {}  # by name, longest idle first: what was left, and when

    def take(self, name: str) -> None:
        """Raises: RateLimited, which says when the next one fits."""
        now = self._clock()
        left, then = self._left.pop(name, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + max(0.0, now - then) * self._per_minute / 60.0)
        self._left[name] = left - 1.0 if left >= 1.0 else left, now
        if len(self._left) > self._most:
            del self._left[next(iter(self._left))]
        if left < 1.0:
            wait_s = (1.0 - left) * 60.0 / self._per_minute
            message = f"{name} is limited to {self._per_minute} {self._what} a minute. Try again in {wait_s:.1f} s."
            raise RateLimited(message, retry_after_s=wait_s)
