"""What is hoped of a model that nobody has judged: as much as its price says of the models that are known."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from policies.registry import build
from policies.types import Arm, History
from tests.policies.worlds import make_context, make_history

ARMS = tuple(Arm(f"model {usd:g}", usd, usd) for usd in (1e-7, 1e-6, 1e-5))


def history(expensive_is_better: bool) -> History:
    """Three known models, whose quality rises with their price or falls; the fourth has answered nothing."""
    known = make_history(ARMS, rows=400)
    level = np.array([0.3, 0.5, 0.7] if expensive_is_better else [0.7, 0.5, 0.3])
    scores = (np.random.default_rng(0).random((400, 3)) < level).astype(np.float64)
    nothing = np.full((400, 1), np.nan)
    costs = np.array([1e-5, 1e-4, 1e-3]) * np.ones((400, 1))
    return replace(known, arms=(*ARMS, LATE), scores=np.hstack([scores, nothing]), costs=np.hstack([costs, nothing]))


LATE = Arm("late", 1e-4, 1e-4)


def hoped(expensive_is_better: bool) -> float:
    """The quality expected of the most expensive, which joins."""
    policy = build("paced", (*ARMS, LATE))
    policy.refit(history(expensive_is_better))
    return float(policy.propose(make_context((*ARMS, LATE))).estimates.quality[-1])


def test_more_is_hoped_of_an_expensive_model_that_joins_where_expensive_ones_are_better_than_where_they_are_worse() -> (
    None
):
    assert hoped(expensive_is_better=True) > 0.5
    assert hoped(expensive_is_better=True) > hoped(expensive_is_better=False) + 0.05
