"""From nothing: a policy that takes the best so far must first have met the others."""

from __future__ import annotations

import numpy as np
import pytest

from policies.registry import build
from policies.replay import BudgetGate
from policies.simulation import GrowingNeighbours, QueryStream, contexts, simulate
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


@pytest.mark.parametrize("seed", range(2, 6))
def test_one_far_better_than_all_others_is_not_doubted_for_ever(seed: int) -> None:
    """The others never have the labels of a fit: that nothing is fitted is then no reason to look around."""
    rng = np.random.default_rng(seed)
    stream, _ = fresh(rng)
    labelled = rng.choice(len(ARMS), p=[0.06, 0.06, 0.88], size=QUERIES)
    right = (rng.random((QUERIES, len(ARMS))) < np.array([0.55, 0.6, 0.85])).astype(np.float64)
    others, lengths = labelled[:, None] != np.arange(len(ARMS)), stream.prompt_tokens
    scores, costs = np.where(others, np.nan, right), np.where(others, np.nan, stream.costs)
    history = History(stream.embeddings, ARMS, scores, costs, lengths, 4 * lengths)
    policy = build("paced", ARMS, {})
    policy.refit(history)
    asked, _ = fresh(rng)
    seen = contexts(asked, GrowingNeighbours(asked, history), most=100)
    assert np.mean([policy.propose(context).probabilities[2] for context in seen]) > 0.98
