"""A mean with its 95 % interval: over seeds, prompts or pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.lazy_module import LazyModule
from policies.types import Float

special = LazyModule("scipy.special")


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of `count` values, with Student's 95 % interval and the standard deviation of the values."""

    mean: float
    low: float
    high: float
    std: float
    count: int


def interval_of(values: Float) -> Interval:
    """Of values (n,), n at least 1. One value says nothing of the others: its interval is the point."""
    mean, count = float(np.mean(values)), len(values)
    std = float(np.std(values, ddof=1)) if count > 1 else 0.0
    half = float(special.stdtrit(count - 1, 0.975)) * std / np.sqrt(count) if count > 1 else 0.0
    return Interval(mean, mean - half, mean + half, std, count)
