"""Stored answers as arms: free, as good as who made them is here, or as they were judged, by how alike the query is.

Estimators and pacers never see such an arm: its answer says nothing of what a model would answer now, and takes nothing
from a budget. Pure; fails nowhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from policies.types import Arm, Estimates, Evidence, Float, LoggedContext, MeasuredCost, Outcome, RouteContext

STORED = "stored:"  # before the name of who made it; no model's name begins so
UNKNOWN = 0.5  # quality of an answer that nobody judged, of a model that is not among the arms
UNKNOWN_SIGMA = 0.25
NOTHING = Evidence(Estimates(np.zeros(0), np.zeros(0), np.zeros(0)), 0.0, None)  # where no model may answer


def is_stored(context: LoggedContext, arm: str) -> bool:
    """Whether an arm of this context is a stored answer."""
    if context.stored is None or arm not in context.names:
        return False
    return not np.isnan(context.stored[context.names.index(arm)])


def without_stored(context: RouteContext) -> RouteContext:
    """What a policy would be asked if nothing were stored."""
    keep, near = _others(context), context.neighbours
    fewer = replace(near, scores=near.scores[:, keep], costs=near.costs[:, keep])
    return replace(context, neighbours=fewer, **_fields(context, keep))


def outcome_without_stored(outcome: Outcome) -> Outcome:
    """The same outcome among the other arms."""
    keep, expected = _others(outcome.context), outcome.expected
    context = replace(outcome.context, **_fields(outcome.context, keep))
    return replace(outcome, context=context, expected=None if expected is None else _taken(expected, keep))


def with_stored(context: LoggedContext, evidence: Evidence) -> Evidence:
    """Evidence for all arms, from what it is for those that are not stored. A repeated query is none to look around
    with: whoever wants another answer says so."""
    keep = _others(context)
    expected = Estimates(*(_spread(context, keep, each) for each in _rows(evidence.expected)))
    for place in np.flatnonzero(~keep):
        expected.quality[place], expected.sigma[place] = _expected_of(context, expected, int(place))
    gamma = None if evidence.capacity_prices is None else _spread(context, keep, evidence.capacity_prices)
    return replace(evidence, expected=expected, capacity_prices=gamma, early=False)


def given_again(context: LoggedContext, estimates: Estimates, probabilities: Float) -> Float:
    """(n,) the same, but whoever would ask a model again for an answer that the model gave gets that answer. It must be
    expected to be as good as the model is."""
    assert context.stored is not None
    quality: list[float] = estimates.quality.tolist()
    for place, fits in enumerate(context.stored.tolist()):
        maker = _maker(context, place) if fits >= 1.0 else -1
        if maker >= 0 and quality[place] >= quality[maker]:
            probabilities = probabilities.copy()
            probabilities[place] += probabilities[maker]
            probabilities[maker] = 0.0
    return probabilities


def _expected_of(context: LoggedContext, expected: Estimates, place: int) -> tuple[float, float]:
    """(quality, its standard deviation) of a stored answer; costs are none."""
    assert context.stored is not None
    fits, arm, maker = float(context.stored[place]), context.arms[place], _maker(context, place)
    quality = UNKNOWN if maker < 0 else float(expected.quality[maker])
    sigma = UNKNOWN_SIGMA if maker < 0 else float(expected.sigma[maker])
    return fits * (quality if arm.quality is None else arm.quality), fits * sigma


def _others(context: LoggedContext) -> NDArray[np.bool_]:
    assert context.stored is not None
    return np.asarray(np.isnan(context.stored))


def _maker(context: LoggedContext, place: int) -> int:
    """The place of the model that made a stored answer; −1 where it is not among the arms."""
    name, names = context.arms[place].parent, context.names
    return names.index(name) if name in names else -1


def _rows(estimates: Estimates) -> tuple[Float, Float, Float]:
    return estimates.quality, estimates.sigma, estimates.cost


def _taken(estimates: Estimates, keep: NDArray[np.bool_]) -> Estimates:
    return Estimates(*(each[keep] for each in _rows(estimates)))


def _spread(context: LoggedContext, keep: NDArray[np.bool_], values: Float) -> Float:
    """(n,) with zeros for stored answers."""
    spread = np.zeros(len(context.arms))
    spread[keep] = values
    return spread


def _fields(context: LoggedContext, keep: NDArray[np.bool_]) -> dict[str, Any]:
    """What the context says of the other arms."""
    measured = context.measured_cost
    if measured is not None:
        measured = MeasuredCost(measured.prompt_usd[keep], measured.completion_usd[keep], measured.tokens[keep])
    rows = {name: getattr(context, name) for name in ("capacity", "cached", "waiting", "counted")}
    kept = {name: None if row is None else row[keep] for name, row in rows.items()}
    return {**kept, "arms": _kept(context.arms, tuple(keep.tolist())), "measured_cost": measured, "stored": None}


@lru_cache(maxsize=512)
def _kept(arms: tuple[Arm, ...], keep: tuple[bool, ...]) -> tuple[Arm, ...]:
    """The same tuple for the same arms, so that whoever keeps something by arms finds it again."""
    return tuple([arm for arm, keeps in zip(arms, keep, strict=True) if keeps])
