"""The recommended policy: stacked estimators, prices re-solved from what remains, a small share for exploring."""

from __future__ import annotations

from collections.abc import Sequence

from policies.composed import Composed, WarmUp
from policies.estimators.drift_corrected import DriftCorrected
from policies.estimators.means import Means
from policies.estimators.neighbours import NeighbourMeans
from policies.estimators.stacked_or_neighbours import StackedOrNeighbours
from policies.explorers.cost_weighted_epsilon import CostWeightedEpsilon
from policies.explorers.thompson import Thompson
from policies.pacers.remaining import ANSWER, Remaining, may_refuse
from policies.tenant_effects import TenantEffects
from policies.types import Arm


def build(
    arms: Sequence[Arm],
    *,
    explore: float = 0.01,
    resolve: int = 50,
    queries_per_s: float = 1.0,
    when_short: str = ANSWER,
) -> Composed:
    """`paced`. Options: the share of traffic that explores, spread so that each arm gets the same money; the arrivals
    between two solutions of the prices. The arrival rate believed before any was seen; whether queries that are not
    worth their price may be refused while money is short.

    Raises: ValueError where an option is out of range.
    """
    if resolve < 1:
        raise ValueError(f"resolve is {resolve} arrivals, expected ≥ 1")
    if not queries_per_s > 0:
        raise ValueError(f"queries_per_s is {queries_per_s}, expected > 0")
    if not 0.0 <= explore <= 1.0:
        raise ValueError(f"explore is {explore}, expected 0 … 1")
    stacked = StackedOrNeighbours(NeighbourMeans(Means(), k=100))
    estimator = DriftCorrected(stacked)
    pacer = Remaining(
        lambda: estimator.rehearsal,
        resolve=resolve,
        queries_per_s=queries_per_s,
        may_refuse=may_refuse(when_short),
    )
    warm_up = WarmUp(lambda context: not stacked.knows(context), Thompson())
    return Composed(estimator, pacer, CostWeightedEpsilon(explore), warm_up=warm_up, tenants=TenantEffects())
