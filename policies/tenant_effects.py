"""What each tenant finds of each arm beyond what is expected of it: an honest tenant of another taste gets its own way.

The mean residual of a tenant's judgements, shrunk towards zero as James and Stein (1961) do: what is within the noise
of its judgements moves nothing. Arithmetic only; fails nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from policies.types import Estimates, Outcome, RouteContext

MOST = 20_000  # pairs of tenant and arm; whichever learned longest ago is forgotten first
WINDOW = 200.0  # judgements remembered of each pair
NOISE = 0.25  # least variance of a judgement that is believed
DOUBT = 4.0  # squared standard errors that an effect must exceed


class TenantEffects:
    """Adds to the quality of arms what the asking tenant has found of them."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], tuple[float, float]] = {}  # by tenant and arm: judgements, sum of residuals
        self.known: dict[str, int] = {}  # pairs of each tenant that has any

    def applied(self, context: RouteContext, expected: Estimates) -> Estimates:
        """Estimates for this tenant."""
        found = np.array([self._effect(context.tenant, arm.name) for arm in context.arms])
        if not found.any():
            return expected
        return replace(expected, quality=np.clip(expected.quality + found, 0.0, 1.0))

    def learn(self, outcome: Outcome) -> None:
        """What was expected was expected with the effect of then, which is taken off again."""
        names, expected = outcome.context.names, outcome.expected
        if expected is None or math.isnan(outcome.score) or outcome.arm not in names:
            return
        pair = outcome.context.tenant, outcome.arm
        believed = float(expected.quality[names.index(outcome.arm)]) - self._effect(*pair)
        count, total = self._sums.pop(pair, (0.0, 0.0))
        if count == 0.0:
            self.known[pair[0]] = self.known.get(pair[0], 0) + 1
        kept = 1.0 - 1.0 / WINDOW
        self._sums[pair] = count * kept + 1.0, total * kept + outcome.score - believed
        if len(self._sums) > MOST:
            self._forget()

    def _effect(self, tenant: str, arm: str) -> float:
        count, total = self._sums.get((tenant, arm), (0.0, 0.0))
        if count == 0.0:
            return 0.0
        mean = total / count
        return mean * max(0.0, 1.0 - DOUBT * NOISE / (count * mean * mean)) if mean else 0.0

    def _forget(self) -> None:
        pair = next(iter(self._sums))
        del self._sums[pair]
        self.known[pair[0]] -= 1
        if not self.known[pair[0]]:
            del self.known[pair[0]]

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """Arrays that restore() turns back into this exact state."""
        return {
            "tenants": np.array([tenant for tenant, _ in self._sums], np.str_),
            "arms": np.array([arm for _, arm in self._sums], np.str_),
            "sums": np.array(list(self._sums.values()), np.float64).reshape(-1, 2),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: ValueError, KeyError where it is of another shape."""
        pairs = zip(state["tenants"].tolist(), state["arms"].tolist(), strict=True)
        sums = np.asarray(state["sums"], np.float64).tolist()
        self._sums = {(str(t), str(a)): (count, total) for (t, a), (count, total) in zip(pairs, sums, strict=True)}
        self.known = {}
        for tenant, _ in self._sums:
            self.known[tenant] = self.known.get(tenant, 0) + 1
