"""`pointsman` on a clock that only `benchmarks.live` moves, a second for each query: `… live_gateway CLOCK serve …`.

CLOCK is a file of eight bytes, the seconds since 1970. Nothing else differs from the program that is installed.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

SECONDS = struct.Struct("<d")


class MovedClock:
    """The time in a file, which whoever has it mapped may read and move."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._at = mmap.mmap(file.fileno(), SECONDS.size)

    def time(self) -> float:
        """Seconds since 1970."""
        return float(SECONDS.unpack_from(self._at)[0])

    def move(self, seconds: float) -> None:
        """Let time pass."""
        SECONDS.pack_into(self._at, 0, self.time() + seconds)


def started(path: Path, at_s: float) -> MovedClock:
    """A clock in a new file."""
    path.write_bytes(SECONDS.pack(at_s))
    return MovedClock(path)


def main() -> int:
    """Put the clock in the place of the machine's, then run."""
    clock, real = MovedClock(Path(sys.argv.pop(1))), time.clock_gettime_ns
    booted = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    time.time = clock.time
    time.time_ns = lambda: int(clock.time() * 1e9)
    time.clock_gettime_ns = lambda which: time.time_ns() if which == booted else real(which)
    from pointsman.__main__ import main as run  # noqa: PLC0415  (only once the clock is the other)

    return run()


if __name__ == "__main__":
    sys.exit(main())
