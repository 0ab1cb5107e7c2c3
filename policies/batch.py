"""Decisions for many queries at once: what a sweep over a trace needs, without a context for each."""

from __future__ import annotations

import numpy as np

from policies.replay import Rows
from policies.types import Estimates, Float


def choose_batch(estimates: Estimates, prices: Float) -> Rows:
    """(m,) argmax q̂ − price·ĉ for estimates (m, n) and prices of any shape that fits; ties go to the first arm."""
    return np.asarray(np.argmax(estimates.quality - prices * estimates.cost, axis=1), dtype=np.intp)
