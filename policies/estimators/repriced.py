"""Costs corrected where an arm lately charged clearly more or less than was expected, so that a new price is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.estimators.tally import Tally
from policies.types import Charger, Estimates, Float, History, Outcome, RouteContext, Snapshot

PACE = 0.05  # of the last surprise that enters the running mean
MEMORY = (PACE / (2.0 - PACE)) ** 0.5  # standard deviation of that mean, for surprises of one
CLEAR = 4.0  # standard deviations from which a surprise is no chance
LEAST = 0.5  # and never less than this: smaller errors are the estimate's own
LARGEST = 4.0  # charged / expected is taken to be no more
SPREAD = 0.25  # variance of a surprise before any was seen; none counts more than one
FACTORS = (-3.0, 3.0)  # bounds of the logarithm of a correction
LOG, MEAN, SQUARE = range(3)


class Repriced:
    """ĉ·f: a running mean of charged / expected − 1 moves f once it is clear of its own noise, and starts again.

    Between changes f stands still, so a stationary world loses nothing. Needs Outcome.expected; without it nothing is
    corrected. Quality is as the estimator within has it.
    """

    def __init__(self, within: Charger) -> None:
        self._within = within
        self._charges = Tally(3)  # log f, running mean of surprises, running mean of their squares less SPREAD

    def estimate(self, context: RouteContext) -> Estimates:
        found = self._within.estimate(context)
        return Estimates(found.quality, found.sigma, found.cost * self._factors(context))

    def costs(self, context: RouteContext) -> Float:
        return self._within.costs(context) * self._factors(context)

    def _factors(self, context: RouteContext) -> Float:
        """(n,) f of each arm."""
        return np.exp(self._charges.take(context.arms)[:, LOG])

    def learn(self, outcome: Outcome) -> None:
        self._within.learn(outcome)
        if outcome.expected is None or outcome.arm not in outcome.context.names or np.isnan(outcome.cost):
            return
        expected = float(outcome.expected.cost[outcome.context.names.index(outcome.arm)])
        if expected > 0.0:
            self._surprised(outcome.arm, min(outcome.cost / expected, LARGEST) - 1.0)

    def _surprised(self, name: str, surprise: float) -> None:
        sums = self._charges.at(name)
        sums[MEAN] += PACE * (surprise - sums[MEAN])
        sums[SQUARE] += PACE * (min(surprise**2, 1.0) - SPREAD - sums[SQUARE])
        noise = MEMORY * (SPREAD + sums[SQUARE]) ** 0.5
        if abs(sums[MEAN]) > max(LEAST, CLEAR * noise):
            sums[LOG] = np.clip(sums[LOG] + np.log1p(sums[MEAN]), *FACTORS)
            sums[MEAN] = 0.0

    def refit(self, history: History) -> None:
        """What is within starts again from history; what arms charge lately stays."""
        self._within.refit(history)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        within = {f"within.{key}": value for key, value in self._snapshot().state().items()}
        return within | {f"charges.{key}": value for key, value in self._charges.state().items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        for part, holder in (("within.", self._snapshot()), ("charges.", self._charges)):
            holder.restore({key.removeprefix(part): value for key, value in state.items() if key.startswith(part)})

    def _snapshot(self) -> Snapshot:
        return self._within  # type: ignore[return-value]  # every estimator of the package can be stored
