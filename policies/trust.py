"""How far each tenant's judgements are believed by others: as far as they agree with what others said of like queries.

A judgement is compared with the mean of the other tenants' scores of the same model on the nearest queries, each by the
trust in it. A tenant whose squared error is that of the usual tenant is believed wholly, and one whose error is r times
as large by (slack / r)⁶, at most 1. An inverted judgement of a good answer is several times too far off. Robust
aggregation by agreement goes back to Dawid and Skene (1979). A tenant always believes what it said itself.
Arithmetic only; fails nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

WINDOW = 400.0  # judgements remembered of each tenant, the latest most
PRIOR = 40.0  # judgements as good as usual that each begins with
SLACK = 1.3  # times the usual error that is no reason to doubt
POWER = 6.0
LEAST = 0.01  # a weight is never zero
FEWEST = 10.0  # judgements from which on a tenant counts for what is usual
WIDER = 2.0  # queries of others shown for each that they are worth
MOST_SHOWN = 1_000.0
EVERY = 16  # judgements between two looks at what is usual; more where thousands of tenants judge


class Trust:
    """Trust in tenants, and in keys within them."""

    def __init__(self) -> None:
        self._errors: dict[str, tuple[float, float]] = {}  # by tenant, or tenant, unit separator, key: count and sum
        self._usual = 0.0  # error of the median tenant; 0 while fewer than two are known
        self._since = 0
        self.changes = 0  # how often trust may have changed

    def of(self, tenant: str) -> float:
        """In (0, 1]: the weight of what this tenant says, for others."""
        return self._weight(tenant)

    def of_key(self, tenant: str, key_id: str) -> float:
        """In (0, 1]: the same of one key, beside its tenant's."""
        return self._weight(_scope(tenant, key_id))

    def rows_for(self, tenant: str) -> float:
        """How many of a tenant's own judgements all that others say is worth to it: σ² / τ².

        A usual judgement varies by σ², and the tenant's differ from theirs by τ² more.
        """
        found = self._errors.get(tenant)
        if found is None or self._usual <= 0.0:
            return math.inf
        return self._usual / max(self._error(*found) - self._usual, 1e-9)

    def shown_to(self, tenant: str) -> int:
        """How many queries of others a tenant is shown beside its own."""
        return math.ceil(min(WIDER * self.rows_for(tenant), MOST_SHOWN))

    def bounded_for(self, tenant: str, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights (k,) of others' queries, which together count as no more than they are worth to a tenant."""
        return weights * min(1.0, self.rows_for(tenant) / max(float(weights.sum()), 1e-9))

    def judged(self, tenant: str, key_id: str, *, score: float, expected: float) -> None:
        """A judgement in [0, 1], where others would have given `expected`."""
        error = (score - expected) ** 2
        for scope in (tenant, _scope(tenant, key_id)):
            count, total = self._errors.get(scope, (0.0, 0.0))
            kept = 1.0 - 1.0 / WINDOW
            self._errors[scope] = count * kept + 1.0, total * kept + error
        self._since += 1
        if self._since >= max(EVERY, len(self._errors) // 64):
            self._since = 0
            self.changes += 1
            self._look()

    def _look(self) -> None:
        means = [s / n for scope, (n, s) in self._errors.items() if "\x1f" not in scope and n >= FEWEST]
        self._usual = float(np.median(means)) if len(means) > 1 else 0.0

    def _weight(self, scope: str) -> float:
        found = self._errors.get(scope)
        if found is None or self._usual <= 0.0:
            return 1.0
        return float(max(LEAST, min(1.0, SLACK * self._usual / self._error(*found)) ** POWER))

    def _error(self, count: float, total: float) -> float:
        """Mean squared error, with the usual one as its prior."""
        return (total + PRIOR * self._usual) / (count + PRIOR)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """Arrays that restore() turns back into this exact state."""
        return {
            "scopes": np.array(list(self._errors), np.str_),
            "errors": np.array(list(self._errors.values()), np.float64).reshape(-1, 2),
            "usual": np.array([self._usual, self._since, self.changes], np.float64),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: ValueError, KeyError where it is of another shape."""
        pairs = np.asarray(state["errors"], np.float64).tolist()
        names = [str(name) for name in state["scopes"].tolist()]
        self._errors = {name: (count, total) for name, (count, total) in zip(names, pairs, strict=True)}
        usual, since, changes = np.asarray(state["usual"], np.float64).tolist()
        self._usual, self._since, self.changes = usual, int(since), int(changes)


def _scope(tenant: str, key_id: str) -> str:
    return f"{tenant}\x1f{key_id}"
