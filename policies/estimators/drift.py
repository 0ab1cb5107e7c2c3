"""What changed since the fit: each arm's health, each arm's charges, and where the fit has been wrong of late."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.types import Float, Float32

State = Mapping[str, NDArray[np.generic]]

HEALTH: Float = np.array([0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0])  # factors on quality an arm may suddenly have
WELL = len(HEALTH) - 1
FAILS = 1e-4  # chance that a healthy arm changes before its next answer
RECOVERS = 1e-3  # chance, at every arrival, that an arm that changed is well again

SLACK = 1.0  # standard deviations a charge may be off before it counts towards a change of price
ALARM = 15.0  # standard deviations of accumulated excess that are a change
LARGEST = 5.0  # standard deviations one charge can contribute
USUAL_SPREAD = 0.25  # of log(charge / expected), where no fit says

QUALITY, CHARGE, CHANNELS = 0, 1, 2  # channels of Residuals, and how many there are
SUMS = 2 * CHANNELS
MOST_SETS = 256  # sets of eligible arms whose rows are kept


class Health:
    """A filter over HEALTH for each arm: quality is factor · q̂, and the factor jumps now and then.

    Scores in [0, 1] enter by the likelihood s log(fq̂) + (1 − s) log(1 − fq̂). A belief returns to health slowly
    as queries pass, so that an arm that failed is tried again.
    """

    def __init__(self) -> None:
        self.belief: Float = np.zeros((0, len(HEALTH)))  # (M, H)
        self.factors: Float = np.zeros(0)  # (M,) expected factor on quality, of that belief

    def grow(self) -> None:
        """One more arm, believed well."""
        self.belief = np.concatenate([self.belief, np.eye(len(HEALTH))[None, WELL]])
        self.settle()

    def settle(self) -> None:
        """Say what the belief comes to: once here, not for every query."""
        self.factors = self.belief @ HEALTH

    def observe(self, arm: int, score: float, expected: float, weight: float) -> None:
        """One score against what was expected of it."""
        belief = self.belief[arm].copy()
        jumped = belief[WELL] * FAILS
        belief[:WELL] += jumped / WELL
        belief[WELL] -= jumped
        likely = np.clip(HEALTH * np.clip(expected, 0.02, 0.98), 0.005, 0.98)
        belief *= np.exp(weight * (score * np.log(likely) + (1.0 - score) * np.log1p(-likely)))
        self.belief[arm] = belief / belief.sum()
        self.settle()

    def pass_time(self) -> None:
        """One query arrived."""
        ill = self.belief[:, :WELL] * RECOVERS
        self.belief[:, :WELL] -= ill
        self.belief[:, WELL] += ill.sum(axis=1)
        self.settle()


class Tariff:
    """A two-sided CUSUM (Page 1954) on log(charge / expected) for each arm; after an alarm, the mean since it began."""

    def __init__(self) -> None:
        self.spread: Float = np.zeros(0)  # (M,) standard deviation of log(charge / expected)
        self.level: Float = np.zeros(0)  # (M,) log of the factor in force
        self.sums: Float = np.zeros((0, 2, 3))  # (M, up or down, [excess, total since it was zero, count])
        self.since: Float = np.zeros((0, 2))  # (M, [total, count]) since the last alarm

    def grow(self) -> None:
        """One more arm, charged as expected."""
        self.spread, self.level = np.append(self.spread, USUAL_SPREAD), np.append(self.level, 0.0)
        self.sums = np.concatenate([self.sums, np.zeros((1, 2, 3))])
        self.since = np.concatenate([self.since, np.zeros((1, 2))])

    def observe(self, arm: int, log_ratio: float, weight: float = 1.0) -> None:
        """One charge against what was expected of it; weight in [0, 1] by how much that is worth."""
        z = weight * float(np.clip((log_ratio - self.level[arm]) / max(self.spread[arm], 0.05), -LARGEST, LARGEST))
        for side, sign in enumerate((1.0, -1.0)):
            excess, total, count = self.sums[arm, side]
            excess = max(0.0, excess + sign * z - SLACK)
            sums = excess, total + weight * log_ratio, count + weight
            self.sums[arm, side] = sums if excess > 0 else (0.0, 0.0, 0.0)
            if excess > ALARM:
                self.since[arm] = self.sums[arm, side, 1:]
                self.level[arm] = self.since[arm, 0] / self.since[arm, 1]
                self.sums[arm] = 0.0
                return
        if self.since[arm, 1] > 0:
            self.since[arm] += weight * log_ratio, weight
            self.level[arm] = self.since[arm, 0] / self.since[arm, 1]


class Residuals:
    """The last answers and how far each was from what was expected: kernel means correct queries near them.

    Two channels: score, and log of charge. What other arms' answers say nearby counts for every arm (a kind of query
    harder or longer than thought), and an arm's own answers for itself. Each is shrunk to zero by `doubt` answers.
    An answer's score and its charge share a place, whichever comes first. Queries out of distribution are near each
    other in that the fit knows nothing of either: what one earned and cost is the best that is known of the next."""

    def __init__(self, *, size: int = 512, sharpness: float = 8.0, doubt: tuple[float, float] = (8.0, 2.0)) -> None:
        self.directions: Float32 = np.zeros((0, 0), np.float32)  # (r, d) that nearness is judged in; none: all of them
        self.vectors: Float32 = np.zeros(
            (0, size), np.float32
        )  # (r, size) unit columns: a product along them is faster
        self.cells: NDArray[np.int64] = np.zeros((SUMS, size), np.int64)  # SUMS · arm + row: where values are summed
        self.values: Float32 = np.zeros((SUMS, size), np.float32)  # weight · residual by channel, weight by channel
        self.ood_scores: Float32 = np.zeros(size, np.float32)  # ood_score of the query, in [0, 1)
        self.arms = 0
        self.count = 0
        self._sharpness = sharpness
        self._doubt = math.exp(sharpness) * np.array(doubt)  # in the unit of _sums()

    def grow(self) -> None:
        """One more arm."""
        self.arms += 1

    def clear(self, directions: Float32 | None = None) -> None:
        """Forget all answers, and judge nearness in these directions (r, d) from now on where they are given."""
        self.count = 0
        if directions is not None:
            self.directions = directions

    def add(
        self, vector: Float32, arm: int, channel: int, residual: float, weight: float, ood_score: float = 0.0
    ) -> None:
        """One channel of one answer of one arm to a query (d,)."""
        place = self._place(vector)
        if len(self.vectors) != len(place):
            self.vectors = np.zeros((len(place), self.values.shape[1]), np.float32)
            self.clear()
        row = self._row(place, arm, channel)
        self.values[channel::CHANNELS, row] = weight * residual, weight
        self.ood_scores[row] = ood_score

    def _row(self, place: Float32, arm: int, channel: int) -> int:
        """Where this arm's answer there lacks the channel; else a new place, and the oldest answer is forgotten."""
        size = self.values.shape[1]
        held = min(self.count, size)
        empty = np.flatnonzero((self.cells[0, :held] == SUMS * arm) & (self.values[CHANNELS + channel, :held] == 0.0))
        same = empty[(self.vectors[:, empty] == place[:, None]).all(axis=0)]
        if len(same):
            return int(same[0])
        row = int(self.count % size)
        self.vectors[:, row], self.values[:, row] = place, 0.0
        self.cells[:, row] = SUMS * arm + np.arange(SUMS)
        self.count += 1
        return row

    def shifts(self, vector: Float32, place: Float32 | None = None, ood_score: float = 0.0) -> tuple[Float, Float]:
        """(what the other arms' answers say (M, 2), what each arm's own add to it (M, 2)) of a query (d,).

        place (r,): the vector in the directions, of any length, where the caller has it already.
        """
        sums = self._sums(vector, place, ood_score)
        share = self._doubt / (sums[:, CHANNELS:] + self._doubt)
        others = self._others(sums, share)
        return others, share * (others + sums[:, :CHANNELS] / self._doubt) - others

    def shift(self, vector: Float32, place: Float32 | None = None, ood_score: float = 0.0) -> Float:
        """(M, 2) both together: the sum of shifts(), in fewer steps."""
        sums = self._sums(vector, place, ood_score)
        share = self._doubt / (sums[:, CHANNELS:] + self._doubt)
        shift = self._others(sums, share)
        shift += sums[:, :CHANNELS] / self._doubt
        shift *= share
        return shift

    def _others(self, sums: Float, share: Float) -> Float:
        """(M, 2) what the other arms' answers say, of sums (M, SUMS); share (M, 2) of an arm's answers tells of others.

        Arms differ from each other as much as kinds of queries do, so an arm with many answers counts as `doubt` of
        them. What one arm did a hundred times says no more of the others than that.
        """
        weighted = sums.reshape(-1, 2, CHANNELS) * share[:, None]
        rest = np.add.reduce(weighted) - weighted
        total, weight = rest[:, 0], rest[:, 1]
        weight += self._doubt
        return np.asarray(total / weight)

    def _place(self, vector: Float32) -> Float32:
        """(r,) of unit length: where a query (d,) lies in the directions."""
        return vector if self.directions.shape[1] != len(vector) else _long(self._sight(vector), 1.0)

    def _sight(self, vector: Float32) -> Float32:
        """(r,) of any length: where a query (d,) lies in the directions."""
        return vector if self.directions.shape[1] != len(vector) else np.dot(self.directions, vector)

    def _sums(self, vector: Float32, place: Float32 | None, ood_score: float) -> Float:
        """(M, SUMS) of the values of every arm's answers by how near they are, e^sharpness where they are here."""
        held = min(self.count, self.values.shape[1])
        if held:
            place = _long(self._sight(vector) if place is None else place, self._sharpness)
        if held == 0 or place is None or len(self.vectors) != len(place):
            return np.zeros((self.arms, SUMS))
        near = place @ self.vectors[:, :held]
        np.exp(near, out=near)
        if ood_score > 0.0:
            near += np.float32(ood_score * math.exp(self._sharpness)) * self.ood_scores[:held]
        weighed = self.values[:, :held] * near
        sums = np.bincount(self.cells[:, :held].ravel(), weighed.ravel(), SUMS * self.arms)
        return np.asarray(sums.reshape(-1, SUMS), np.float64)


def _long(place: Float32, length: float) -> Float32:
    """(r,) of this length, in an array of its own; unchanged where it is zero."""
    is_now = math.sqrt(np.dot(place, place))
    return place * np.float32(length / is_now if is_now > 0.0 else 1.0)


class Drift:
    """Health, tariff and residuals of every arm by name."""

    def __init__(self) -> None:
        self.health, self.tariff, self.residuals = Health(), Tariff(), Residuals()
        self._rows: dict[str, int] = {}
        self._sets: dict[tuple[str, ...], NDArray[np.intp] | None] = {}

    def row(self, name: str) -> int:
        """The row of an arm, new arms last."""
        if name not in self._rows:
            self._rows[name] = len(self._rows)
            self._sets = {}
            for part in (self.health, self.tariff, self.residuals):
                part.grow()
        return self._rows[name]

    def rows(self, names: tuple[str, ...]) -> NDArray[np.intp] | None:
        """(n,) the row of each arm, -1 where nothing was learned of it; None where they are all rows in order."""
        known = self._sets.get(names, UNKNOWN)
        if known is UNKNOWN:
            if len(self._sets) >= MOST_SETS:
                self._sets = {}
            rows = None if names == tuple(self._rows) else np.array([self._rows.get(name, -1) for name in names])
            self._sets[names] = known = rows
        return known

    def state(self) -> State:
        """Everything, as arrays."""
        arrays = {f"{part}.{name}": np.array(getattr(self._part(part), name)) for part, name in DRIFT_STATE}
        return arrays | {"names": np.array(list(self._rows), np.str_)}

    def restore(self, state: State) -> None:
        """Inverse of state(). Raises: ValueError where an older version kept residuals otherwise."""
        if len(state["residuals.values"]) != SUMS:
            raise ValueError(f"{len(state['residuals.values'])} rows of residuals, expected {SUMS}")
        for part, name in DRIFT_STATE:
            setattr(self._part(part), name, np.array(state[f"{part}.{name}"]))
        self.health.settle()
        self.residuals.count = int(self.residuals.count)
        self.residuals.arms = int(self.residuals.arms)
        self._rows = {str(name): row for row, name in enumerate(state["names"])}
        self._sets = {}

    def _part(self, name: str) -> Health | Tariff | Residuals:
        parts: dict[str, Health | Tariff | Residuals] = {
            "health": self.health,
            "tariff": self.tariff,
            "residuals": self.residuals,
        }
        return parts[name]


UNKNOWN: NDArray[np.intp] = np.zeros(0, np.intp)  # stands for a set of arms that was not looked up yet
DRIFT_STATE = (
    ("health", "belief"),
    ("tariff", "spread"),
    ("tariff", "level"),
    ("tariff", "sums"),
    ("tariff", "since"),
    ("residuals", "directions"),
    ("residuals", "vectors"),
    ("residuals", "cells"),
    ("residuals", "values"),
    ("residuals", "ood_scores"),
    ("residuals", "arms"),
    ("residuals", "count"),
)
