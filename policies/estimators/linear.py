"""A Bayesian linear model of quality for each arm, learnt one outcome at a time and forgotten slowly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from policies.estimators.tally import Tally
from policies.priors import quality_priors
from policies.types import Arm, Estimates, Estimator, Float, Float32, History, Outcome, RouteContext, Snapshot

CENTRE = 0.5  # scores are learnt as differences from it
LEVEL_WEIGHT = 4.0  # answers the prior of an arm's level is worth
NOISE = (0.0025, 0.25)  # bounds of the variance of a score around its mean; a score in [0, 1] cannot spread more
SKETCH_SEED = 384


class Linear:
    """q̂ = θ·φ with θ ~ N(A⁻¹b, s²A⁻¹), φ = [1, P x] and P the history's `rank` principal directions.

    A⁻¹ is kept by Sherman–Morrison in learn(). After every `block` outcomes all sums are multiplied by
    discount^block and inverted afresh, so forgetting widens arms that are not asked and never loses the ridge
    (Russac et al., arXiv 1909.09146, in blocks). Cost is left to `beside`.
    """

    def __init__(
        self, beside: Estimator, *, rank: int = 48, ridge: float = 8.0, discount: float = 1.0, block: int = 64
    ) -> None:
        if rank < 1 or block < 1:
            raise ValueError(f"rank is {rank} and block {block}, expected ≥ 1")
        if not ridge > 0 or not 0 < discount <= 1:
            raise ValueError(f"ridge is {ridge}, expected > 0; discount is {discount}, expected in (0, 1]")
        self._beside = beside
        self._rank, self._discount, self._block = rank, discount, block
        self._prior = np.diag([LEVEL_WEIGHT, *[ridge] * rank])  # (p + 1, p + 1)
        self._clear()

    def _clear(self) -> None:
        width = self._rank + 1
        self._learned = 0
        self._projection: Float32 = np.zeros((self._rank, 0), np.float32)  # (p, d)
        self._gram = Tally(width, width)  # Σ w φφᵀ
        self._moment = Tally(width)  # Σ w φ(y − centre)
        self._spread = Tally(2)  # Σ w (y − centre)², Σ w
        self._inverse: Float = np.linalg.inv(self._prior)[None]  # (M + 1, p + 1, p + 1); the last is an unseen arm's
        self._theta: Float = np.zeros((1, width))  # (M + 1, p + 1)
        self._noise: Float = np.full(1, NOISE[1])  # (M + 1,) variance of a score around the line

    def features(self, embedding: Float32) -> Float:
        """(p + 1,) φ of one query."""
        projection = self._projection if self._projection.size else _sketch(self._rank, len(embedding))
        return np.concatenate([[1.0], projection @ embedding])

    def estimate(self, context: RouteContext) -> Estimates:
        phi = self.features(context.embedding)
        rows = self._gram.rows(context.arms)  # −1, the last, where never seen
        reach = self._inverse[rows] @ phi  # (n, p + 1)
        quality = CENTRE + self._theta[rows] @ phi + self._levels(context.arms) * LEVEL_WEIGHT * reach[:, 0]
        sigma = np.sqrt(self._noise[rows] * np.maximum(reach @ phi, 1e-9))
        return Estimates(np.clip(quality, 0.0, 1.0), sigma, self._beside.estimate(context).cost)

    def _levels(self, arms: Sequence[Arm]) -> Float:
        """(n,) prior means less the centre; θ leaves them out, as a prior may depend on what is known when asked."""
        return quality_priors(arms, self._known() if any(arm.parent for arm in arms) else None)[0] - CENTRE

    def _known(self) -> dict[str, float]:
        return {name: float(CENTRE + self._theta[row, 0]) for row, name in enumerate(self._gram.names)}

    def learn(self, outcome: Outcome) -> None:
        self._beside.learn(outcome)
        if np.isnan(outcome.score):
            return
        row = self._row(outcome.arm)
        phi, error = self.features(outcome.embedding), outcome.score - CENTRE
        self._gram.sums[row] += outcome.weight * np.outer(phi, phi)
        self._moment.sums[row] += outcome.weight * error * phi
        self._spread.sums[row] += (outcome.weight * error**2, outcome.weight)
        reach = self._inverse[row] @ phi
        self._inverse[row] -= np.outer(reach, reach) / (1.0 / outcome.weight + reach @ phi)
        self._theta[row] = self._inverse[row] @ self._moment.sums[row]
        self._learned += 1
        if self._learned % self._block == 0:
            self._forget()

    def _row(self, name: str) -> int:
        """The row of an arm, with the prior where it is new."""
        new = self._gram.find(name) < 0
        row = self._gram.row(name)
        self._moment.row(name), self._spread.row(name)
        if new:
            self._inverse = np.concatenate([self._inverse, self._inverse[-1:]])
            self._theta = np.concatenate([self._theta, self._theta[-1:]])
            self._noise = np.concatenate([self._noise, self._noise[-1:]])
        return row

    def _forget(self) -> None:
        kept = self._discount**self._block
        for sums in (self._gram, self._moment, self._spread):
            sums.sums *= kept
        self._solve()

    def _solve(self) -> None:
        self._inverse[:-1] = np.linalg.inv(self._gram.sums + self._prior)
        self._theta[:-1] = np.einsum("mij,mj->mi", self._inverse[:-1], self._moment.sums)
        squares, weight = self._spread.sums.T
        explained = (self._moment.sums * self._theta[:-1]).sum(axis=1)
        self._noise[:-1] = np.clip((squares - explained + NOISE[1]) / (weight + 1.0), *NOISE)

    def refit(self, history: History) -> None:
        """Start again from history, in its own principal directions."""
        self._beside.refit(history)
        self._clear()
        self._projection = principal_directions(history.embeddings, self._rank)
        ones = np.ones((len(history.embeddings), 1))
        phi = np.hstack([ones, history.embeddings @ self._projection.T]).astype(np.float64)
        for column, arm in enumerate(history.arms):
            seen = ~np.isnan(history.scores[:, column])
            row, errors = self._row(arm.name), history.scores[seen, column] - CENTRE
            self._gram.sums[row] = phi[seen].T @ phi[seen]
            self._moment.sums[row] = phi[seen].T @ errors
            self._spread.sums[row] = (errors @ errors, seen.sum())
        self._solve()

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        own: dict[str, NDArray[np.generic]] = {
            "names": np.array(self._gram.names, np.str_),
            "gram": self._gram.sums.copy(),
            "moment": self._moment.sums.copy(),
            "spread": self._spread.sums.copy(),
            "projection": self._projection.copy(),
            "inverse": self._inverse.copy(),
            "theta": self._theta.copy(),
            "noise": self._noise.copy(),
            "learned": np.array(self._learned),
        }
        return own | {f"beside.{key}": value for key, value in self._snapshot().state().items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Raises: ValueError where the state has another rank."""
        for key, tally in (("gram", self._gram), ("moment", self._moment), ("spread", self._spread)):
            tally.restore({"names": state["names"], "sums": state[key]})
        self._projection = np.array(state["projection"], np.float32)
        self._inverse = np.array(state["inverse"], np.float64)
        self._theta = np.array(state["theta"], np.float64)
        self._noise = np.array(state["noise"], np.float64)
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
