"""Quality from every model's identity vector over the query's skills; a new arm borrows from the models like it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from policies.estimators.linear import CENTRE, NOISE, Posterior, principal_directions
from policies.identity import Skills, Vector, population, width_offsets, width_prior
from policies.types import Arm, Charger, Estimates, Float, Float32, History, Outcome, RouteContext, Snapshot

KNOWN_FROM = 100  # scores from which a model helps to define the skills
MIN_KNOWN = 2  # models


@dataclass(slots=True)
class FittedAbilities:
    """What one refit found; vectors are replaced, never changed, as outcomes come."""

    lines: Posterior  # linear predictions of the well-known models, which the skills are made of
    known: tuple[str, ...]
    skills: Skills
    population: Vector
    noise: float
    vectors: dict[str, Vector] = field(default_factory=dict)
    arms: dict[str, Arm] = field(default_factory=dict)
    _slopes: Float32 = field(init=False)  # (d, r): lines and axes, both linear in the embedding, as one product
    _origin: Float = field(init=False)  # (r,) where they lie for an embedding of zeros

    def __post_init__(self) -> None:
        levels, slopes = self.lines.theta[:-1, 0], self.lines.theta[:-1, 1:]
        self._origin = (CENTRE + levels - self.skills.centre) @ self.skills.axes.T
        self._slopes = (self.skills.axes @ slopes @ self.lines.projection).T.astype(np.float32)

    def coordinates(self, embeddings: Float32) -> Float:
        """(n, r + 1) skills of queries (n, d)."""
        found = np.empty((len(embeddings), len(self._origin) + 1))
        found[:, 0] = 1.0
        np.add(embeddings @ self._slopes, self._origin, out=found[:, 1:])
        return found

    def vector(self, arm: Arm | None, name: str) -> Vector:
        """Of a model: learnt, its parent's at another width, or what models are like."""
        if name in self.vectors:
            return self.vectors[name]
        if arm is not None and arm.parent in self.vectors:
            levels = {each: float(vector.mean[0]) for each, vector in self.vectors.items()}
            offsets = width_offsets(list(self.arms.values()), levels)
            return width_prior(arm, self.vectors[arm.parent], offsets)
        return self.population


class Abilities:
    """q̂ = I_m · [1, skills(x)] with its variance; before a first refit, and for cost, what `beside` says."""

    def __init__(self, beside: Charger, *, rank: int = 4, directions: int = 48, ridge: float = 30.0) -> None:
        if rank < 1 or directions < 1:
            raise ValueError(f"rank is {rank} and directions {directions}, expected ≥ 1")
        if not ridge > 0:
            raise ValueError(f"ridge is {ridge}, expected > 0")
        self._beside = beside
        self._rank, self._directions, self._ridge = rank, directions, ridge
        self._fitted: FittedAbilities | None = None

    def estimate(self, context: RouteContext) -> Estimates:
        fitted = self._fitted
        if fitted is None:
            return self._beside.estimate(context)
        skills = fitted.coordinates(context.embedding[None])[0]
        vectors = [fitted.vector(arm, arm.name) for arm in context.arms]
        quality = np.array([vector.mean for vector in vectors]) @ skills
        variance = np.array([vector.covariance for vector in vectors]) @ skills @ skills
        quality = np.minimum(np.maximum(quality, 0.0), 1.0)
        return Estimates(quality, np.sqrt(np.maximum(variance, 1e-9)), self._beside.costs(context))

    def learn(self, outcome: Outcome) -> None:
        self._beside.learn(outcome)
        fitted = self._fitted
        if fitted is None or np.isnan(outcome.score) or not outcome.arm:
            return
        before = fitted.vector(fitted.arms.get(outcome.arm), outcome.arm)
        skills = fitted.coordinates(outcome.context.embedding[None])
        scores, weights = np.array([outcome.score]), np.array([outcome.weight])
        after = before.updated(skills, scores, noise=fitted.noise, weights=weights)
        fitted.vectors[outcome.arm] = after

    def refit(self, history: History) -> None:
        self._beside.refit(history)
        counts = (~np.isnan(history.scores)).sum(axis=0)
        known = np.flatnonzero(counts >= KNOWN_FROM)
        if len(known) >= MIN_KNOWN:
            self._fitted = self._fit(history, known)

    def _fit(self, history: History, known: NDArray[np.intp]) -> FittedAbilities:
        """Lines of the known models, the skills they span, then a vector for every model that was ever judged."""
        lines = Posterior(self._directions, self._ridge, principal_directions(history.embeddings, self._directions))
        ones = np.ones((len(history.embeddings), 1))
        phi = np.hstack([ones, history.embeddings @ lines.projection.T]).astype(np.float64)
        weights = history.reliability
        for column in known:
            seen = ~np.isnan(history.scores[:, column])
            lines.add_many(history.arms[column].name, phi[seen], history.scores[seen, column], weights[seen])
        lines.solve()
        skills = Skills.of(0.5 + phi @ lines.theta[:-1].T, self._rank)
        noise = float(np.clip(lines.noise[:-1].mean(), *NOISE))
        wide = Vector(np.full(len(skills.axes) + 1, 0.0), np.eye(len(skills.axes) + 1))
        fitted = FittedAbilities(lines, tuple(history.arms[c].name for c in known), skills, wide, noise)
        fitted.arms = {arm.name: arm for arm in history.arms}
        at = fitted.coordinates(history.embeddings)
        fitted.vectors = {
            history.arms[c].name: _answered(wide, at, history.scores[:, c], noise, weights) for c in known
        }
        fitted.population = population(list(fitted.vectors.values()))
        return self._with_cold_start(fitted, history, at)

    def _with_cold_start(self, fitted: FittedAbilities, history: History, at: Float) -> FittedAbilities:
        """Also vectors of the models with few scores, from the population or their parent."""
        for column, arm in enumerate(history.arms):
            if arm.name not in fitted.vectors and (~np.isnan(history.scores[:, column])).any():
                before = fitted.vector(arm, arm.name)
                fitted.vectors[arm.name] = _answered(
                    before, at, history.scores[:, column], fitted.noise, history.reliability
                )
        return fitted

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        state = {f"beside.{key}": value for key, value in self._snapshot().state().items()}
        return state if self._fitted is None else state | _as_state(self._fitted)

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        beside = {key.removeprefix("beside."): each for key, each in state.items() if key.startswith("beside.")}
        self._snapshot().restore(beside)
        self._fitted = _of_state(state, self._directions, self._ridge) if "known" in state else None

    def _snapshot(self) -> Snapshot:
        return self._beside  # type: ignore[return-value]  # every estimator of the package can be stored


def _answered(before: Vector, skills: Float, scores: Float, noise: float, weights: Float) -> Vector:
    seen = ~np.isnan(scores)
    return before.updated(skills[seen], scores[seen], noise=noise, weights=weights[seen])


def _as_state(fitted: FittedAbilities) -> dict[str, NDArray[np.generic]]:
    arms, vectors = list(fitted.arms.values()), list(fitted.vectors.values())
    return {
        **{f"lines.{key}": value for key, value in fitted.lines.state().items()},
        "known": np.array(fitted.known, np.str_),
        "centre": fitted.skills.centre,
        "axes": fitted.skills.axes,
        "population.mean": fitted.population.mean,
        "population.covariance": fitted.population.covariance,
        "noise": np.array(fitted.noise),
        "vectors.names": np.array(list(fitted.vectors), np.str_),
        "vectors.mean": np.array([vector.mean for vector in vectors]),
        "vectors.covariance": np.array([vector.covariance for vector in vectors]),
        "arms.names": np.array([arm.name for arm in arms], np.str_),
        "arms.parents": np.array([arm.parent or "" for arm in arms], np.str_),
        "arms.bits": np.array([arm.bits or 0 for arm in arms], np.float64),
    }


def _of_state(state: Mapping[str, NDArray[np.generic]], directions: int, ridge: float) -> FittedAbilities:
    lines = Posterior(directions, ridge, np.zeros((directions, 0), np.float32))
    lines.restore({key.removeprefix("lines."): each for key, each in state.items() if key.startswith("lines.")})
    arrays = {key: np.array(state[key], np.float64) for key in FLOATS}
    fitted = FittedAbilities(
        lines=lines,
        known=tuple(str(name) for name in state["known"]),
        skills=Skills(arrays["centre"], arrays["axes"]),
        population=Vector(arrays["population.mean"], arrays["population.covariance"]),
        noise=float(arrays["noise"]),
    )
    pairs = zip(arrays["vectors.mean"], arrays["vectors.covariance"], strict=True)
    fitted.vectors = {str(n): Vector(m, c) for n, (m, c) in zip(state["vectors.names"], pairs, strict=True)}
    rows = zip(state["arms.names"], state["arms.parents"], np.array(state["arms.bits"], np.float64), strict=True)
    fitted.arms = {
        str(name): Arm(str(name), 0.0, 0.0, parent=str(parent) or None, bits=float(bits) or None)
        for name, parent, bits in rows
    }
    return fitted


FLOATS = (
    "centre", "axes", "population.mean", "population.covariance", "noise", "vectors.mean", "vectors.covariance",
)  # fmt: skip
