"""What is expected of a model nobody has measured."""

from __future__ import annotations

import pytest

from policies.priors import quality_prior, width_offset
from policies.types import Arm


def test_more_weights_promise_more_quality() -> None:
    means = [quality_prior(Arm("m", 0, 0, parameters=size))[0] for size in (1e8, 1e9, 7e9, 70e9)]
    assert means == sorted(means)
    assert 0 < means[0] < means[-1] < 1


def test_fewer_bits_promise_less_and_the_loss_doubles_with_every_bit_gone() -> None:
    assert width_offset(3) == pytest.approx(2 * width_offset(4))
    assert width_offset(16) == width_offset(None) == 0.0


def test_a_width_of_a_measured_parent_starts_below_it_and_is_surer_than_a_guess() -> None:
    known, sigma = quality_prior(Arm("p@4", 0, 0, parent="p", bits=4), {"p": 0.7})
    assert known == pytest.approx(0.66)
    assert sigma < quality_prior(Arm("q", 0, 0))[1]


def test_nothing_known_is_one_half_and_wide() -> None:
    assert quality_prior(Arm("m", 0, 0)) == (0.5, 0.2)


def test_a_quality_measured_elsewhere_is_where_learning_starts() -> None:
    mean, sigma = quality_prior(Arm("m", 0, 0, parameters=5e6, quality=0.71))
    assert mean == 0.71
    assert sigma < quality_prior(Arm("m", 0, 0, parameters=5e6))[1]
