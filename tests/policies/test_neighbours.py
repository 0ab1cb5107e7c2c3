"""What neighbours say, and what is believed of it where they are unlike the query or each other."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from policies.estimators.means import Means
from policies.estimators.neighbours import NeighbourMeans
from policies.estimators.repriced import Repriced
from policies.types import Arm, History, Neighbours
from tests.policies.worlds import make_arms, make_context, make_history

UNPRICED = tuple(Arm(f"model-{i}", 0.0, 0.0) for i in range(4))


@pytest.mark.parametrize("arms", [make_arms(), UNPRICED], ids=["priced", "unpriced"])
@pytest.mark.parametrize("shrinkage", [0.0, 10.0])
@pytest.mark.parametrize("nearness", [1.0, 0.1, 0.0], ids=["in distribution", "out of distribution", "unlike anything"])
def test_costs_alone_are_the_costs_of_an_estimate(arms: tuple[Arm, ...], shrinkage: float, nearness: float) -> None:
    history = make_history(arms)
    history.costs[np.random.default_rng(0).random(history.costs.shape) < 0.3] = np.nan
    estimator = Repriced(NeighbourMeans(Means(), k=20, shrinkage=shrinkage))
    estimator.refit(history)
    for seed in range(20):
        context = make_context(arms, history, seed)
        near = replace(context.neighbours, similarity=context.neighbours.similarity * np.float32(nearness))
        context = replace(context, neighbours=near)
        np.testing.assert_allclose(estimator.costs(context), estimator.estimate(context).cost, rtol=1e-12)


def neighbours_at(similarity: float, scores: list[float], rows: int = 60) -> Neighbours:
    """Rows alike, of two arms."""
    return Neighbours(
        np.full(rows, similarity, np.float32), np.tile(np.array(scores), (rows, 1)), np.full((rows, 2), 1e-5)
    )


def test_a_query_unlike_anything_seen_falls_back_to_the_means() -> None:
    history = make_history(UNPRICED[:2])
    estimator = NeighbourMeans(Means(), k=20)
    estimator.refit(history)
    context = make_context(UNPRICED[:2], None)
    near = estimator.estimate(replace(context, neighbours=neighbours_at(0.9, [0.05, 0.95])))
    far = estimator.estimate(replace(context, neighbours=neighbours_at(0.0, [0.05, 0.95])))
    means = Means()
    means.refit(history)
    assert near.quality[1] - near.quality[0] > 0.6
    np.testing.assert_allclose(far.quality, means.estimate(context).quality, atol=0.1)


def test_a_far_query_goes_to_the_arm_that_is_surely_good() -> None:
    scores = np.stack([np.full(60, 0.6), np.tile([1.0, 1.0, 0.0], 20)], axis=1)
    estimator, context = NeighbourMeans(Means(), k=20, shrinkage=0.0), make_context(UNPRICED[:2], None)
    chosen = []
    for similarity in (0.9, 0.1):
        near = Neighbours(np.full(60, similarity, np.float32), scores, np.full((60, 2), 1e-5))
        chosen.append(int(np.argmax(estimator.estimate(replace(context, neighbours=near)).quality)))
    assert chosen == [1, 0]


def disagreeing(similarity: float = 0.9) -> Neighbours:
    """Of arm 0 the 20 nearest are split in the middle and the rest are good; arm 1 is always 0.6."""
    first = np.concatenate([np.tile([0.0, 1.0], 10), np.ones(40)])
    scores = np.stack([first, np.full(60, 0.6)], axis=1)
    return Neighbours(np.full(60, similarity, np.float32), scores, np.full((60, 2), 1e-5))


def steady_history() -> History:
    """Arm 0 nearly always scores 0.9, arm 1 0.6."""
    history = make_history(UNPRICED[:2])
    noise = np.random.default_rng(0).normal(size=history.scores.shape) * 0.1
    return replace(history, scores=np.array([0.85, 0.6]) + noise)


def test_neighbours_that_disagree_more_than_the_history_are_widened_and_shrunk_to_the_means() -> None:
    estimator, context = NeighbourMeans(Means(), k=20), make_context(UNPRICED[:2], None)
    estimator.refit(steady_history())
    found = estimator.estimate(replace(context, neighbours=disagreeing()))
    agreeing = np.tile([[0.5, 0.6]], (60, 1))
    calm = estimator.estimate(replace(context, neighbours=replace(disagreeing(), scores=agreeing)))
    assert calm.quality[0] < 0.65
    assert found.quality[0] > 0.75


def test_where_neighbours_disagree_the_arm_that_is_surely_good_is_preferred() -> None:
    history = steady_history()
    history.scores[:, 0] = np.where(np.arange(len(history.scores)) % 8 < 5, 1.0, 0.0)  # 0.625, and unsure
    estimator, context = NeighbourMeans(Means(), k=60, shrinkage=0.0), make_context(UNPRICED[:2], None)
    estimator.refit(replace(history, scores=0.3 + 0.5 * history.scores))
    chosen = []
    for spread in (0.1, 0.28):
        apart = np.tile([spread, -spread], 30)
        near = Neighbours(
            np.full(60, 0.9, np.float32), np.stack([0.62 + apart, np.full(60, 0.615)], axis=1), np.full((60, 2), 1e-5)
        )
        chosen.append(int(np.argmax(estimator.estimate(replace(context, neighbours=near)).quality)))
    assert chosen == [0, 1]
