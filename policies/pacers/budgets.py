"""Budgets of arms and one for all of them, as the resources a dual puts prices on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from policies.types import Float


@dataclass(frozen=True, slots=True)
class Budgets:
    """USD over one horizon of queries. Arms not named are bound by the shared budget only."""

    horizon: int  # queries
    shared: float = float("inf")  # USD
    arms: Mapping[str, float] = field(default_factory=dict)  # name -> USD

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon} queries, expected ≥ 1")
        for name, usd in {"budget": self.shared, **self.arms}.items():
            if not usd >= 0:
                raise ValueError(f"the budget {name} is {usd} USD, expected ≥ 0")

    def resources(self, names: Sequence[str]) -> tuple[Float, Float]:
        """(cover (R, n) of zeros and ones: which arms draw on which budget, limits (R,) USD); the finite ones only."""
        rows = [(np.array([name == arm for arm in names], float), usd) for name, usd in self.arms.items()]
        rows.append((np.ones(len(names)), self.shared))
        finite = [(cover, usd) for cover, usd in rows if np.isfinite(usd) and cover.any()]
        return np.array([cover for cover, _ in finite]).reshape(-1, len(names)), np.array([usd for _, usd in finite])

    def less(self, spent: Mapping[str, float]) -> Budgets:
        """What is left, never below zero, after these USD by arm."""
        left = {name: max(0.0, usd - spent.get(name, 0.0)) for name, usd in self.arms.items()}
        return Budgets(self.horizon, max(0.0, self.shared - sum(spent.values())), left)
