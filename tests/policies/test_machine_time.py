"""Seconds of a machine for a token: measured, robust, and rid of what was believed before."""

from __future__ import annotations

import numpy as np
import pytest

from policies.estimators.machine_time import KEPT, MachineTime, TokenSeconds, blended

PROMPT_S, COMPLETION_S = 2e-5, 1e-3


def answered(time: MachineTime, count: int, *, seed: int = 0, slower: float = 1.0, noise: float = 0.1) -> None:
    """Answers of many lengths, each off by a lognormal error."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        prompt, completion = int(rng.integers(10, 3000)), int(rng.integers(5, 300))
        seconds = slower * (PROMPT_S * prompt + COMPLETION_S * completion) * float(np.exp(noise * rng.normal()))
        time.learn("m", prompt_tokens=prompt, completion_tokens=completion, seconds=seconds)


def found(time: MachineTime) -> TokenSeconds:
    measured = time.measured("m")
    assert measured is not None
    return measured


def test_tokens_of_prompts_and_of_answers_are_told_apart_by_their_numbers() -> None:
    time = MachineTime()
    answered(time, KEPT)
    assert found(time).completion == pytest.approx(COMPLETION_S, rel=0.1)
    assert found(time).prompt == pytest.approx(PROMPT_S, rel=0.25)


def test_where_lengths_never_vary_an_answer_costs_in_all_what_it_took() -> None:
    time = MachineTime()
    for _ in range(KEPT):
        time.learn("m", prompt_tokens=160, completion_tokens=40, seconds=0.5)
    assert 160 * found(time).prompt + 40 * found(time).completion == pytest.approx(0.5)


def test_answers_that_took_a_thousand_times_as_long_change_little() -> None:
    time = MachineTime()
    answered(time, KEPT - 4)
    for _ in range(4):
        time.learn("m", prompt_tokens=100, completion_tokens=100, seconds=1000 * 100 * COMPLETION_S)
    assert found(time).completion == pytest.approx(COMPLETION_S, rel=0.15)


def test_a_slow_first_answer_is_forgotten_after_four_more() -> None:
    time = MachineTime()
    time.learn("m", prompt_tokens=100, completion_tokens=100, seconds=60.0)
    answered(time, 4, noise=0.0)
    assert found(time).completion == pytest.approx(COMPLETION_S, rel=0.1)


def test_a_change_that_lasts_is_known_after_the_answers_that_are_kept() -> None:
    time = MachineTime()
    answered(time, 100)
    answered(time, KEPT, seed=1, slower=3.0)
    assert found(time).completion == pytest.approx(3 * COMPLETION_S, rel=0.1)


@pytest.mark.parametrize("wrong", [1e-3, 1e3])
def test_whatever_the_prior_said_thirty_two_answers_overrule_it(wrong: float) -> None:
    time, prior = MachineTime(), TokenSeconds(wrong * PROMPT_S, wrong * COMPLETION_S)
    assert blended(prior, time.measured("m")) is prior
    answered(time, KEPT)
    assert blended(prior, found(time)).completion == pytest.approx(found(time).completion, rel=1e-3)


def test_two_answers_halve_what_is_left_of_the_prior() -> None:
    time, prior = MachineTime(), TokenSeconds(10 * PROMPT_S, 10 * COMPLETION_S)
    for count in range(1, 9):
        answered(time, 1, seed=count)
        measured = found(time).completion
        left = np.log(blended(prior, found(time)).completion / measured) / np.log(prior.completion / measured)
        assert left == pytest.approx(2.0 ** (-count / 2))


def test_an_answer_without_tokens_teaches_nothing() -> None:
    time = MachineTime()
    time.learn("m", prompt_tokens=0, completion_tokens=0, seconds=1.0)
    assert time.measured("m") is None


def test_a_restored_state_learns_on_to_the_last_bit() -> None:
    first, second = MachineTime(), MachineTime()
    answered(first, 41)
    second.restore(first.state())
    for time in (first, second):
        answered(time, 30, seed=2)
    for name, array in first.state().items():
        np.testing.assert_array_equal(array, second.state()[name])


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        MachineTime().restore({"answers": np.zeros((1, 4)), "names": np.array(["m"])})
