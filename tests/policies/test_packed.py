"""Embeddings as the log keeps them."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from policies.float16_embedding import Float16Embedding
from policies.registry import NAMES, build
from policies.types import Outcome, StoredPolicy
from tests.policies.worlds import make_arms, make_context, make_history, make_outcome

ARMS = make_arms()
HISTORY = make_history(ARMS)
OPTIONS: dict[str, dict[str, object]] = {"fixed": {"arm": "model-2"}}


def make_packed(vector: np.ndarray) -> Float16Embedding:
    return Float16Embedding(vector.astype("<f2").tobytes())


def make_outcomes(count: int = 20) -> list[Outcome]:
    """Settlements and judgements in turn, their embeddings packed."""
    made = []
    for seed in range(count):
        context = make_context(ARMS, HISTORY, seed)
        outcome = make_outcome(context, ARMS[seed % len(ARMS)].name, score=seed % 5 / 4)
        known = {"score": float("nan")} if seed % 2 else {"cost": float("nan")}
        made.append(replace(outcome, embedding=make_packed(context.embedding), **known))
    return made


def taught(name: str, outcomes: list[Outcome]) -> StoredPolicy:
    policy = build(name, ARMS, OPTIONS.get(name))
    policy.refit(HISTORY)
    for outcome in outcomes:
        policy.learn(outcome)
    return policy


def test_an_unpacked_embedding_has_unit_length() -> None:
    assert np.linalg.norm(make_packed(np.array([3.0, 4.0])).vector) == pytest.approx(1.0, abs=1e-6)


def test_an_embedding_of_zeros_stays_zeros() -> None:
    assert make_packed(np.zeros(3)).vector.tolist() == [0.0, 0.0, 0.0]


def test_an_embedding_is_unpacked_once() -> None:
    packed = make_packed(np.array([3.0, 4.0]))
    assert packed.vector is packed.vector


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_learns_the_same_of_a_packed_embedding(name: str) -> None:
    packed = make_outcomes()
    of_packed = taught(name, packed).state()
    of_plain = taught(name, [replace(each, embedding=each.vector) for each in packed]).state()
    assert of_packed.keys() == of_plain.keys()
    for key, value in of_packed.items():
        assert np.array_equal(value, of_plain[key], equal_nan=value.dtype.kind == "f"), key


@pytest.mark.parametrize("name", ["random", "fixed", "cheapest", "best", "neighbours", "epsilon"])
def test_a_policy_that_looks_at_no_embedding_leaves_it_packed(name: str) -> None:
    outcomes = make_outcomes()
    taught(name, outcomes)
    assert [each.embedding._vector for each in outcomes] == [None] * len(outcomes)
