"""Least-squares lines over counts of tokens, of which later answers count for more. Pure."""

from __future__ import annotations

from typing import NamedTuple

from policies.machine_pricing import TokenLine

LEVEL = 1e-3  # of the squared mean: less variance than that says nothing of a slope


class LineSums(NamedTuple):
    """Of counted tokens l and found tokens r."""

    n: float = 0.0
    lengths: float = 0.0
    squares: float = 0.0
    found: float = 0.0
    products: float = 0.0

    def plus(self, length: float, found: float, *, decay: float) -> LineSums:
        """With one more answer, and less of each before."""
        one = (1.0, length, length * length, found, length * found)
        return LineSums(*[decay * known + new for known, new in zip(self, one, strict=True)])

    def line(self, *, steepest: float, doubt: float) -> TokenLine:
        """Through the mean where lengths do not differ; believed by half after `doubt` answers."""
        mean, level = self.lengths / self.n, self.found / self.n
        variance = self.squares / self.n - mean * mean
        flat = variance <= LEVEL * mean * mean
        slope = level / mean if flat else (self.products / self.n - mean * level) / variance
        slope = min(max(slope, 0.0), steepest)
        return TokenLine(level - slope * mean, slope, self.n**2 / (self.n**2 + doubt**2))
