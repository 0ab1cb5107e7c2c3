"""Which prompts a new model is asked."""

from __future__ import annotations

import numpy as np
import pytest

from policies.estimators.offset import new_level
from policies.estimators.prompt_selection import c_optimal_prompts
from tests.policies.test_offset import ARMS, ROWS, labelled, make_scores


def test_chosen_prompts_place_a_new_arm_closer_than_as_many_drawn_evenly() -> None:
    chosen, evenly = list[float](), list[float]()
    for seed in range(24):
        scores, expected = make_scores(seed)
        known, truth = scores[:, :ARMS], scores[:, ARMS]
        draws = np.random.default_rng(seed).choice(ROWS, 30, replace=False)
        for errors, rows in ((chosen, c_optimal_prompts(known, expected, count=30)), (evenly, draws)):
            errors.append(new_level(known, expected, labelled(truth, rows))[0] - truth.mean())
    assert np.std(chosen) < 0.8 * np.std(evenly)


def test_prompts_on_which_the_known_arms_agreed_are_asked_less_often_than_they_come() -> None:
    scores, expected = make_scores()
    right = scores[:, :ARMS].sum(axis=1)
    agreed = (right == 0) | (right == ARMS)
    rows = c_optimal_prompts(scores[:, :ARMS], expected, count=50)
    assert agreed[rows].mean() < 0.5 * agreed.mean()


def test_kinds_of_prompts_are_asked_about_as_often_as_they_come() -> None:
    common, rare = np.array([0.4, 0.5, 0.6]), np.array([0.7, 0.5, 0.3])
    expected = np.vstack([np.tile(common, (750, 1)), np.tile(rare, (250, 1))])
    rows = c_optimal_prompts(np.full_like(expected, np.nan), expected, count=40)
    assert 5 <= np.count_nonzero(rows >= 750) <= 15


def test_no_prompt_is_asked_twice_and_only_those_offered_are() -> None:
    scores, expected = make_scores(1)
    offered = np.arange(ROWS) % 7 == 0
    rows = c_optimal_prompts(scores[:, :ARMS], expected, count=60, offered=offered)
    assert len(set(rows.tolist())) == 60
    assert offered[rows].all()


def test_more_prompts_than_are_offered_are_refused() -> None:
    with pytest.raises(ValueError, match="4 prompts of 3 were asked for"):
        c_optimal_prompts(np.zeros((3, 2)), np.full((3, 2), 0.5), count=4)


def test_beside_a_single_known_model_those_nearest_to_even_are_asked() -> None:
    expected = np.linspace(0.02, 0.98, 97)[:, None]
    rows = c_optimal_prompts(np.full_like(expected, np.nan), expected, count=9)
    assert np.abs(expected[rows, 0] - 0.5).max() < 0.25
