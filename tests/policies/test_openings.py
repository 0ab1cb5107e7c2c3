"""From nothing: a policy that takes the best so far must first have met the others."""

from __future__ import annotations

import numpy as np
import pytest

from policies.registry import build
from policies.replay import BudgetGate
from policies.simulation import GrowingNeighbours, QueryStream, simulate
from policies.types import Arm, History

ARMS = tuple(Arm(name, 0.0, price) for name, price in (("cheap", 1e-7), ("usual", 3e-7), ("best", 1e-6)))
TRUE = np.array([0.78, 0.80, 0.93])
QUERIES, DIM = 400, 16


def fresh(rng: np.random.Generator) -> tuple[QueryStream, History]:
    """A stream of alike queries, and a history of none."""
    vectors = rng.normal(size=(QUERIES, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = (rng.random((QUERIES, len(ARMS))) < TRUE).astype(np.float64)
    costs = np.tile([arm.completion_price * 200 for arm in ARMS], (QUERIES, 1))
    lengths = np.full(QUERIES, 40, np.int64)
    stream = QueryStream(ARMS, vectors, scores, costs, lengths, 4 * lengths)
    none = np.zeros((0, len(ARMS)))
    return stream, History(vectors[:0], ARMS, none, none, lengths[:0], lengths[:0])


@pytest.mark.parametrize("name", ["neighbours", "epsilon", "preference", "linucb", "thompson", "paced"])
def test_on_a_fresh_trace_the_best_of_three_models_is_found(name: str) -> None:
    """LinUCB and neighbours used to stay with the first that was good."""
    shares = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        stream, history = fresh(rng)
        view, gate = GrowingNeighbours(stream, history), BudgetGate(len(ARMS))
        run = simulate(build(name, ARMS, {}), stream, view, gate=gate, rng=rng)
        shares.append(float((run.choices[QUERIES // 2 :] == 2).mean()))
    assert np.mean(shares) > 0.6, shares
