"""The time that orders the money of one machine: its wall clock, as long as that can be believed. Fails nowhere.

Wall time is compared with the clock that runs since the machine booted. After a jump of more than JUMP_MS the money's
time goes on as if there had been none, and nothing is reserved until somebody confirms the jump. The money's time never
runs backwards: where the wall clock is behind the newest row, it goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

JUMP_MS = 60_000  # by which the wall clock may be moved unasked


def boot_ms() -> int:
    """Milliseconds since the machine was booted, or since another fixed moment; nobody can set this clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000_000


class Facts(NamedTuple):
    """The row of the table of that name."""

    newest_ms: int  # the newest time that was written
    keys: int  # the version of the keys
    ahead_ms: int  # by how much the money's time is ahead of the wall clock, since that was moved back
    confirmed_ms: int  # what the wall clock was ahead of the boot clock when somebody confirmed it


class Timekeeper:
    """The money's time in this process. `boot`: None where the clock is believed whatever it says."""

    def __init__(self, clock: Callable[[], int], *, boot: Callable[[], int] | None) -> None:
        self._clock, self._boot = clock, boot
        self._offset_ms = 0 if boot is None else clock() - boot()
        self.facts = Facts(0, 0, 0, 0)

    def begin(self) -> None:
        """Go on from the newest row where the wall clock was moved back while nobody ran."""
        behind_ms = self.facts.newest_ms - self.facts.ahead_ms - self._clock()
        if self._boot is not None and behind_ms > JUMP_MS:
            self._offset_ms += behind_ms

    def idle_ms(self) -> int:
        """How far this start is past the newest row; 0 where none was written, or nobody watches the clock."""
        return 0 if self._boot is None or not self.facts.newest_ms else self.now_ms() - self.facts.newest_ms

    def now_ms(self) -> int:
        """The money's time."""
        return max(self._believed()[0] + self.facts.ahead_ms, self.facts.newest_ms)

    def jump_ms(self) -> int:
        """By how much the wall clock has jumped ahead, or back; 0 where it has not, or somebody has confirmed it."""
        believed_ms, jump_ms = self._believed()
        behind_ms = self.facts.newest_ms - believed_ms - self.facts.ahead_ms
        return jump_ms or (-behind_ms if behind_ms > JUMP_MS else 0)

    def confirmed(self) -> Facts:
        """What the facts are once the wall clock is believed as it is now."""
        wall_ms = self._clock()
        offset_ms = 0 if self._boot is None else wall_ms - self._boot()
        ahead_ms = max(0, self.now_ms() - wall_ms)
        return self.facts._replace(ahead_ms=ahead_ms, confirmed_ms=max(0, offset_ms))

    def _believed(self) -> tuple[int, int]:
        """The wall clock, or what it should say, and by how much it differs from that."""
        wall_ms = self._clock()
        if self._boot is None:
            return wall_ms, 0
        boot_ms = self._boot()
        offset_ms = wall_ms - boot_ms
        jump_ms = offset_ms - self._offset_ms
        if abs(jump_ms) > JUMP_MS and abs(offset_ms - self.facts.confirmed_ms) > JUMP_MS:
            return boot_ms + self._offset_ms, jump_ms
        self._offset_ms = offset_ms  # which small corrections may change
        return wall_ms, 0


def why_stopped(jump_ms: int) -> str:
    """What to tell whoever wants to reserve."""
    way = "ahead" if jump_ms > 0 else "back"
    return (
        f"The clock of this machine has jumped {way} by {abs(jump_ms) / 1000:.0f} s; nothing is reserved until it is"
        " set right or confirmed (pointsman clock confirm, or POST /admin/v1/clock/confirm)."
    )
