"""When the mean of a series moved, and how sure that is. Pure.

The drift of policies.estimators corrects what is expected next, and has no rate of false alarms; this test has one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.lazy_module import LazyModule
from policies.types import Float

special = LazyModule("scipy.special")

Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Change:
    """The most likely place of one change of a mean, whether there was one or not."""

    at: int  # the first value after it
    p: float  # chance of so large a statistic where nothing changed
    shift: float  # mean after less mean before
    low: float  # 95 % interval of the shift, as if its place had been known
    high: float


def change_of(values: Float) -> Change:
    """By CUSUM: max_k |S_k - (k/n) S_n| / (s sqrt n), of residuals (n,) in order, n at least 4.

    Its limit is the largest distance of a Brownian bridge from 0 (Ploberger and Krämer 1992), whose tail is
    Kolmogorov's. Below a few hundred values the true p is smaller. One change is found best in the middle of a series.
    Raises: ValueError for fewer values.
    """
    count = len(values)
    if count < 4:
        raise ValueError(f"{count} values cannot show a change, at least 4 can")
    spread = float(np.std(values, ddof=1))
    walk = np.abs(np.cumsum(values - values.mean()))[:-1]
    at = int(np.argmax(walk)) + 1
    before, after = values[:at], values[at:]
    shift = float(after.mean() - before.mean())
    half = Z95 * spread * float(np.sqrt(1.0 / len(before) + 1.0 / len(after)))
    p = float(special.kolmogorov(walk[at - 1] / (spread * np.sqrt(count)))) if spread > 0.0 else 1.0
    return Change(at, p, shift, shift - half, shift + half)
