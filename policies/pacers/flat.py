"""No pacing: the only price is the tenant's own preference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.types import Estimates, History, Outcome, Prices, RouteContext

_NONE = Prices()


class Flat:
    """Nothing beyond λ."""

    def prices(self, context: RouteContext, estimates: Estimates) -> Prices:
        return _NONE

    def learn(self, outcome: Outcome) -> None:
        """Nothing to learn."""

    def refit(self, history: History) -> None:
        """Nothing to refit."""

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return {}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        if state:
            raise ValueError(f"a flat pacer keeps nothing, got {sorted(state)}")
