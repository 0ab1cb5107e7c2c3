"""How many queries will come: a rate that is learned, over the hours of a week as they are used."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.types import Float

FORGET = 0.999  # a query's weight in the arrival rate, for each query that came after it
PRIOR_QUERIES = 10.0  # what the rate believed at the start is worth
HOUR_S = 3600.0
HOURS = 168  # of a week
CALM = 50.0  # queries that an hour is taken for usual by
OLD_WEEKS = 0.5 ** (1.0 / (4.0 * HOURS))  # what an hour's count keeps from one hour to the next: half after four weeks
LONGEST_GAP_S = HOURS * HOUR_S  # a clock that jumps further says nothing


class Arrivals:
    """The queries of one budget: a rate per second of ordinary traffic, and how busy each hour of the week is beside
    the others. An hour that nothing is known of is as busy as all are."""

    def __init__(self, queries_per_s: float) -> None:
        self.count = 0  # queries ever
        self._counted = PRIOR_QUERIES
        self._elapsed_s = PRIOR_QUERIES / queries_per_s  # in seconds of ordinary traffic
        self._last_s = math.nan
        self._queries: Float = np.zeros(HOURS)  # by hour of the week, fading
        self._seconds: Float = np.zeros(HOURS)  # that were watched, fading
        self._profile()

    @property
    def rate(self) -> float:
        """Queries in a second of ordinary traffic."""
        return self._counted / self._elapsed_s

    def add(self, now_s: float) -> None:
        """A query came."""
        self.count += 1
        last = self._last_s
        if math.isnan(last):
            self._last_s = now_s
            return
        gap = now_s - last
        self._counted = self._counted * FORGET + 1.0
        if not 0.0 <= gap <= LONGEST_GAP_S:
            self._elapsed_s = self._elapsed_s * FORGET + self._elapsed_s / self._counted
            self._last_s = now_s
            return
        self._elapsed_s = self._elapsed_s * FORGET + self._ordinary_s(last, gap)
        self._watch(last, now_s)
        self._last_s = now_s

    def expected(self, now_s: float, seconds: float) -> float:
        """Queries in the seconds from now on."""
        return self.rate * self._ordinary_s(now_s, seconds)

    def _watch(self, start_s: float, end_s: float) -> None:
        """Time passed and a query came at its end; the profile follows at the end of each hour."""
        hour, last = math.floor(start_s / HOUR_S), math.floor(end_s / HOUR_S)
        while hour < last:
            edge = (hour + 1) * HOUR_S
            self._seconds[hour % HOURS] += edge - start_s
            start_s, hour = edge, hour + 1
            self._queries *= OLD_WEEKS
            self._seconds *= OLD_WEEKS
        if end_s > start_s:
            self._seconds[hour % HOURS] += end_s - start_s
        self._queries[hour % HOURS] += 1.0
        if math.floor(self._last_s / HOUR_S) != hour:
            self._profile()

    def _profile(self) -> None:
        """How busy each hour is, beside all hours that were watched; and the ordinary seconds since the week began."""
        rate = self._queries.sum() / max(float(self._seconds.sum()), 1e-9)
        busy = (self._queries + CALM) / (rate * self._seconds + CALM) if rate > 0.0 else np.ones(HOURS)
        self._sums: list[float] = np.concatenate([[0.0], np.cumsum(busy * HOUR_S)]).tolist()

    def _ordinary_s(self, start_s: float, seconds: float) -> float:
        """Seconds of ordinary traffic in these seconds."""
        return self._since(start_s + seconds) - self._since(start_s)

    def _since(self, at_s: float) -> float:
        """Ordinary seconds since the first Thursday of 1970."""
        weeks, left = divmod(at_s, HOURS * HOUR_S)
        hour, within = divmod(left, HOUR_S)
        at = min(int(hour), HOURS - 1)
        busy = (self._sums[at + 1] - self._sums[at]) / HOUR_S
        return weeks * self._sums[-1] + self._sums[at] + within * busy

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        numbers = np.array([self.count, self._counted, self._elapsed_s, self._last_s])
        return {"numbers": numbers, "hours": np.stack([self._queries, self._seconds]), "sums": np.array(self._sums)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        count, self._counted, self._elapsed_s, self._last_s = np.array(state["numbers"], np.float64).tolist()
        self.count = int(count)
        self._queries, self._seconds = np.array(state["hours"], np.float64)
        self._sums = np.array(state["sums"], np.float64).tolist()
