"""A named policy is one estimator, one pacer and one explorer: argmax q̂ − (λ + μ + γ) · ĉ over arms not spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.machine_pricing import discounted, repriced, routed
from policies.stored_answers import NOTHING, given_again, is_stored, outcome_without_stored, with_stored, without_stored
from policies.tenant_effects import TenantEffects
from policies.types import (
    Estimates,
    Estimator,
    Evidence,
    Explorer,
    Float,
    History,
    LoggedContext,
    Outcome,
    Pacer,
    Proposal,
    RouteContext,
    Snapshot,
)

INFINITE = float("inf")


def spent(context: LoggedContext, estimates: Estimates) -> NDArray[np.bool_]:
    """(n,) whether an answer of this arm is expected to cost more than its capacity or the budget still holds."""
    left = context.budget.remaining
    if context.capacity is None:
        return np.asarray(estimates.cost > left if left > 0.0 else np.ones(len(context.arms), np.bool_))
    left_each = np.minimum(left, context.capacity)
    return np.asarray((estimates.cost > left_each) | (left_each <= 0.0), dtype=np.bool_)


def masked(scores: Float, closed: NDArray[np.bool_]) -> Float:
    """Scores with −inf where closed; unchanged where everything is, for then somebody else must refuse."""
    count = np.count_nonzero(closed)
    return scores if count in (0, len(closed)) else np.where(closed, -np.inf, scores)


def prices_of(context: LoggedContext, evidence: Evidence) -> Float:
    """(n,) λ + μ + γ of a dollar charged, 1/USD."""
    prices = np.empty(len(context.arms))
    prices.fill(context.preference + evidence.budget_price)
    if evidence.capacity_prices is not None:
        prices += evidence.capacity_prices
    return prices


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Another explorer while `early(context)`: a new gateway and a new arm are met with open eyes."""

    early: Callable[[RouteContext], bool]
    explorer: Explorer


@dataclass(slots=True)
class Composed:
    """The formula, with its three parts. `mask` keeps spent arms from being chosen."""

    estimator: Estimator
    pacer: Pacer
    explorer: Explorer
    mask: bool = True
    warm_up: WarmUp | None = None
    tenants: TenantEffects | None = None

    def propose(self, context: RouteContext) -> Proposal:
        if context.stored is not None:
            others = without_stored(context)
            evidence = self._evidence(others) if others.arms else NOTHING
            return self.distribute(context, with_stored(context, evidence))
        return self.distribute(context, self._evidence(context))

    def _evidence(self, context: RouteContext) -> Evidence:
        expected = self.estimator.estimate(context)
        if self.tenants is not None and context.tenant in self.tenants.known:
            expected = self.tenants.applied(context, expected)
        prices = self.pacer.prices(context, expected)
        early = self.warm_up is not None and self.warm_up.early(context)
        return Evidence(expected, prices.budget, prices.capacity, early, prices.refuses)

    def distribute(self, context: LoggedContext, evidence: Evidence) -> Proposal:
        charged = discounted(context, evidence.expected)
        estimates = routed(context, evidence.expected, charged)
        prices = repriced(context, prices_of(context, evidence), charged, estimates)
        scores = estimates.quality - prices * estimates.cost
        if self.mask and (context.capacity is not None or context.budget.remaining != INFINITE):
            scores = masked(scores, spent(context, charged))
        explorer = self.warm_up.explorer if self.warm_up is not None and evidence.early else self.explorer
        probabilities, scores = explorer.probabilities(context, estimates, scores)
        if context.stored is not None:
            probabilities = given_again(context, estimates, probabilities)
        return Proposal(probabilities, estimates, prices, scores, evidence)

    def learn(self, outcome: Outcome) -> None:
        if outcome.context.stored is not None:
            if is_stored(outcome.context, outcome.arm):
                return  # it says nothing of what a model would answer, and took nothing from a budget
            outcome = outcome_without_stored(outcome)
        self.estimator.learn(outcome)
        self.pacer.learn(outcome)
        if self.tenants is not None:
            self.tenants.learn(outcome)

    def refit(self, history: History) -> None:
        self.estimator.refit(history)
        self.pacer.refit(history)

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        return {f"{part}.{key}": value for part in self._parts() for key, value in self._part(part).state().items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        for part in self._parts():
            prefix = f"{part}."
            self._part(part).restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def _parts(self) -> tuple[str, ...]:
        return ("estimator", "pacer") if self.tenants is None else ("estimator", "pacer", "tenants")

    def _part(self, name: str) -> Snapshot:
        part: Snapshot = getattr(self, name)
        return part
