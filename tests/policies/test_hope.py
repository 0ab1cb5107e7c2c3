"""A model that joins fitted ones is tried though it is not thought the best, for as long as little is known of it."""

from __future__ import annotations

import numpy as np
import pytest

from policies.registry import build
from policies.types import Arm, History, StoredPolicy
from tests.policies.worlds import make_arms, make_context, make_history, make_outcome

ARMS = make_arms(3)
LATE = Arm("late", ARMS[0].prompt_price, ARMS[0].completion_price)


def fitted(explore: float = 0.01) -> StoredPolicy:
    """`paced`, which knows all but the one that joins."""
    policy = build("paced", ARMS, {"explore": explore})
    policy.refit(make_history(ARMS, rows=300))
    return policy


def hoped(policy: StoredPolicy) -> float:
    """What is expected of the one that joins."""
    return float(policy.propose(make_context((*ARMS, LATE))).estimates.quality[-1])


def test_more_is_expected_of_a_model_that_joins_than_its_prior_until_twenty_of_its_answers_are_judged() -> None:
    policy, plain = fitted(), fitted(explore=0.0)
    assert hoped(policy) == pytest.approx(min(1.0, hoped(plain) + 0.2))
    for _ in range(20):
        for each in (policy, plain):
            each.learn(make_outcome(make_context((*ARMS, LATE)), "late", score=0.5))
    assert hoped(policy) == hoped(plain)


def test_a_model_whose_answers_nobody_judges_is_no_longer_hoped_for_after_two_hundred_also_behind_a_refit() -> None:
    policy, plain = fitted(), fitted(explore=0.0)
    for _ in range(200):
        for each in (policy, plain):
            each.learn(make_outcome(make_context((*ARMS, LATE)), "late", score=float("nan")))
    assert hoped(policy) == hoped(plain)
    known = make_history(ARMS, rows=300)
    unknown = np.full((300, 1), np.nan)
    history = History(
        embeddings=known.embeddings,
        arms=(*ARMS, LATE),
        scores=np.hstack([known.scores, unknown]),
        costs=np.hstack([known.costs, unknown]),
        prompt_tokens=known.prompt_tokens,
        prompt_characters=known.prompt_characters,
        features=known.features,
    )
    for each in (policy, plain):
        each.refit(history)
    assert hoped(policy) == hoped(plain)


def test_nothing_is_hoped_where_nothing_is_explored_nor_of_models_that_are_known() -> None:
    context = make_context(ARMS)
    hopeful, plain = (fitted(explore).propose(context).estimates.quality for explore in (0.01, 0.0))
    np.testing.assert_array_equal(hopeful, plain)
