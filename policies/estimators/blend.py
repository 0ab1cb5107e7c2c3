"""The estimator of `paced`: the fitted stack for arms it knows, shrunk neighbours for the rest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from policies.estimators.neighbours import NeighbourMeans
from policies.estimators.stack import Queries, Stack
from policies.types import Estimates, Float, Float32, History, Outcome, RouteContext

MIN_ROWS = 60  # judged answers that two arms must have before anything is fitted
FIRST_LABELS = 20  # judged answers that every arm should have before the first fit


class Blend:
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
        stack, base = self._stack, None
        columns = [] if stack is None else [_find(stack.arms, arm.name) for arm in context.arms]
        if stack is None or min(columns, default=-1) < 0:
            base = self._fallback.estimate(context)
            if stack is None:
                return base
        at = np.array(columns)
        known = self._expect(stack, context, at)
        if base is None:
            return Estimates(known.quality[at], known.sigma[at], known.cost[at])
        pairs = ((known.quality, base.quality), (known.sigma, base.sigma), (known.cost, base.cost))
        return Estimates(*(np.where(at >= 0, ours[at], theirs) for ours, theirs in pairs))

    def knows(self, context: RouteContext) -> bool:
        """Whether anything is fitted: a newcomer beside fitted arms is no reason to look around again."""
        return self._stack is not None

    @property
    def charge_spread(self) -> Mapping[str, float]:
        """Standard deviation of log(charge / expected) for each arm of the fit."""
        stack = self._stack
        return {} if stack is None else dict(zip(stack.arms, stack.charge_spread.tolist(), strict=True))

    def expected(self, outcome: Outcome) -> tuple[float, float] | None:
        """(quality, USD) of the arm on the query of this outcome, without neighbours; None where it is not fitted."""
        stack = self._stack
        column = -1 if stack is None else _find(stack.arms, outcome.arm)
        if stack is None or column < 0:
            return None
        tokens, characters = np.array([outcome.prompt_tokens]), np.array([outcome.prompt_characters])
        features = None if outcome.features is None else outcome.features[None]
        nothing = np.zeros((1, 0), np.float32), np.zeros((1, 0, len(stack.arms)))
        found = stack.expect(Queries(outcome.embedding[None], surface(features, characters, tokens), tokens, *nothing))
        return float(found.quality[0, column]), float(found.cost[0, column])

    def estimate_batch(self, queries: Queries) -> Estimates:
        """(m, M) each, over the arms of the last refit. Raises: ValueError before one."""
        if self._stack is None:
            raise ValueError("nothing was fitted yet")
        return self._stack.expect(queries)

    def learn(self, outcome: Outcome) -> None:
        self._fallback.learn(outcome)

    def refit(self, history: History) -> None:
        self._fallback.refit(history)
        if not self._ready((~np.isnan(history.scores)).sum(axis=0), len(history.scores)):
            return
        stack = Stack()
        rehearsal = stack.fit(history, surface(history.features, history.prompt_characters, history.prompt_tokens))
        self._stack, self._rehearsal = stack, rehearsal

    def _ready(self, labels: NDArray[np.int_], rows: int) -> bool:
        """Whether there is enough to fit from labels (M,); an arm with few joins those known well as a newcomer."""
        looked_around = bool((labels >= FIRST_LABELS).all()) or rows >= MIN_ROWS * len(labels)
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

    def _expect(self, stack: Stack, context: RouteContext, at: NDArray[np.int_]) -> Estimates:
        """(M,) each, over the stack's own arms."""
        scores: Float = np.full((1, len(context.neighbours.similarity), len(stack.arms)), np.nan)
        scores[0][:, at[at >= 0]] = context.neighbours.scores[:, at >= 0]
        features = None if context.features is None else context.features[None]
        tokens = np.array([context.prompt_tokens])
        queries = Queries(
            context.embedding[None],
            surface(features, np.array([context.prompt_characters]), tokens),
            tokens,
            context.neighbours.similarity[None],
            scores,
        )
        found = stack.expect(queries)
        return Estimates(found.quality[0], found.sigma[0], found.cost[0])


def surface(features: Float32 | None, characters: NDArray[np.int64], tokens: NDArray[np.int64]) -> Float32:
    """(m, f + 2) features with the logarithms of both lengths."""
    lengths = np.log1p(np.stack([characters, tokens], axis=1)).astype(np.float32)
    return lengths if features is None else np.concatenate([features, lengths], axis=1)


def _find(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else -1


def _under(prefix: str, state: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
