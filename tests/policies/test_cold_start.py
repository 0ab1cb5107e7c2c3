"""What few labels say of a new arm by kind of query, as far as the known arms differ by kind."""

from __future__ import annotations

import numpy as np
import pytest

from policies.estimators.cold_start import fit_cold_start, known_arms, learn_strengths
from policies.estimators.mixture import GROUPS, kinds_of
from policies.estimators.online import Query
from policies.estimators.stack import Stack
from policies.estimators.stacked_or_neighbours import NOTHING_NEAR, surface
from policies.types import Float, Float32, History
from tests.policies.worlds import make_arms

ROWS, KNOWN, LABELS = 3_000, 5, 50


def make_world(seed: int, deviation: float) -> tuple[Float, Float, Float]:
    """(chances (ROWS, KNOWN + 1), draws from them, kinds (ROWS, GROUPS) with mean 0); by kind arms differ by it."""
    rng = np.random.default_rng(seed)
    kinds = np.eye(GROUPS)[rng.integers(0, GROUPS, ROWS)]
    difficulty = rng.uniform(-0.15, 0.15, (ROWS, 1))
    level, by_kind = rng.normal(0.5, 0.05, KNOWN + 1), rng.normal(0.0, deviation, (GROUPS, KNOWN + 1))
    chances = np.clip(level + difficulty + kinds @ by_kind, 0.02, 0.98)
    return chances, (rng.random(chances.shape) < chances).astype(np.float64), kinds - kinds.mean(axis=0)


def believed(seed: int, deviation: float, *, with_kinds: bool) -> tuple[Float, Float]:
    """(q̂ of a new arm with LABELS labels, its chances), each (ROWS,)."""
    chances, scores, kinds = make_world(seed, deviation)
    seen = np.full(ROWS, np.nan)
    seen[:LABELS] = scores[:LABELS, KNOWN]
    known = known_arms(scores[:, :KNOWN], chances[:, :KNOWN], kinds if with_kinds else None)
    new = fit_cold_start(known, seen)
    found = chances[:, :KNOWN] @ new.weights + new.offset
    return found + (kinds @ new.tilt if with_kinds else 0.0), chances[:, KNOWN]


def likeness(deviation: float, *, with_kinds: bool) -> float:
    """Mean correlation of what is believed with the truth, over some worlds."""
    pairs = [believed(seed, deviation, with_kinds=with_kinds) for seed in range(16)]
    return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))


def test_a_new_arm_good_at_one_kind_and_bad_at_another_is_told_apart_where_known_arms_differ_by_kind() -> None:
    assert likeness(0.2, with_kinds=True) > likeness(0.2, with_kinds=False) + 0.1


def test_where_known_arms_do_not_differ_by_kind_a_new_arm_is_what_it_was_without_kinds() -> None:
    for seed in range(6):
        ours, plain = (believed(seed, 0.0, with_kinds=each)[0] for each in (True, False))
        assert np.sqrt(np.mean((ours - plain) ** 2)) < 0.02


def test_kinds_say_nothing_beside_two_known_arms() -> None:
    chances, scores, kinds = make_world(0, 0.2)
    seen = np.where(np.arange(ROWS) < LABELS, scores[:, KNOWN], np.nan)
    new = fit_cold_start(known_arms(scores[:, :2], chances[:, :2], kinds), seen)
    assert np.abs(new.tilt).max() < 1e-6


def test_sparse_labels_of_the_known_arms_show_how_they_differ_by_kind() -> None:
    chances, scores, kinds = make_world(0, 0.2)
    scores[np.random.default_rng(1).random(scores.shape) < 0.6] = np.nan
    luck = (scores - chances)[:, :KNOWN]
    spreads = learn_strengths(luck, chances[:, :KNOWN], kinds).spreads[-GROUPS:]
    assert 0.05 < spreads.mean() < 0.4


def test_a_label_is_doubted_where_the_known_arms_disagreed_beyond_what_was_expected() -> None:
    rng = np.random.default_rng(0)
    wild = rng.random(ROWS) < 0.5
    luck = np.where(wild[:, None], 0.4, 0.05) * rng.choice([-1.0, 1.0], (ROWS, KNOWN))
    variances = learn_strengths(luck, np.full((ROWS, KNOWN), 0.5), np.zeros((ROWS, 0))).variances
    assert variances[wild].mean() > 5.0 * variances[~wild].mean()


def make_blobs() -> tuple[Float32, np.ndarray]:
    """(unit rows (ROWS, 24), which of three groups each lies in)."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, ROWS)
    rows = np.eye(24)[group] + 0.05 * rng.normal(size=(ROWS, 24))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), group


def test_groups_that_lie_apart_are_never_put_together() -> None:
    rows, group = make_blobs()
    found = kinds_of(rows).groups.argmax(axis=1)
    assert all(len(set(group[found == each])) == 1 for each in set(found))


def test_kinds_are_the_same_whenever_they_are_looked_for() -> None:
    rows, _ = make_blobs()
    first, second = kinds_of(rows), kinds_of(rows)
    np.testing.assert_array_equal(first.groups, second.groups)
    np.testing.assert_array_equal(first.leading, second.leading)


def test_the_first_leading_coordinate_has_variance_one_and_the_others_less() -> None:
    rows, _ = make_blobs()
    spread = (rows @ kinds_of(rows).leading.T).std(axis=0)
    assert spread[0] == pytest.approx(1.0, rel=1e-4)
    assert spread[1:].max() < 1.0


def test_fewer_rows_than_groups_are_put_in_groups_too() -> None:
    rows, _ = make_blobs()
    assert (kinds_of(rows[:3]).groups.sum(axis=1) == 1.0).all()


def test_a_stack_expects_more_of_a_new_arm_on_the_kind_it_was_good_at_though_no_known_arm_is() -> None:
    vectors, group = make_blobs()
    rng = np.random.default_rng(1)
    by_group = np.array([[0.6, 0.45, 0.5], [0.4, 0.5, 0.45], [0.5, 0.6, 0.4], [0.45, 0.4, 0.6], [0.55, 0.5, 0.5]])
    chances = np.column_stack([by_group[:, group].T, np.array([0.9, 0.5, 0.2])[group]])
    scores = (rng.random(chances.shape) < chances).astype(np.float64)
    scores[LABELS:, -1] = np.nan
    lengths, features = np.full(ROWS, 100), rng.random((ROWS, 5)).astype(np.float32)
    stack, arms = Stack(), make_arms(6)
    stack.fit(
        History(vectors, arms, scores, np.full(scores.shape, 1e-4), lengths, 4 * lengths, features),
        surface(features, 4 * lengths, lengths),
    )
    asked = [Query(vectors[row], features[row], 400, 100, *NOTHING_NEAR, None) for row in range(ROWS)]
    quality = np.stack([stack.expect_one(each).quality for each in asked])
    found, mixed = quality[:, -1], (quality @ stack.mixture)[:, -1]
    gap, mixture = (each[group == 0].mean() - each[group == 2].mean() for each in (found, mixed))
    assert gap > mixture + 0.05
    spread = np.stack([stack.expect_one(each).sigma for each in asked])[:, -1]
    assert spread.max() < 0.6, "no score lies further from a chance than that"
