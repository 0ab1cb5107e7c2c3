"""One friendly number for the trade-off: 1 is the best answer, 0 the cheapest, between lies a price of quality."""

from __future__ import annotations

import math

REFERENCE_USD = 0.001
STEEPEST = 1e12


def preference_price(preference: float, *, reference_usd: float = REFERENCE_USD) -> float:
    """λ in 1/USD of a knob in [0, 1]: ((1 − p) / p)² / reference_usd, strictly falling, 0 at p = 1.

    `reference_usd` is what a full point of quality on one request is worth at p = 1/2. At p = 0 the price is so steep
    (10¹² / reference_usd) that any difference in cost outweighs any difference in quality.
    Raises: ValueError outside [0, 1] and for a reference that is not positive.
    """
    if not 0.0 <= preference <= 1.0:
        raise ValueError(f"preference is {preference}, expected 0 (cheapest) … 1 (best)")
    if not reference_usd > 0.0:
        raise ValueError(f"reference_usd is {reference_usd}, expected > 0")
    if preference < 1.0 / (1.0 + STEEPEST**0.5):
        return STEEPEST / reference_usd
    return ((1.0 - preference) / preference) ** 2 / reference_usd


def knob_of(price: float, *, reference_usd: float = REFERENCE_USD) -> float:
    """The knob in [0, 1] of a λ in 1/USD: the inverse of preference_price(), to rounding."""
    if price >= STEEPEST / reference_usd:
        return 0.0
    return 1.0 / (1.0 + math.sqrt(price * reference_usd))
