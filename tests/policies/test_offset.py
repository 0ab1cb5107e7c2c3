"""How good a new arm is altogether, from a few labels beside what the known arms scored."""

from __future__ import annotations

import numpy as np
import pytest

from policies.estimators.offset import new_level

ROWS, ARMS = 2_000, 5


def make_scores(seed: int = 0, *, ability: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(right or wrong (ROWS, ARMS + 1), expected of the first ARMS (ROWS, ARMS)); some prompts are hard unseen."""
    rng = np.random.default_rng(seed)
    ability = rng.normal(1.0, 0.7, ARMS + 1) if ability is None else ability
    seen, hidden = rng.normal(0.0, 1.0, (ROWS, 1)), rng.normal(0.0, 1.5, (ROWS, 1))
    chance = 1.0 / (1.0 + np.exp(-(ability + seen + hidden)))
    draws = rng.normal(0.0, 1.5, 400)
    expected = (1.0 / (1.0 + np.exp(-(ability[:ARMS] + seen)[..., None] - draws))).mean(axis=2)
    return (rng.random((ROWS, ARMS + 1)) < chance).astype(np.float64), expected


def labelled(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    seen = np.full(len(scores), np.nan)
    seen[rows] = scores[rows]
    return seen


def test_the_level_is_closer_than_the_mean_of_its_labels() -> None:
    ours, means = [], []
    for seed in range(12):
        scores, expected = make_scores(seed)
        known, truth = scores[:, :ARMS], scores[:, ARMS]
        rows = np.random.default_rng(seed).choice(ROWS, 50, replace=False)
        ours.append(new_level(known, expected, labelled(truth, rows))[0] - truth.mean())
        means.append(truth[rows].mean() - truth.mean())
    assert np.std(ours) < 0.75 * np.std(means)


def test_the_level_is_off_by_as_much_as_its_variance_says() -> None:
    surprises = []
    for seed in range(40):
        scores, expected = make_scores(seed)
        rows = np.random.default_rng(seed).choice(ROWS, 50, replace=False)
        level, variance = new_level(scores[:, :ARMS], expected, labelled(scores[:, ARMS], rows))
        surprises.append((level - scores[:, ARMS].mean()) / np.sqrt(variance))
    assert 0.6 < np.sqrt(np.mean(np.square(surprises))) < 1.4


def test_prompts_the_known_arms_disagreed_on_tell_more_than_those_all_got_right() -> None:
    scores, expected = make_scores()
    right = scores[:, :ARMS].sum(axis=1)
    agreed, disagreed = np.flatnonzero(right == ARMS)[:50], np.flatnonzero((right > 1) & (right < ARMS - 1))[:50]
    _, vague = new_level(scores[:, :ARMS], expected, labelled(scores[:, ARMS], agreed))
    _, sure = new_level(scores[:, :ARMS], expected, labelled(scores[:, ARMS], disagreed))
    assert sure < 0.6 * vague


def test_an_expensive_arm_is_expected_to_be_better_where_expensive_arms_are() -> None:
    scores, expected = make_scores(ability=np.linspace(-0.5, 2.5, ARMS + 1))
    costs, nothing = np.linspace(-2.0, 2.0, ARMS), np.full(ROWS, np.nan)
    cheap, usual, expensive = (
        new_level(scores[:, :ARMS], expected, nothing, np.append(costs, each))[0] for each in (-2.0, 0.0, 2.0)
    )
    assert cheap + 0.1 < usual < expensive - 0.1
    assert usual == pytest.approx(new_level(scores[:, :ARMS], expected, nothing)[0], abs=0.02)


def test_costs_that_are_all_alike_say_nothing_of_a_new_arm() -> None:
    scores, expected = make_scores(ability=np.linspace(-0.5, 2.5, ARMS + 1))
    seen = labelled(scores[:, ARMS], np.arange(20))
    alike = new_level(scores[:, :ARMS], expected, seen, np.zeros(ARMS + 1))
    assert alike == pytest.approx(new_level(scores[:, :ARMS], expected, seen))


def test_one_known_arm_is_enough() -> None:
    scores, expected = make_scores()
    level, variance = new_level(scores[:, :1], expected[:, :1], labelled(scores[:, ARMS], np.arange(100)))
    assert level == pytest.approx(scores[:, ARMS].mean(), abs=0.15)
    assert 0.0 < variance < 0.05


def test_known_arms_that_were_never_asked_the_same_are_enough() -> None:
    scores, expected = make_scores()
    known = np.full((ROWS, ARMS), np.nan)
    asked = np.arange(ROWS) % ARMS
    known[np.arange(ROWS), asked] = scores[np.arange(ROWS), asked]
    level, _ = new_level(known, expected, labelled(scores[:, ARMS], np.arange(200)))
    assert level == pytest.approx(scores[:, ARMS].mean(), abs=0.1)


@pytest.mark.parametrize("right", [0.1, 0.35, 0.6])
def test_labels_that_are_far_from_what_is_expected_are_believed(right: float) -> None:
    """One known arm that is nearly always right, of which no answer is known where the new one answered."""
    draw = np.random.default_rng(3)
    known = np.full((1000, 1), np.nan)
    known[60:, 0] = draw.random(940) < 0.96
    scores = np.full(1000, np.nan)
    scores[:60] = draw.random(60) < right
    level, variance = new_level(known, np.full((1000, 1), 0.96), scores)
    assert level == pytest.approx(np.nanmean(scores), abs=0.1)
    assert abs(level - right) < 3 * np.sqrt(variance) + 0.1
