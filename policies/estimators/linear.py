"""A Bayesian linear model of quality for each arm, learnt one outcome at a time and forgotten slowly."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from policies.estimators.tally import Tally
from policies.priors import quality_prior, quality_priors
from policies.types import Arm, Charger, Estimates, Float, Float32, History, Outcome, RouteContext, Snapshot

CENTRE = 0.5  # scores are learnt as differences from it
LEVEL_WEIGHT = 4.0  # answers the prior of an arm's level is worth
NOISE = (0.0025, 0.25)  # bounds of the variance of a score around its mean; a score in [0, 1] cannot spread more
SKETCH_SEED = 384


class Posterior:
    """θ ~ N(A⁻¹b, s²A⁻¹) for each arm over features φ = [1, P x]; A⁻¹ kept by Sherman–Morrison."""

    def __init__(self, rank: int, ridge: float, projection: Float32) -> None:
        self.projection = projection  # (p, d); (p, 0) before any history
        self._prior = np.diag([LEVEL_WEIGHT, *[ridge] * rank])  # (p + 1, p + 1)
        self.gram = Tally(rank + 1, rank + 1)  # Σ w φφᵀ
        self.moment = Tally(rank + 1)  # Σ w φ(y − centre)
        self.spread = Tally(2)  # Σ w (y − centre)², Σ w
        self.inverse: Float = np.linalg.inv(self._prior)[None]  # (M + 1, p + 1, p + 1); the last is an unseen arm's
        self.theta: Float = np.zeros((1, rank + 1))  # (M + 1, p + 1)
        self.noise: Float = np.full(1, NOISE[1])  # (M + 1,) variance of a score around the line

    def features(self, embedding: Float32) -> Float:
        """(p + 1,) φ of one query."""
        rank = len(self.projection)
        projection = self.projection if self.projection.size else _sketch(rank, len(embedding))
        phi = np.empty(rank + 1)
        phi[0], phi[1:] = 1.0, projection @ embedding
        return phi

    def reach(self, phi: Float) -> Float:
        """(M + 1, p + 1) A⁻¹φ of every arm, as one product."""
        arms, width, _ = self.inverse.shape
        return np.asarray(self.inverse.reshape(arms * width, width) @ phi).reshape(arms, width)

    def add(self, name: str, phi: Float, *, score: float, weight: float) -> None:
        """One score of one arm."""
        row, error = self.row(name), score - CENTRE
        self.gram.sums[row] += weight * np.outer(phi, phi)
        self.moment.sums[row] += weight * error * phi
        self.spread.sums[row] += (weight * error**2, weight)
        reach = self.inverse[row] @ phi
        self.inverse[row] -= np.outer(reach, reach) / (1.0 / weight + reach @ phi)
        self.theta[row] = self.inverse[row] @ self.moment.sums[row]

    def add_many(self, name: str, phi: Float, scores: Float, weights: Float) -> None:
        """Scores (N,) of one arm on features (N, p + 1); solve() must follow."""
        row, errors = self.row(name), scores - CENTRE
        weighed = phi * weights[:, None]
        self.gram.sums[row] += weighed.T @ phi
        self.moment.sums[row] += weighed.T @ errors
        self.spread.sums[row] += (weights @ errors**2, weights.sum())

    def row(self, name: str) -> int:
        """The row of an arm, with the prior where it is new."""
        new = self.gram.find(name) < 0
        for tally in (self.gram, self.moment, self.spread):
            tally.row(name)
        if new:
            self.inverse = np.concatenate([self.inverse, self.inverse[-1:]])
            self.theta = np.concatenate([self.theta, self.theta[-1:]])
            self.noise = np.concatenate([self.noise, self.noise[-1:]])
        return self.gram.find(name)

    def forget(self, kept: float) -> None:
        """Multiply all sums and invert afresh; the ridge is not forgotten."""
        for tally in (self.gram, self.moment, self.spread):
            tally.sums *= kept
        self.solve()

    def solve(self) -> None:
        """Inverses, θ and noise of all arms from the sums."""
        self.inverse[:-1] = np.linalg.inv(self.gram.sums + self._prior)
        self.theta[:-1] = np.einsum("mij,mj->mi", self.inverse[:-1], self.moment.sums)
        squares, weight = self.spread.sums.T
        explained = (self.moment.sums * self.theta[:-1]).sum(axis=1)
        self.noise[:-1] = np.clip((squares - explained + NOISE[1]) / (weight + 1.0), *NOISE)

    def levels(self) -> dict[str, float]:
        """Each arm's intercept, as a quality."""
        return {name: float(CENTRE + self.theta[row, 0]) for row, name in enumerate(self.gram.names)}

    def state(self) -> dict[str, NDArray[np.generic]]:
        return {
            "names": np.array(self.gram.names, np.str_),
            "gram": self.gram.sums.copy(),
            "moment": self.moment.sums.copy(),
            "spread": self.spread.sums.copy(),
            "projection": self.projection.copy(),
            "inverse": self.inverse.copy(),
            "theta": self.theta.copy(),
            "noise": self.noise.copy(),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Raises: ValueError where the state has another rank."""
        for key, tally in (("gram", self.gram), ("moment", self.moment), ("spread", self.spread)):
            tally.restore({"names": state["names"], "sums": state[key]})
        self.projection = np.array(state["projection"], np.float32)
        self.inverse = np.array(state["inverse"], np.float64)
        self.theta = np.array(state["theta"], np.float64)
        self.noise = np.array(state["noise"], np.float64)


class Linear:
    """q̂ = θ·φ and its σ from a posterior in the history's `rank` principal directions; cost is left to `beside`.

    After every `block` outcomes all sums are multiplied by discount^block and inverted afresh. So forgetting widens
    arms that are not asked and never loses the ridge (Russac et al., arXiv 1909.09146, in blocks).
    """

    def __init__(
        self, beside: Charger, *, rank: int = 48, ridge: float = 30.0, discount: float = 1.0, block: int = 64
    ) -> None:
        if rank < 1 or block < 1:
            raise ValueError(f"rank is {rank} and block {block}, expected ≥ 1")
        if not ridge > 0 or not 0 < discount <= 1:
            raise ValueError(f"ridge is {ridge}, expected > 0; discount is {discount}, expected in (0, 1]")
        self._beside = beside
        self._rank, self._ridge, self._discount, self._block = rank, ridge, discount, block
        self._learned = 0
        self._levels: dict[str, tuple[Arm, float]] = {}  # prior levels of arms without a parent
        self._posterior = Posterior(rank, ridge, np.zeros((rank, 0), np.float32))

    def estimate(self, context: RouteContext) -> Estimates:
        posterior = self._posterior
        phi = posterior.features(context.embedding)
        rows = posterior.gram.rows(context.arms)  # −1, the last, where never seen
        reach = posterior.reach(phi)[rows]  # (n, p + 1); of all arms, since taking a few copies their matrices
        levels = self._prior_levels(context.arms, posterior)
        quality = CENTRE + (posterior.theta @ phi)[rows] + levels * LEVEL_WEIGHT * reach[:, 0]
        sigma = np.sqrt(posterior.noise[rows] * np.maximum(reach @ phi, 1e-9))
        quality = np.minimum(np.maximum(quality, 0.0), 1.0)
        return Estimates(quality, sigma, self._beside.costs(context))

    def _prior_levels(self, arms: tuple[Arm, ...], posterior: Posterior) -> Float:
        """(n,) prior means less the centre; θ leaves them out, as a prior may depend on what is known when asked."""
        if any(arm.parent for arm in arms):
            return quality_priors(arms, posterior.levels())[0] - CENTRE
        return np.array([self._prior_level(arm) for arm in arms])

    def _prior_level(self, arm: Arm) -> float:
        """Of an arm without a parent, which does not change."""
        known = self._levels.get(arm.name)
        if known is None or known[0] is not arm:
            self._levels[arm.name] = known = arm, quality_prior(arm)[0] - CENTRE
        return known[1]

    def learn(self, outcome: Outcome) -> None:
        self._beside.learn(outcome)
        if np.isnan(outcome.score) or not outcome.arm:
            return
        phi = self._posterior.features(outcome.context.embedding)
        self._posterior.add(outcome.arm, phi, score=outcome.score, weight=outcome.weight)
        self._learned += 1
        if self._learned % self._block == 0:
            self._posterior.forget(self._discount**self._block)

    def refit(self, history: History) -> None:
        """Start again from history, later rows weighing more, in its own principal directions."""
        self._beside.refit(history)
        if not len(history.embeddings):
            return
        fresh = Posterior(self._rank, self._ridge, principal_directions(history.embeddings, self._rank))
        ones = np.ones((len(history.embeddings), 1))
        phi = np.hstack([ones, history.embeddings @ fresh.projection.T]).astype(np.float64)
        weights = history.reliability * np.power(self._discount, np.arange(len(phi))[::-1], dtype=np.float64)
        for column, arm in enumerate(history.arms):
            seen = ~np.isnan(history.scores[:, column])
            fresh.add_many(arm.name, phi[seen], history.scores[seen, column], weights[seen])
        fresh.solve()
        self._posterior = fresh

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        beside = {f"beside.{key}": value for key, value in self._snapshot().state().items()}
        return {**self._posterior.state(), **beside, "learned": np.array(self._learned)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Raises: ValueError where the state has another rank."""
        self._posterior.restore(state)
        self._learned = int(state["learned"])
        beside = {key.removeprefix("beside."): each for key, each in state.items() if key.startswith("beside.")}
        self._snapshot().restore(beside)

    def _snapshot(self) -> Snapshot:
        return self._beside  # type: ignore[return-value]  # every estimator of the package can be stored


def principal_directions(embeddings: Float32, rank: int) -> Float32:
    """(p, d) leading eigenvectors of the uncentred second moment of unit rows (N, d); zero rows beyond d."""
    _, vectors = np.linalg.eigh(embeddings.T.astype(np.float64) @ embeddings)
    directions = np.zeros((rank, embeddings.shape[1]), np.float32)
    leading = vectors[:, ::-1][:, :rank].T
    largest = leading[np.arange(len(leading)), np.abs(leading).argmax(axis=1)]
    directions[: len(leading)] = leading * np.sign(largest)[:, None]  # eigenvectors have no sign of their own
    return directions


@cache
def _sketch(rank: int, dimensions: int) -> Float32:
    """(p, d) fixed orthonormal rows for the time before any history; the same in every process."""
    rng = np.random.default_rng(SKETCH_SEED)
    basis, _ = np.linalg.qr(rng.normal(size=(dimensions, min(rank, dimensions))))
    sketch = np.zeros((rank, dimensions), np.float32)
    sketch[: basis.shape[1]] = basis.T
    return sketch
