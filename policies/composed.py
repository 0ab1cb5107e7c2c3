"""A named policy is one estimator, one pacer and one explorer: argmax q̂ − (λ + μ + γ) · ĉ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.types import Estimator, Explorer, History, Outcome, Pacer, Proposal, RouteContext, Snapshot


@dataclass(slots=True)
class Composed:
    """The formula, with its three parts."""

    estimator: Estimator
    pacer: Pacer
    explorer: Explorer

    def propose(self, context: RouteContext) -> Proposal:
        estimates = self.estimator.estimate(context)
        prices = self.pacer.prices(context, estimates)
        scores = estimates.quality - prices * estimates.cost
        probabilities, scores = self.explorer.probabilities(context, estimates, scores)
        return Proposal(probabilities, estimates, prices, scores)

    def learn(self, outcome: Outcome) -> None:
        self.estimator.learn(outcome)
        self.pacer.learn(outcome)

    def refit(self, history: History) -> None:
        self.estimator.refit(history)
        self.pacer.refit(history)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return {
            f"{part}.{key}": value
            for part in ("estimator", "pacer")
            for key, value in self._part(part).state().items()
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        for part in ("estimator", "pacer"):
            prefix = f"{part}."
            self._part(part).restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def _part(self, name: str) -> Snapshot:
        part: Snapshot = getattr(self, name)
        return part
