"""Look around while arms are unknown, then keep to what is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from policies.types import Estimates, Explorer, Float, RouteContext


@dataclass(frozen=True, slots=True)
class WarmUp:
    """`early` until `knows(context)`, then `late`: a new gateway and a new arm are met with open eyes."""

    knows: Callable[[RouteContext], bool]
    early: Explorer
    late: Explorer

    def probabilities(self, context: RouteContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        explorer = self.late if self.knows(context) else self.early
        return explorer.probabilities(context, estimates, scores)
