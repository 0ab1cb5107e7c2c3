"""The stack for one query: all that does not depend on the query is computed when it is fitted or restored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.estimators.forest_traversal import ForestTraversal
from policies.types import Estimates, Float, Float32

if TYPE_CHECKING:
    from policies.estimators.stack import Stack

NEAREST = 10  # neighbours whose mean similarity says how familiar a query is
FARTHEST = 5.0  # standard deviations that a surface feature counts at most
SHRINKAGE = 2.0  # rows of an arm's mean among its neighbours


class Query(msgspec.Struct, frozen=True):
    """One query and the neighbours that were found for it."""

    embedding: Float32  # (d,)
    features: Float32 | None  # (f - 2,) surface features
    prompt_characters: int
    prompt_tokens: int
    similarity: Float32  # (k,), cosine, descending; k may be 0
    scores: Float  # (k, n), NaN where never observed
    columns: NDArray[np.intp] | None  # (n,) columns of the fit that scores are of; None: all M in order
    reliability: Float32 | None = None  # (k,) of the scores; None: one each


class OnlineStack:
    """What a Stack expects of one query, in a tenth of the numpy calls that many at once would take."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._traversal = ForestTraversal([stack.forest.trees, stack.charges.trees], [0, stack.directions.shape[1]])
        self._charges = stack.charges.online()
        features = len(stack.centre)
        weight = np.float32(1.0 / np.sqrt(max(features, 1)))
        self._scale = weight / stack.scale
        self._shift = stack.centre * self._scale
        self._reach = np.float32(FARTHEST * weight)
        self._alone = _alone(stack.weights)
        self._rest = (1.0 - stack.weights.sum()) * stack.means
        self._rest_alone = (1.0 - self._alone.sum()) * stack.means
        self._prior = SHRINKAGE * stack.means
        self._variance = stack.spread**2
        mixed = bool(np.any(stack.mixture != np.eye(len(stack.mixture))) or np.any(stack.offset))
        self._mixture = stack.mixture if mixed else None
        padded = np.vstack([stack.tilt, np.zeros((2, len(stack.means)), np.float32)])  # for smooth's last places
        self._tilts = [(int(arm), padded[:, arm].copy()) for arm in np.flatnonzero(stack.new)]
        self._last: tuple[Float32 | None, Float32, float] = (None, np.zeros(0, np.float32), 0.0)  # the last query,
        # where it is and its out-of-distribution score

    def place(self, embedding: Float32) -> Float32 | None:
        """(r,) where the embedding lies in the stack's directions, if it is the one that was last asked about."""
        last, place, _ = self._last
        return place if last is embedding else None

    def last_ood_score(self, embedding: Float32) -> float | None:
        """In [0, 1), of the query that was last asked about, if this is its embedding."""
        last, _, ood_score = self._last
        return ood_score if last is embedding else None

    def ood_score(self, query: Query) -> float:
        """In [0, 1), as of a query that was asked about."""
        rough = np.zeros(len(query.embedding) + len(self._scale), np.float32)
        _write_surface(rough[len(query.embedding) :], query)
        return self._ood_score(self._smooth(rough, len(query.embedding)))

    def expect(self, query: Query) -> Estimates:
        """(M,) each, in the order of the stack's arms."""
        stack, dimensions = self._stack, len(query.embedding)
        rough = np.empty(dimensions + len(stack.centre), np.float32)
        rough[:dimensions] = query.embedding
        _write_surface(rough[dimensions:], query)
        members = np.empty((3 if len(query.similarity) else 2, len(stack.means)))
        smooth = self._smooth(rough, dimensions)
        ood_score = self._ood_score(smooth)
        self._last = query.embedding, smooth[: len(stack.directions)], ood_score
        stack.kernel.predict_one(smooth, members[0])
        members[1], left = self._traversal.predict(rough)
        if len(members) == 3:
            members[2] = self._neighbours(query)
            known = stack.weights @ members
            known += self._rest
        else:
            known = self._alone @ members
            known += self._rest_alone
        trust = min(self._trust(query.similarity), 1.0 - ood_score)
        if trust < 1.0:
            known = stack.means + trust * (known - stack.means)
        if self._mixture is not None:
            known = known @ self._mixture + stack.offset
            for arm, tilt in self._tilts:  # one at a time: new arms are few
                known[arm] += trust * (members[0, arm] + tilt.dot(smooth))
        sigma = np.maximum.reduce(members)
        sigma -= np.minimum.reduce(members)  # where members disagree, nobody knows
        for arm, _ in self._tilts:
            sigma[arm] = 0.0  # of a new arm the members say other things: see Stack.tilt
        sigma *= sigma
        sigma += self._variance if trust == 1.0 else (2.0 - trust) ** 2 * self._variance
        np.sqrt(sigma, out=sigma)
        cost = self._charges.expect(rough[dimensions:], left, query.prompt_tokens)
        np.maximum(known, 0.0, out=known)
        return Estimates(np.minimum(known, 1.0, out=known), sigma, cost)

    def _smooth(self, rough: Float32, dimensions: int) -> Float32:
        """(p + 2,) what the kernel sees of rough (dimensions + f,), and two places it needs."""
        rank = len(self._stack.directions)
        smooth = np.empty(rank + len(self._scale) + 2, np.float32)
        np.dot(self._stack.directions, rough[:dimensions], out=smooth[:rank])
        scaled = smooth[rank:-2]
        np.multiply(rough[dimensions:], self._scale, out=scaled)
        scaled -= self._shift
        np.minimum(np.maximum(scaled, -self._reach, out=scaled), self._reach, out=scaled)
        return smooth

    def _ood_score(self, smooth: Float32) -> float:
        """How far the surface features lie outside of what nearly all of history is like."""
        scaled = smooth[len(self._stack.directions) : -2]
        unusual, usual = float(np.dot(scaled, scaled)), self._stack.usual
        return 1.0 - usual / unusual if unusual > max(usual, 1e-9) else 0.0

    def _neighbours(self, query: Query) -> Float:
        """(M,) shrunk means of the neighbours, as neighbour_means()."""
        near = np.maximum(query.similarity, 0.0, dtype=np.float64)
        near *= near
        near += 1e-3
        near *= len(near) / np.add.reduce(near)
        weight: Float | float = float(len(near))
        if query.reliability is not None:
            near *= query.reliability
            weight = float(np.add.reduce(near))
        total = near @ query.scores
        if math.isnan(sum(total.tolist())):
            weight, total = seen_sums(near, query.scores)
        if query.columns is not None:
            arms = len(self._prior)
            weight, total = (_spread(each, query.columns, arms) for each in (weight, total))
        total += self._prior
        total /= weight + SHRINKAGE
        return total

    def _trust(self, similarity: Float32) -> float:
        """In [0, 1]: how near the nearest rows are, against how near they usually are."""
        id_threshold = self._stack.id_threshold
        if not len(similarity) or id_threshold <= 0.0:
            return 1.0
        near = similarity[:NEAREST].tolist()
        return float(min(1.0, max(0.0, sum(near) / len(near) / id_threshold)))


def seen_sums(near: Float, scores: Float) -> tuple[Float, Float]:
    """((n,) Σ near where a score is not NaN, (n,) Σ near · score) of scores (k, n), in [0, 1] or NaN."""
    total = near @ scores
    if not math.isnan(np.add.reduce(total)):
        return np.full(len(total), np.add.reduce(near)), total
    seen = scores == scores  # noqa: PLR0124 -- NaN is not itself, and this is half the price of isnan and not
    return near @ seen, near @ np.fmax(scores, 0.0)


def _alone(weights: Float) -> Float:
    """(2,) weights of kernel and forest where there are no neighbours: they take over what these had."""
    return np.asarray(weights[:2] * weights.sum() / max(float(weights[:2].sum()), 1e-9))


def _write_surface(place: Float32, query: Query) -> None:
    """Surface features with the logarithms of both lengths, as stack.surface().

    Zeros stand for features that are not known, as in a history; those that the fit has never seen are left out.
    """
    is_known = query.features is not None and len(query.features) == len(place) - 2
    place[:-2] = query.features if is_known else 0.0
    place[-2], place[-1] = math.log1p(query.prompt_characters), math.log1p(query.prompt_tokens)


def _spread(values: Float | float, columns: Sequence[int] | NDArray[np.intp], arms: int) -> Float:
    """(M,) values (n,) at their columns, zero elsewhere."""
    wide = np.zeros(arms)
    wide[columns] = values
    return wide
