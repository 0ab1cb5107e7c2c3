"""The family's candidates: what the gateway offers when nothing else is configured.

A price is the measured time of a token on one core, at MACHINE_USD_PER_HOUR, of which half pays for memory. A width of
k bits takes k/8 of the memory, and of the bytes read, that the parent's 8 bits take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backends.anyprec.names import width_name
from backends.family.packed import STORES, mean_scores
from backends.family.sizes import CONTEXT_TOKENS, SIZES

MACHINE_USD_PER_HOUR = 0.072
# `python -m research.ladder speed`, medians over the widths (they differ by less than the machine's noise)
PROMPT_TOKENS_PER_S = {"small": 12000.0, "medium": 10200.0, "large": 1900.0}
DECODE_TOKENS_PER_S = {"small": 1170.0, "medium": 830.0, "large": 179.0}
OFFERED = {"small": (3, 4, 6), "medium": (3, 4, 6), "large": (3, 4, 6, 8)}


_QUALITY = mean_scores()


@dataclass(frozen=True)
class Candidate:
    """One model at one width. Prices are USD per million tokens."""

    name: str
    parent: str
    bits: int
    parameters: float
    context_tokens: int
    prompt_usd: float
    completion_usd: float
    quality: float  # mean held-out score by the numpy engine, in [0, 1]


def price_usd(tokens_per_s: float, bits: float) -> float:
    """USD per million tokens at a measured speed and width, to three significant digits."""
    seconds = 1e6 / tokens_per_s
    return float(f"{seconds * MACHINE_USD_PER_HOUR / 3600 * (0.5 + 0.5 * bits / 8):.3g}")


def _candidate(parent: str, bits: int) -> Candidate:
    return Candidate(
        name=width_name(parent, bits),
        parent=parent,
        bits=bits,
        parameters=float(SIZES[parent].parameters),
        context_tokens=CONTEXT_TOKENS,
        prompt_usd=price_usd(PROMPT_TOKENS_PER_S[parent], bits),
        completion_usd=price_usd(DECODE_TOKENS_PER_S[parent], bits),
        quality=_QUALITY[width_name(parent, bits)],
    )


WEIGHTS: Mapping[str, Path] = STORES
CATALOGUE: tuple[Candidate, ...] = tuple(
    _candidate(parent, bits) for parent, widths in OFFERED.items() for bits in widths
)
