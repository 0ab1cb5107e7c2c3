"""The changing worlds of `python -m benchmarks.drift`."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.drift import CHANGES, degrading, joined, reference_rewards, repriced
from policies.simulation import QueryStream
from policies.types import History
from tests.policies.worlds import make_arms, make_history

ARMS = make_arms(3)
ARM = 2


def make_stream(history: History) -> QueryStream:
    other = make_history(ARMS, rows=200, seed=5)
    return QueryStream(
        other.arms, other.embeddings, other.scores, other.costs, other.prompt_tokens, other.prompt_characters
    )


def test_a_model_degrades_in_the_second_half_and_the_informed_are_told() -> None:
    history = make_history(ARMS)
    stream = make_stream(history)
    world = degrading(stream, history, ARM)
    np.testing.assert_array_equal(world.stream.scores[: world.change], stream.scores[: world.change])
    np.testing.assert_allclose(world.stream.scores[world.change :, ARM], 0.3 * stream.scores[world.change :, ARM])
    np.testing.assert_allclose(world.reported.scores[:, ARM], 0.3 * history.scores[:, ARM])
    np.testing.assert_array_equal(world.history.scores, history.scores)


def test_a_price_rises_in_the_second_half_only() -> None:
    history = make_history(ARMS)
    stream = make_stream(history)
    world = repriced(stream, history, ARM)
    assert world.stream.costs[world.change, ARM] == pytest.approx(5.0 * stream.costs[world.change, ARM])
    assert world.stream.costs[world.change - 1, ARM] == stream.costs[world.change - 1, ARM]


def test_a_new_arm_is_absent_before_the_change_and_has_fifty_labels() -> None:
    history = make_history(ARMS)
    world = joined(make_stream(history), history, ARM)
    assert world.stream.columns(world.change - 1).tolist() == [0, 1]
    assert world.stream.columns(world.change).tolist() == [0, 1, 2]
    assert int((~np.isnan(world.history.scores[:, ARM])).sum()) == 50


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_being_told_is_worth_something_and_only_after_the_change(change: object) -> None:
    history = make_history(ARMS)
    world = change(make_stream(history), history, ARM)  # type: ignore[operator]
    informed, static = reference_rewards(world, price=10.0)
    np.testing.assert_array_equal(informed[: world.change], static[: world.change])
    assert informed[world.change :].sum() > static[world.change :].sum()
