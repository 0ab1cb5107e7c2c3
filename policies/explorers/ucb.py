"""Optimism: each arm is taken for as good as it may well be (LinUCB, arXiv 1003.0146)."""

from __future__ import annotations

from dataclasses import dataclass

from policies.explorers.greedy import point
from policies.types import Estimates, Float, LoggedContext


@dataclass(frozen=True, slots=True)
class Ucb:
    """argmax of score + width · σ."""

    width: float = 0.5  # standard deviations

    def __post_init__(self) -> None:
        if not self.width >= 0:
            raise ValueError(f"width is {self.width}, expected ≥ 0")

    def probabilities(self, context: LoggedContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        hopeful = scores + self.width * estimates.sigma
        return point(hopeful, estimates.cost), hopeful
