"""The estimator of `paced`: the fitted stack for arms it knows, shrunk neighbours for the rest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.estimators.neighbours import NeighbourMeans
from policies.estimators.online import Query
from policies.estimators.stack import Stack
from policies.types import Estimates, Float32, History, LoggedContext, Outcome, RouteContext

MIN_ROWS = 60  # judged answers that two arms must have before anything is fitted
FIRST_LABELS = 20  # judged answers that every arm should have before the first fit
NOTHING_NEAR = np.zeros(0, np.float32), np.zeros((0, 0))  # similarity and scores of no neighbours


class StackedOrNeighbours:
    """Stack and fallback, swapped as one when refit() has made a new one."""

    def __init__(self, fallback: NeighbourMeans) -> None:
        self._fallback = fallback
        self._stack: Stack | None = None
        self._rehearsal: Estimates | None = None

    @property
    def rehearsal(self) -> tuple[tuple[str, ...], Estimates] | None:
        """Arms (M,) and what was expected of past rows (N, M) by fits that had not seen them; None before a refit."""
        if self._stack is None or self._rehearsal is None:
            return None
        return self._stack.arms, self._rehearsal

    def estimate(self, context: RouteContext) -> Estimates:
        stack = self._stack
        if stack is None:
            return self._fallback.estimate(context)
        at = stack.columns(tuple([arm.name for arm in context.arms]))
        known = stack.expect_one(_query(context, at))
        if at is None:
            return known
        if at.min() >= 0:
            return Estimates(known.quality[at], known.sigma[at], known.cost[at])
        base = _as_parents(context, at, stack, known, self._fallback.estimate(context))
        pairs = ((known.quality, base.quality), (known.sigma, base.sigma), (known.cost, base.cost))
        return Estimates(*(np.where(at >= 0, ours[at], theirs) for ours, theirs in pairs))

    @property
    def directions(self) -> Float32:
        """(r, d) principal directions of the embeddings, leading first; none before a refit."""
        return np.zeros((0, 0), np.float32) if self._stack is None else self._stack.directions

    def place(self, embedding: Float32) -> Float32 | None:
        """(r,) where the embedding lies in them, if it is the one last asked about."""
        return None if self._stack is None else self._stack.place(embedding)

    def ood_score(self, asked: LoggedContext) -> float:
        """In [0, 1): how unlike the history the surface of this query is; 0 before a refit."""
        if self._stack is None:
            return 0.0
        known = self._stack.last_ood_score(asked.embedding)
        if known is not None:
            return known
        lengths = asked.prompt_characters, asked.prompt_tokens
        return self._stack.ood_score_one(Query(asked.embedding, asked.features, *lengths, *NOTHING_NEAR, None))

    def knows(self, context: RouteContext) -> bool:
        """Whether anything is fitted: a new arm beside fitted arms is no reason to look around again.

        Where one arm is far better than all others, they never have the labels of a fit. Then it is enough that there
        are as many as would do if they were spread evenly.
        """
        if self._stack is not None:
            return True
        names = {arm.name for arm in context.arms}
        alone = sum(arm.parent not in names for arm in context.arms)
        return self._fallback.judged(context.arms) >= MIN_ROWS * alone

    @property
    def charge_spread(self) -> Mapping[str, float]:
        """Standard deviation of log(charge / expected) for each arm of the fit."""
        stack = self._stack
        return {} if stack is None else dict(zip(stack.arms, stack.charge_spread.tolist(), strict=True))

    def expected(self, outcome: Outcome) -> tuple[float, float] | None:
        """(quality, USD) of the arm on the query of this outcome, without neighbours; None where it is not fitted."""
        stack = self._stack
        if stack is None or outcome.arm not in stack.arms:
            return None
        column = stack.arms.index(outcome.arm)
        asked = outcome.context
        lengths = asked.prompt_characters, asked.prompt_tokens
        found = stack.expect_one(Query(asked.embedding, asked.features, *lengths, *NOTHING_NEAR, None))
        return float(found.quality[column]), float(found.cost[column])

    def learn(self, outcome: Outcome) -> None:
        self._fallback.learn(outcome)

    def refit(self, history: History) -> None:
        """Fit again. What can be fitted to nothing that is left, such as a history that was forgotten, goes."""
        self._fallback.refit(history)
        if not self._ready(history):
            self._stack = self._rehearsal = None
            return
        stack = Stack()
        rehearsal = stack.fit(history, surface(history.features, history.prompt_characters, history.prompt_tokens))
        self._stack, self._rehearsal = stack, rehearsal

    def _ready(self, history: History) -> bool:
        """Whether there is enough to fit. An arm with few labels joins those known well as a new arm, and nobody waits
        for one that is made of another."""
        labels, names = (~np.isnan(history.scores)).sum(axis=0), {arm.name for arm in history.arms}
        alone = labels[[arm.parent not in names for arm in history.arms]]
        looked_around = bool((alone >= FIRST_LABELS).all()) or len(history.scores) >= MIN_ROWS * len(alone)
        return int((labels >= MIN_ROWS).sum()) >= 2 and (looked_around or self._stack is not None)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        state = {f"fallback.{key}": value for key, value in self._fallback.state().items()}
        if self._stack is not None and self._rehearsal is not None:
            state |= {f"stack.{key}": value for key, value in self._stack.state().items()}
            state |= {"rehearsal.quality": self._rehearsal.quality, "rehearsal.cost": self._rehearsal.cost}
        return state

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._fallback.restore(_under("fallback.", state))
        fitted = _under("stack.", state)
        if not fitted:
            self._stack = self._rehearsal = None
            return
        stack = Stack()
        stack.restore(fitted)
        quality, cost = (np.array(state[f"rehearsal.{key}"], np.float64) for key in ("quality", "cost"))
        self._rehearsal = Estimates(quality, np.broadcast_to(stack.spread, quality.shape), cost)
        self._stack = stack


def _query(context: RouteContext, at: NDArray[np.intp] | None) -> Query:
    """The query of a context whose arms are columns `at` (n,) of the fit, -1 where it has none."""
    near = context.neighbours
    scores = near.scores
    if at is not None and at.min(initial=0) < 0:
        scores, at = scores[:, at >= 0], at[at >= 0]
    lengths = context.prompt_characters, context.prompt_tokens
    return Query(context.embedding, context.features, *lengths, near.similarity, scores, at, near.weights)


def _as_parents(
    context: RouteContext, at: NDArray[np.intp], stack: Stack, known: Estimates, base: Estimates
) -> Estimates:
    """`base` (n,), but a width that answered nothing near is better or worse here by what its fitted parent is."""
    quality = base.quality.copy()
    for place in np.flatnonzero(at < 0):
        parent = context.arms[place].parent
        if parent in stack.arms and not _judged(context, int(place)):
            column = stack.arms.index(parent)
            here = float(known.quality[column] - stack.means[column])
            quality[place] = min(1.0, max(0.0, quality[place] + here))
    return Estimates(quality, base.sigma, base.cost)


def _judged(context: RouteContext, place: int) -> bool:
    """Whether any neighbour was answered by this arm."""
    return bool((~np.isnan(context.neighbours.scores[:, place])).any())


def surface(features: Float32 | None, characters: NDArray[np.int64], tokens: NDArray[np.int64]) -> Float32:
    """(m, f + 2) features with the logarithms of both lengths."""
    lengths = np.log1p(np.stack([characters, tokens], axis=1)).astype(np.float32)
    return lengths if features is None else np.concatenate([features, lengths], axis=1)


def _under(prefix: str, state: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
