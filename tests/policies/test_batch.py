"""Deciding for many queries at once."""

from __future__ import annotations

import numpy as np
import pytest

from policies.batch import choose_batch
from policies.composed import Composed
from policies.estimators.means import Means
from policies.estimators.neighbours import NeighbourMeans
from policies.explorers.greedy import Greedy
from policies.pacers.flat import Flat
from policies.play import Fixed, Stream, contexts, nearest
from policies.types import Arm, History
from tests.policies.worlds import make_arms, make_history

UNPRICED = tuple(Arm(f"model-{i}", 0.0, 0.0) for i in range(4))


def make_stream(history: History) -> Stream:
    other = make_history(history.arms, rows=80, seed=9)
    return Stream(other.arms, other.embeddings, other.scores, other.costs, other.prompt_tokens, other.prompt_characters)


@pytest.mark.parametrize("arms", [make_arms(), UNPRICED], ids=["priced", "unpriced"])
@pytest.mark.parametrize("shrinkage", [0.0, 10.0])
def test_a_batch_decides_as_one_query_after_the_other(arms: tuple[Arm, ...], shrinkage: float) -> None:
    history = make_history(arms)
    history.scores[np.random.default_rng(0).random(history.scores.shape) < 0.3] = np.nan
    estimator = NeighbourMeans(Means(), k=20, shrinkage=shrinkage)
    estimator.refit(history)
    stream = make_stream(history)
    near, similarity = nearest(stream.embeddings, history.embeddings, 100)
    found = estimator.estimate_batch(history, near, similarity, tokens=stream.prompt_tokens, max_completion_tokens=4096)
    policy = Composed(estimator, Flat(), Greedy())
    proposals = [policy.propose(context) for context in contexts(stream, Fixed(stream, history), preference=500.0)]
    np.testing.assert_allclose(found.quality, [each.estimates.quality for each in proposals], atol=1e-12)
    np.testing.assert_allclose(found.sigma, [each.estimates.sigma for each in proposals], atol=1e-9)
    np.testing.assert_allclose(found.cost, [each.estimates.cost for each in proposals], rtol=1e-12)
    single = [int(np.argmax(each.probabilities)) for each in proposals]
    assert choose_batch(found, np.array(500.0)).tolist() == single
