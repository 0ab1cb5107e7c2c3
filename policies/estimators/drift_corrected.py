"""A fitted estimator corrected by what came of its answers since the fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from policies.estimators.drift import CHARGE, QUALITY, Drift
from policies.estimators.linear import principal_directions
from policies.lazy_module import LazyModule
from policies.types import Estimates, Estimator, Float, Float32, History, LoggedContext, Outcome, RouteContext, Snapshot

special = LazyModule("scipy.special")

DIRECTIONS = 128  # principal directions of the embeddings that say which answers are near
OOD_SPREAD = 1.0  # of log(charge / expected) between kinds of queries that nothing was fitted on
LARGEST_CHARGE_SHIFT = 3.0  # log of the factor residuals may put on a charge


class Rehearsed(Protocol):
    """Says afterwards what was expected before any correction."""

    @property
    def rehearsal(self) -> tuple[tuple[str, ...], Estimates] | None:
        """Arms (M,) and what was expected of past rows (N, M) by fits that had not seen them; None before a fit."""

    @property
    def charge_spread(self) -> Mapping[str, float]:
        """Standard deviation of log(charge / expected) for each arm of the fit."""

    def expected(self, outcome: Outcome) -> tuple[float, float] | None:
        """(quality, USD) of the arm on the query of this outcome; None where nothing is fitted for it."""


class Surveyed(Protocol):
    """Knows where queries lie, and how far off."""

    @property
    def directions(self) -> Float32:
        """(r, d) leading principal directions of the embeddings; none where the fit needs none."""

    def place(self, embedding: Float32) -> Float32 | None:
        """(r,) where the embedding lies in them, if that is known already."""

    def ood_score(self, asked: LoggedContext) -> float:
        """In [0, 1): how unlike all that was fitted this query is."""


class Correctable(Estimator, Rehearsed, Surveyed, Snapshot, Protocol):
    """An estimator whose misses can be found and corrected."""


class DriftCorrected:
    """q = health · q̂ + shift, c = tariff · ĉ · e^shift, for each arm; see Drift."""

    def __init__(self, fitted: Correctable) -> None:
        self.fitted = fitted
        self._drift = Drift()
        self._shared = 0  # directions of the residuals that the fit has too, as its leading ones

    @property
    def rehearsal(self) -> tuple[tuple[str, ...], Estimates] | None:
        """The fit's rehearsal with health and tariff as they are now: what prices must be solved on."""
        found = self.fitted.rehearsal
        if found is None:
            return None
        names, expected = found
        rows = self._drift.rows(names)
        return names, Estimates(
            expected.quality * _at(self._drift.health.factors, rows, 1.0),
            expected.sigma,
            expected.cost * np.exp(_at(self._drift.tariff.level, rows, 0.0)),
        )

    def estimate(self, context: RouteContext) -> Estimates:
        expected = self.fitted.estimate(context)
        rows = self._drift.rows(tuple([arm.name for arm in context.arms]))
        place, ood_score = self._place(context.embedding), self.fitted.ood_score(context)
        shift = _at(self._drift.residuals.shift(context.embedding, place, ood_score), rows, 0.0)
        quality = expected.quality * _at(self._drift.health.factors, rows, 1.0)
        quality += shift[:, QUALITY]
        charge = np.maximum(shift[:, CHARGE], -LARGEST_CHARGE_SHIFT)
        np.minimum(charge, LARGEST_CHARGE_SHIFT, out=charge)
        charge += _at(self._drift.tariff.level, rows, 0.0)
        np.exp(charge, out=charge)
        charge *= expected.cost
        np.maximum(quality, 0.0, out=quality)
        return Estimates(np.minimum(quality, 1.0, out=quality), expected.sigma, charge)

    def learn(self, outcome: Outcome) -> None:
        if np.isnan(outcome.score) or not np.isnan(outcome.cost):
            self._drift.health.pass_time()
        if outcome.refused:
            self._refused(replace(outcome, arm=outcome.refused))
        if not outcome.arm:
            return
        expected = self.fitted.expected(outcome)
        if expected is not None:
            row, ood_score = self._drift.row(outcome.arm), self.fitted.ood_score(outcome.context)
            others, _ = self._drift.residuals.shifts(outcome.context.embedding, ood_score=ood_score)
            self._charged(outcome, row, expected[1], float(others[row, CHARGE]), ood_score)
            self._judged(outcome, row, expected[0], float(others[row, QUALITY]), ood_score)
        self.fitted.learn(outcome)

    def refit(self, history: History) -> None:
        """Fit again; what answers said of places is now in the fit, what they said of arms stays."""
        self.fitted.refit(history)
        rank = min(DIRECTIONS, history.embeddings.shape[1])
        fitted = self.fitted.directions
        own = fitted[:rank].copy() if len(fitted) >= rank else principal_directions(history.embeddings, rank)
        self._drift.residuals.clear(own)
        self._shared = self._leading()
        for name, spread in self.fitted.charge_spread.items():
            row = self._drift.row(name)
            self._drift.tariff.spread[row] = spread

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        parts = {"fitted": self.fitted.state(), "drift": self._drift.state()}
        return {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        for part, holder in (("fitted.", self.fitted), ("drift.", self._drift)):
            holder.restore({key.removeprefix(part): value for key, value in state.items() if key.startswith(part)})

        self._shared = self._leading()

    def _place(self, embedding: Float32) -> Float32 | None:
        """(r,) where the embedding lies in the residuals' directions, if the fit has just found it."""
        place = self.fitted.place(embedding) if self._shared else None
        return None if place is None else place[: self._shared]

    def _leading(self) -> int:
        own = self._drift.residuals.directions
        return len(own) if len(own) and np.array_equal(self.fitted.directions[: len(own)], own) else 0

    def _charged(self, outcome: Outcome, row: int, expected: float, elsewhere: float, ood_score: float) -> None:
        if not outcome.cost > 0.0 or not expected > 0.0:
            return
        log_ratio = float(np.log(outcome.cost / expected))
        self._drift.tariff.observe(row, log_ratio - elsewhere, 1.0 - ood_score)
        residual = log_ratio - float(self._drift.tariff.level[row])
        self._drift.residuals.add(outcome.context.embedding, row, CHARGE, residual, 1.0, ood_score)

    def _refused(self, outcome: Outcome) -> None:
        """An answer that cost more than was left counts as what it is expected to have cost, given that.

        Otherwise nothing would be learned from it, and an arm whose answers are more expensive than thought and
        whose budget holds none of them would be chosen unsuccessfully for ever.
        """
        expected = self.fitted.expected(outcome)
        if expected is None or not expected[1] > 0.0 or not outcome.left > 0.0:
            return
        row, ood_score = self._drift.row(outcome.arm), self.fitted.ood_score(outcome.context)
        others, _ = self._drift.residuals.shifts(outcome.context.embedding, ood_score=ood_score)
        elsewhere, level = float(others[row, CHARGE]), float(self._drift.tariff.level[row])
        sigma = math.hypot(float(self._drift.tariff.spread[row]), OOD_SPREAD * ood_score)
        beyond = _mean_beyond(math.log(outcome.left / expected[1]), level + elsewhere, sigma)
        cost = expected[1] * float(np.exp(beyond))
        self._charged(replace(outcome, cost=cost), row, expected[1], elsewhere, ood_score)

    def _judged(self, outcome: Outcome, row: int, expected: float, elsewhere: float, ood_score: float) -> None:
        if np.isnan(outcome.score):
            return
        factor = float(self._drift.health.factors[row])
        self._drift.health.observe(row, outcome.score, expected + elsewhere, outcome.weight * (1.0 - ood_score))
        residual = outcome.score - factor * expected
        self._drift.residuals.add(outcome.context.embedding, row, QUALITY, residual, outcome.weight, ood_score)


def _mean_beyond(bound: float, mean: float, sigma: float) -> float:
    """E[x | x > bound] of a normal x."""
    z = (bound - mean) / sigma
    return mean + sigma * float(np.exp(-0.5 * z * z - 0.5 * np.log(2.0 * np.pi) - special.log_ndtr(-z)))


def _at(values: Float, rows: NDArray[np.intp] | None, otherwise: float) -> Float:
    """(n, …) values of these rows, `otherwise` for row -1; rows None: values as they are."""
    if rows is None:
        return values
    taken = np.concatenate([values, np.full((1, *values.shape[1:]), otherwise)])
    return np.asarray(taken[rows])
