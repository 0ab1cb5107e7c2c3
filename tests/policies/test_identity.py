"""Models as vectors, new arms and widths."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks.routing import d_optimal_prompts
from policies.estimators.abilities import Abilities
from policies.estimators.means import Means
from policies.identity import Skills, Vector, population, width_offsets, width_prior
from policies.registry import build
from policies.types import Arm, History
from tests.policies.worlds import make_context, make_outcome, make_unit

DIMENSIONS, SKILLS, ROWS = 24, 2, 1500
ARMS = tuple(Arm(f"m{i}", 1e-7 * (i + 1), 2e-7 * (i + 1)) for i in range(7))
NEW = len(ARMS) - 1


def make_world(seed: int = 0) -> tuple[History, np.ndarray]:
    """Scores that differ along two directions of the embedding only; (history, true means (N, M))."""
    rng = np.random.default_rng(seed)
    embeddings = make_unit(rng, ROWS, DIMENSIONS)
    axes = make_unit(rng, SKILLS, DIMENSIONS)
    abilities = rng.normal(size=(len(ARMS), SKILLS)) * 0.6
    means = np.clip(0.55 + embeddings @ axes.T @ abilities.T, 0.0, 1.0)
    scores = np.clip(means + 0.15 * rng.normal(size=means.shape), 0.0, 1.0)
    tokens = rng.integers(20, 200, ROWS)
    return History(embeddings, ARMS, scores, np.full(scores.shape, 1e-5), tokens, 4 * tokens), means


def without_new_arm(history: History, rows: np.ndarray) -> History:
    """The same history with the last model judged on these rows only."""
    scores = history.scores.copy()
    hidden = np.setdiff1d(np.arange(ROWS), rows)
    scores[hidden, NEW] = np.nan
    return replace(history, scores=scores)


def new_arm_errors(history: History, means: np.ndarray, rows: np.ndarray) -> float:
    """Mean squared error of what is expected of the new arm."""
    estimator = Abilities(Means())
    estimator.refit(without_new_arm(history, rows))
    found = [
        estimator.estimate(replace(make_context(ARMS, None, 1), embedding=vector)).quality[NEW]
        for vector in history.embeddings[:150]
    ]
    return float(np.mean((np.array(found) - means[:150, NEW]) ** 2))


def test_a_new_arm_is_placed_from_thirty_prompts() -> None:
    history, means = make_world()
    rows = np.random.default_rng(3).choice(ROWS, 30, replace=False)
    mean_alone = float(np.mean((history.scores[rows, NEW].mean() - means[:150, NEW]) ** 2))
    assert new_arm_errors(history, means, rows) < 0.5 * mean_alone


def test_prompts_chosen_for_information_place_a_new_arm_better_than_random_ones() -> None:
    chosen, random = [], []
    for seed in range(3):
        history, means = make_world(seed)
        estimator = Abilities(Means())
        estimator.refit(without_new_arm(history, np.array([], int)))
        fitted = estimator._fitted
        assert fitted is not None
        at = fitted.coordinates(history.embeddings)
        rows = d_optimal_prompts(at, fitted.population, count=20, noise=fitted.noise)
        chosen.append(new_arm_errors(history, means, rows))
        random.append(new_arm_errors(history, means, np.random.default_rng(seed).choice(ROWS, 20, replace=False)))
    assert np.mean(chosen) < np.mean(random)


def test_the_vector_found_at_once_is_the_one_found_answer_by_answer() -> None:
    rng = np.random.default_rng(0)
    before = Vector(np.array([0.5, 0.0, 0.0]), np.eye(3))
    skills, scores = rng.normal(size=(40, 3)), rng.random(40)
    at_once = before.updated(skills, scores, noise=0.1)
    step = before
    for row in range(40):
        step = step.updated(skills[row : row + 1], scores[row : row + 1], noise=0.1)
    np.testing.assert_allclose(step.mean, at_once.mean, atol=1e-9)
    np.testing.assert_allclose(step.covariance, at_once.covariance, atol=1e-9)


def test_no_prompt_is_chosen_twice_and_too_many_are_refused() -> None:
    skills = np.random.default_rng(0).normal(size=(30, 3))
    prior = Vector(np.zeros(3), np.eye(3))
    rows = d_optimal_prompts(skills, prior, count=30, noise=0.1)
    assert sorted(rows) == list(range(30))
    with pytest.raises(ValueError, match="31 prompts of 30"):
        d_optimal_prompts(skills, prior, count=31, noise=0.1)


def test_skills_have_no_more_axes_than_models_differ_in() -> None:
    _, means = make_world()
    unclipped = 0.5 + 0.1 * (means - means.mean(axis=0))
    assert Skills.of(np.round(unclipped, 12), 6).axes.shape[0] <= len(ARMS)


def test_an_unmeasured_width_starts_at_its_parent_less_what_that_width_cost_others() -> None:
    arms = (Arm("a", 0, 0), Arm("a@4", 0, 0, parent="a", bits=4), Arm("b", 0, 0))
    offsets = width_offsets(arms, {"a": 0.7, "a@4": 0.6, "b": 0.8})
    assert offsets == {4: pytest.approx(0.1)}
    parent = Vector(np.array([0.8, 0.3]), 0.001 * np.eye(2))
    found = width_prior(Arm("b@4", 0, 0, parent="b", bits=4), parent, offsets)
    np.testing.assert_allclose(found.mean, [0.7, 0.3])
    assert found.covariance[0, 0] > parent.covariance[0, 0]


def test_the_population_is_as_wide_as_the_models_differ() -> None:
    vectors = [Vector(np.array([level, 0.0]), 1e-6 * np.eye(2)) for level in (0.2, 0.8)]
    assert population(vectors).mean[0] == pytest.approx(0.5)
    assert np.sqrt(population(vectors).covariance[0, 0]) > 0.3


def test_outcomes_move_a_new_arm_of_the_live_policy() -> None:
    history, _ = make_world()
    policy = build("preference", ARMS)
    policy.refit(without_new_arm(history, np.array([], int)))
    context = make_context(ARMS, history)
    before = policy.propose(context).estimates
    for _ in range(20):
        policy.learn(make_outcome(context, ARMS[NEW].name, score=1.0))
    after = policy.propose(context).estimates
    assert after.quality[NEW] > before.quality[NEW]
    assert after.sigma[NEW] < before.sigma[NEW]


def test_a_width_the_live_policy_never_saw_follows_its_parents_vector_less_what_that_width_cost_another() -> None:
    history, _ = make_world()
    narrow = (replace(ARMS[1], name="m1@4", parent="m0", bits=4), Arm("m2@4", 0.0, 0.0, parent="m2", bits=4))
    arms = (ARMS[0], narrow[0], *ARMS[2:])
    policy = build("preference", arms)
    scores = history.scores.copy()
    scores[:, 1] = history.scores[:, 0] - 0.2
    policy.refit(replace(history, arms=arms, scores=scores))
    lost = []
    for vector in history.embeddings[:20]:
        context = replace(make_context((*arms, narrow[1]), None, 1), embedding=vector)
        quality = policy.propose(context).estimates.quality
        if 0.25 < quality[2] < 0.95:
            lost.append(quality[2] - quality[-1])
    assert len(lost) > 5
    np.testing.assert_allclose(lost, 0.2, atol=0.03)
