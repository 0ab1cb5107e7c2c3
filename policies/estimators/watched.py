"""A fitted estimator corrected by what came of its answers since the fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policies.estimators.drift import CHARGE, QUALITY, Drift
from policies.estimators.linear import principal_directions
from policies.types import Estimates, Float, Float32, History, Outcome, RouteContext

DIRECTIONS = 128  # principal directions of the embeddings that say which answers are near
LARGEST_CHARGE_SHIFT = 3.0  # log of the factor residuals may put on a charge


class Fitted(Protocol):
    """An estimator that can say afterwards what it expected, before any correction."""

    @property
    def rehearsal(self) -> tuple[tuple[str, ...], Estimates] | None:
        """Arms (M,) and what was expected of past rows (N, M) by fits that had not seen them; None before a fit."""

    @property
    def charge_spread(self) -> Mapping[str, float]:
        """Standard deviation of log(charge / expected) for each arm of the fit."""

    @property
    def directions(self) -> Float32:
        """(r, d) leading principal directions of the embeddings; none where the fit needs none."""

    def place(self, embedding: Float32) -> Float32 | None:
        """(r,) where the embedding lies in them, if that is known already."""

    def estimate(self, context: RouteContext) -> Estimates: ...

    def expected(self, outcome: Outcome) -> tuple[float, float] | None:
        """(quality, USD) of the arm on the query of this outcome; None where nothing is fitted for it."""

    def learn(self, outcome: Outcome) -> None: ...

    def refit(self, history: History) -> None: ...

    def state(self) -> Mapping[str, NDArray[np.generic]]: ...

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None: ...


class Watched:
    """q = health · q̂ + shift, c = tariff · ĉ · e^shift, for each arm; see Drift."""

    def __init__(self, fitted: Fitted) -> None:
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
        shift = _at(self._drift.residuals.shift(context.embedding, self._place(context.embedding)), rows, 0.0)
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
        if not outcome.arm:
            return
        expected = self.fitted.expected(outcome)
        if expected is not None:
            row = self._drift.row(outcome.arm)
            others, _ = self._drift.residuals.shifts(outcome.embedding)
            self._charged(outcome, row, expected[1], float(others[row, CHARGE]))
            self._judged(outcome, row, expected[0], float(others[row, QUALITY]))
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

    def _charged(self, outcome: Outcome, row: int, expected: float, elsewhere: float) -> None:
        if not outcome.cost > 0.0 or not expected > 0.0:
            return
        log_ratio = float(np.log(outcome.cost / expected))
        self._drift.tariff.observe(row, log_ratio - elsewhere)
        residual = log_ratio - float(self._drift.tariff.level[row])
        self._drift.residuals.add(outcome.embedding, row, CHARGE, residual, 1.0)

    def _judged(self, outcome: Outcome, row: int, expected: float, elsewhere: float) -> None:
        if np.isnan(outcome.score):
            return
        factor = float(self._drift.health.factors[row])
        self._drift.health.observe(row, outcome.score, expected + elsewhere, outcome.weight)
        residual = outcome.score - factor * expected
        self._drift.residuals.add(outcome.embedding, row, QUALITY, residual, outcome.weight)


def _at(values: Float, rows: NDArray[np.intp] | None, otherwise: float) -> Float:
    """(n, …) values of these rows, `otherwise` for row -1; rows None: values as they are."""
    if rows is None:
        return values
    taken = np.concatenate([values, np.full((1, *values.shape[1:]), otherwise)])
    return np.asarray(taken[rows])
