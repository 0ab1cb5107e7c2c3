"""One query at a time is the same arithmetic as many, in fewer steps."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from policies.estimators.drift import Residuals
from policies.estimators.forest import Forest
from policies.estimators.forest_traversal import ForestTraversal
from policies.estimators.online import NEAREST, Query
from policies.estimators.stack import DIRECTIONS, Stack, neighbour_means
from policies.estimators.stacked_or_neighbours import surface
from policies.types import Arm, Estimates, History
from tests.policies.worlds import DIMENSIONS, make_arms, make_history, make_unit

ARMS = make_arms(5)
UNPRICED = tuple(Arm(arm.name, 0.0, 0.0) for arm in ARMS[:2]) + ARMS[2:]
ROWS = 400


def make_past(arms: tuple[Arm, ...], *, with_new_arm: bool, dimensions: int = DIMENSIONS) -> History:
    history = make_history(arms, rows=ROWS, dimensions=dimensions)
    features = np.random.default_rng(5).normal(size=(ROWS, 7)).astype(np.float32)
    if with_new_arm:
        history.scores[30:, 4] = np.nan
    return replace(history, features=features)


def fit(history: History) -> Stack:
    stack = Stack()
    stack.fit(history, surface(history.features, history.prompt_characters, history.prompt_tokens))
    return stack


@pytest.fixture(scope="module", params=["established", "a new arm", "some unpriced", "more dimensions than are kept"])
def history(request: pytest.FixtureRequest) -> History:
    arms = UNPRICED if request.param == "some unpriced" else ARMS
    dimensions = 2 * DIRECTIONS if request.param == "more dimensions than are kept" else DIMENSIONS
    return make_past(arms, with_new_arm=request.param == "a new arm", dimensions=dimensions)


@pytest.fixture(scope="module")
def stack(history: History) -> Stack:
    return fit(history)


def make_queries(history: History, count: int = 20, *, nearness: float = 1.0) -> list[Query]:
    """Queries with 30 neighbours, a third of whose cells nobody observed."""
    rng = np.random.default_rng(3)
    vectors = make_unit(rng, count, history.embeddings.shape[1])
    queries = []
    for i, vector in enumerate(vectors):
        similarity = -np.sort(-history.embeddings @ vector)[:30] * np.float32(nearness)
        scores = history.scores[np.argsort(-history.embeddings @ vector)[:30]].copy()
        scores[rng.random(scores.shape) < 0.3] = np.nan
        features = rng.normal(size=7).astype(np.float32)
        queries.append(Query(vector, features, 90 * i, 20 * i, similarity, scores, None))
    return queries


def in_batch(queries: list[Query], stack: Stack) -> Estimates:
    """What the formulas say of many queries at once, written plainly."""
    features = np.stack([each.features for each in queries if each.features is not None])
    characters = np.array([each.prompt_characters for each in queries])
    tokens = np.array([each.prompt_tokens for each in queries])
    embeddings, inputs = np.stack([each.embedding for each in queries]), surface(features, characters, tokens)
    similarity, scores = (np.stack([getattr(each, part) for each in queries]) for part in ("similarity", "scores"))
    smooth = stack.smooth_inputs(embeddings, inputs)
    members = [stack.kernel.predict(smooth), stack.forest.predict(np.concatenate([embeddings, inputs], axis=1))]
    weights, trust = stack.weights, np.ones(len(queries))
    if similarity.shape[1]:
        members.append(neighbour_means(similarity, scores, stack.means))
        trust = np.clip(similarity[:, :NEAREST].mean(axis=1, dtype=np.float64) / stack.id_threshold, 0.0, 1.0)
    else:
        weights = weights[:2] * weights.sum() / max(weights[:2].sum(), 1e-9)
    unusual = (smooth[:, len(stack.directions) :] ** 2).sum(axis=1)
    trust = np.minimum(trust, stack.usual / np.maximum(unusual, stack.usual))[:, None]
    known = (1.0 - weights.sum()) * stack.means + sum(w * each for w, each in zip(weights, members, strict=True))
    deviation = np.where(stack.new, members[0], 0.0) + smooth @ stack.tilt
    known = (stack.means + trust * (known - stack.means)) @ stack.mixture + stack.offset + trust * deviation
    apart = np.where(stack.new, 0.0, np.max(members, axis=0) - np.min(members, axis=0))
    sigma = np.hypot(stack.spread * (2.0 - trust), apart)
    return Estimates(np.clip(known, 0.0, 1.0), sigma, stack.charges.predict(inputs, tokens))


def assert_alike(single: list[Estimates], batch: Estimates) -> None:
    for part in ("quality", "sigma", "cost"):
        np.testing.assert_allclose([getattr(each, part) for each in single], getattr(batch, part), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("nearness", [1.0, 0.2, 0.0], ids=["in distribution", "out of distribution", "unlike anything"])
def test_one_query_is_expected_as_in_a_batch(stack: Stack, history: History, nearness: float) -> None:
    queries = make_queries(history, nearness=nearness)
    assert_alike([stack.expect_one(each) for each in queries], in_batch(queries, stack))


def test_a_batch_is_decided_as_one_query_after_the_other(stack: Stack, history: History) -> None:
    queries = make_queries(history)
    for price in (0.0, 300.0, 3e4):
        single = [stack.expect_one(each) for each in queries]
        chosen = [int(np.argmax(each.quality - price * each.cost)) for each in single]
        batch = in_batch(queries, stack)
        assert np.argmax(batch.quality - price * batch.cost, axis=1).tolist() == chosen


def test_one_query_without_neighbours_is_expected_as_in_a_batch(stack: Stack, history: History) -> None:
    nothing = np.zeros(0, np.float32), np.zeros((0, len(ARMS)))
    queries = [replace(each, similarity=nothing[0], scores=nothing[1]) for each in make_queries(history)]
    assert_alike([stack.expect_one(each) for each in queries], in_batch(queries, stack))


def test_neighbours_of_some_arms_only_leave_the_others_at_their_means(stack: Stack, history: History) -> None:
    columns = np.array([3, 0])
    for query in make_queries(history):
        unseen = np.full_like(query.scores, np.nan)
        unseen[:, columns] = query.scores[:, columns]
        some = stack.expect_one(replace(query, scores=query.scores[:, columns], columns=columns))
        wide = stack.expect_one(replace(query, scores=unseen))
        np.testing.assert_allclose(some.quality, wide.quality, rtol=1e-12)


def test_a_stack_that_was_restored_expects_the_same_of_one_query_to_the_last_bit(
    stack: Stack, history: History
) -> None:
    other = Stack()
    other.restore(stack.state())
    for query in make_queries(history):
        ours, theirs = stack.expect_one(query), other.expect_one(query)
        for part in ("quality", "sigma", "cost"):
            np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))


def test_nothing_is_expected_of_a_query_before_a_fit(history: History) -> None:
    with pytest.raises(ValueError, match="nothing was fitted"):
        Stack().expect_one(make_queries(history, 1)[0])


def test_walking_several_forests_together_is_predicting_with_each() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(900, 12)).astype(np.float32)
    targets = np.sin(inputs[:, :3]) + 0.1 * rng.normal(size=(900, 3))
    deep = Forest(trees=7, depth=11, leaf=1, inputs=0.5)  # the depth is no multiple of the levels of a step
    stump = Forest(trees=3, depth=1, leaf=5, inputs=1.0)
    deep.fit(inputs, targets)
    stump.fit(inputs[:, 8:], targets)
    walk = ForestTraversal([deep.trees, stump.trees], [0, 8])
    found = np.stack([walk.predict(row) for row in inputs[:200]])
    np.testing.assert_allclose(found[:, 0], deep.predict(inputs[:200]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], stump.predict(inputs[:200, 8:]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_walking_trees_that_end_within_the_first_step_is_predicting_with_them(depth: int) -> None:
    inputs = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    low = Forest(trees=3, depth=depth, leaf=5, inputs=1.0)
    low.fit(inputs, np.sin(inputs[:, :2]))
    same = Forest(trees=3, depth=depth, leaf=5, inputs=1.0)
    same.fit(inputs, np.ones((300, 2)))
    walk = ForestTraversal([low.trees, same.trees], [0, 0])
    found = np.stack([walk.predict(row) for row in inputs])
    np.testing.assert_allclose(found[:, 0], low.predict(inputs), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], same.predict(inputs), rtol=1e-5, atol=1e-6)


def test_a_forest_says_what_the_trees_it_was_made_of_say() -> None:
    from sklearn.ensemble import ExtraTreesRegressor

    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(500, 6)).astype(np.float32), rng.random((500, 2))
    forest = Forest(trees=5, depth=9, leaf=3, inputs=0.5, shrinkage=1e-9)
    forest.fit(inputs, targets)
    reference = ExtraTreesRegressor(5, max_depth=9, min_samples_leaf=3, max_features=0.5, random_state=0)
    others = rng.normal(size=(300, 6)).astype(np.float32)
    np.testing.assert_allclose(forest.predict(others), reference.fit(inputs, targets).predict(others), rtol=1e-5)


@pytest.mark.parametrize("gaps", [0.0, 0.5, 1.0])
def test_neighbours_weigh_by_similarity_and_gaps_are_left_out(gaps: float) -> None:
    rng = np.random.default_rng(0)
    similarity = -np.sort(-rng.uniform(-0.2, 1.0, (6, 9)).astype(np.float32), axis=1)
    scores, means = rng.random((6, 9, 4)), rng.random(4)
    scores[rng.random(scores.shape) < gaps] = np.nan
    weights = np.maximum(similarity, 0.0).astype(np.float64) ** 2 + 1e-3
    weights *= 9 / weights.sum(axis=1, keepdims=True)
    expected = np.empty((6, 4))
    for row, arm in np.ndindex(6, 4):
        seen = ~np.isnan(scores[row, :, arm])
        total = weights[row, seen] @ scores[row, seen, arm] + 2.0 * means[arm]
        expected[row, arm] = total / (weights[row, seen].sum() + 2.0)
    np.testing.assert_allclose(neighbour_means(similarity, scores, means), expected, rtol=1e-9)


def test_residuals_are_kernel_means_of_the_latest_answers_shrunk_to_zero() -> None:
    rng, residuals = np.random.default_rng(0), Residuals(size=16, sharpness=4.0, doubt=(8.0, 2.0))
    for _ in range(3):
        residuals.grow()
    vectors, arms, channels = make_unit(rng, 40, 5), rng.integers(0, 3, 40), rng.integers(0, 2, 40)
    left, weights = rng.normal(size=40), rng.random(40)
    for row in range(40):
        residuals.add(vectors[row], int(arms[row]), int(channels[row]), float(left[row]), float(weights[row]))
    query = make_unit(rng, 1, 5)[0]
    total, weight = np.zeros((3, 2)), np.zeros((3, 2))
    for row in range(24, 40):
        near = np.exp(4.0 * (float(vectors[row] @ query) - 1.0))
        total[arms[row], channels[row]] += near * weights[row] * left[row]
        weight[arms[row], channels[row]] += near * weights[row]
    doubt = np.array([8.0, 2.0])
    share = doubt / (weight + doubt)  # an arm with many answers counts as `doubt` of them
    rest = [(share * each).sum(axis=0) - share * each for each in (total, weight)]
    others = rest[0] / (rest[1] + doubt)
    found = residuals.shifts(query)
    np.testing.assert_allclose(found[0], others, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[1], (total - weight * others) / (weight + doubt), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(residuals.shift(query), found[0] + found[1], rtol=1e-9, atol=1e-12)


def test_answers_are_near_in_the_directions_given_and_no_others() -> None:
    residuals = Residuals(size=16)
    residuals.grow()
    residuals.clear(np.eye(5, dtype=np.float32)[:2])
    near, far = (np.array(each, np.float32) for each in ([0.6, 0.0, 0.8, 0.0, 0.0], [0.0, 0.6, 0.8, 0.0, 0.0]))
    residuals.add(near, 0, 0, 1.0, 1.0)
    query = np.array([0.6, 0.0, 0.0, 0.0, -0.8], np.float32)
    alike = residuals.shifts(query)[1][0, 0]
    residuals.clear()
    residuals.add(far, 0, 0, 1.0, 1.0)
    assert alike == pytest.approx(1.0 / 9.0)
    assert residuals.shifts(query)[1][0, 0] == pytest.approx(np.exp(-8.0) / (np.exp(-8.0) + 8.0), rel=1e-3)


@pytest.mark.parametrize("known", [None, 7])
@pytest.mark.parametrize("asked", [None, 3, 7, 49])
def test_features_of_another_form_than_those_of_the_fit_are_as_features_that_nobody_knows(
    known: int | None, asked: int | None
) -> None:
    """A log may have been kept under another policy, which computes none, or by another version."""
    past = make_past(ARMS, with_new_arm=False)
    stack = fit(past if known else replace(past, features=None))
    for query in make_queries(past, 5):
        features = None if asked is None else np.ones(asked, np.float32)
        nobody_knows = np.zeros(known or 0, np.float32)
        expected = stack.expect_one(replace(query, features=nobody_knows))
        found = stack.expect_one(replace(query, features=features))
        is_used = known is not None and asked == known
        assert np.allclose(found.quality, expected.quality) is not is_used
        assert np.isfinite(found.cost).all()
