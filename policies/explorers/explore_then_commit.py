"""PORT's two phases: every arm alike until its dual is solved, then the best score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from policies.explorers.greedy import Greedy, Uniform
from policies.types import Estimates, Float, RouteContext


class Phase(Protocol):
    """Knows whether the random phase still runs."""

    @property
    def exploring(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class ExploreThenCommit:
    """Uniform while exploring, then greedy."""

    phase: Phase

    def probabilities(self, context: RouteContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        explorer = Uniform() if self.phase.exploring else Greedy()
        return explorer.probabilities(context, estimates, scores)
