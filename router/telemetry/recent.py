"""What happened of late: counts by the minute, for the last hour, in which several workers' counts add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from router.telemetry.counts import Labels

MINUTES = 60  # that are kept
MINUTE_S = 60
MOST = 10_000  # pairs of a minute and labels


@dataclass(slots=True)
class Recent:
    """How often something was seen under its labels within a window, and in which minute last."""

    count: int = 0
    latest_ms: int = 0  # the beginning of that minute


class RecentCounts:
    """Counts into `rows`, whose labels begin with the minute."""

    def __init__(self, rows: dict[Labels, int], *, clock: Callable[[], float]) -> None:
        self._rows = rows
        self._clock = clock
        self._minute = 0

    def see(self, labels: Labels, *, other: Labels) -> None:
        """Count one; under `other` where too many labels were seen within the hour."""
        minute = int(self._clock() // MINUTE_S)
        if minute != self._minute:
            self._minute = minute
            for gone in [each for each in self._rows if not _is_of(each, minute, MINUTES)]:
                del self._rows[gone]
        at = (str(minute), *labels)
        if at not in self._rows and len(self._rows) >= MOST:
            at = (str(minute), *other)
        self._rows[at] = self._rows.get(at, 0) + 1


def recent(rows: Mapping[Labels, int | float], *, now_s: float, minutes: int) -> dict[Labels, Recent]:
    """By labels without the minute: what was seen in this minute and those before it, `minutes` in all."""
    now = int(now_s // MINUTE_S)
    found: dict[Labels, Recent] = {}
    for labels, count in _within(rows.items(), now, minutes):
        each = found.setdefault(labels[1:], Recent())
        each.count += int(count)
        each.latest_ms = max(each.latest_ms, int(labels[0]) * MINUTE_S * 1000)
    return found


def _within(rows: Iterable[tuple[Labels, int | float]], now: int, minutes: int) -> Iterable[tuple[Labels, int | float]]:
    return ((labels, count) for labels, count in rows if _is_of(labels, now, minutes))


def _is_of(labels: Labels, now: int, minutes: int) -> bool:
    return now - minutes < int(labels[0]) <= now + 1  # another worker's minute may have begun
