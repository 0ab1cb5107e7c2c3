"""Counts of one worker, as plain data: what several workers counted adds up to what the gateway did."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

import msgspec

SECONDS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
STATES = ("closed", "half-open", "open")  # of a breaker, from good to bad
Labels = tuple[str, ...]


class MetricCounts(msgspec.Struct):
    """Everything that is counted, by name and labels. Gauges are of a worker that lives."""

    counters: dict[str, dict[Labels, int | float]] = {}
    histograms: dict[str, dict[Labels, list[float]]] = {}  # a count for each bucket, one beyond the last, and the sum
    holds: int = 0
    backends: dict[str, bool] = {}  # whether each answers
    breakers: dict[tuple[str, str], str] = {}  # backend, engine -> state

    def counter(self, name: str) -> Counter[Labels]:
        """One that may be counted in."""
        made: Counter[Labels] = Counter()
        self.counters[name] = made  # type: ignore[assignment]  # money is whole nano-USD, and so are its sums
        return made

    def add(self, other: MetricCounts, *, lives: bool = True) -> None:
        """What another worker counted; of one that is gone, its gauges are too."""
        for name, counts in other.counters.items():
            own = self.counters.setdefault(name, {})
            for labels, count in counts.items():
                own[labels] = own.get(labels, 0) + count
        for name, rows in other.histograms.items():
            mine = self.histograms.setdefault(name, {})
            for labels, row in rows.items():
                mine[labels] = [a + b for a, b in zip(mine.get(labels, empty()), row, strict=True)]
        if lives:
            self._add_gauges(other)

    def _add_gauges(self, other: MetricCounts) -> None:
        """Of a state that workers see differently, the worst."""
        self.holds += other.holds
        for name, is_up in other.backends.items():
            self.backends[name] = is_up and self.backends.get(name, True)
        for pair, state in other.breakers.items():
            self.breakers[pair] = max(state, self.breakers.get(pair, state), key=STATES.index)


def empty() -> list[float]:
    """A histogram's row that nothing was seen for."""
    return [0.0] * (len(SECONDS) + 2)


def see(rows: dict[Labels, list[float]], labels: Labels, seconds: float) -> None:
    """Count a duration."""
    row = rows.get(labels)
    if row is None:
        row = rows[labels] = empty()
    row[bisect_left(SECONDS, seconds)] += 1
    row[-1] += seconds


def sum_of(tallies: Iterable[MetricCounts]) -> MetricCounts:
    """Of workers that live."""
    total = MetricCounts()
    for tally in tallies:
        total.add(tally)
    return total
