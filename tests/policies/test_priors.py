"""What is expected of a model nobody has measured."""

from __future__ import annotations

import pytest

from policies.priors import decode_ms, quality_prior, token_usd, width_offset
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


def test_decoding_one_sequence_reads_all_weights_once() -> None:
    arm = Arm("m", 0, 0, parameters=8e9, bits=16)
    assert decode_ms(arm, bandwidth_gbs=3350) == pytest.approx(16e9 / 3350e9 * 1e3)


def test_half_the_bits_decode_twice_as_fast_until_arithmetic_binds() -> None:
    wide, narrow = Arm("w", 0, 0, parameters=8e9, bits=8), Arm("n", 0, 0, parameters=8e9, bits=4)
    assert decode_ms(wide, bandwidth_gbs=1000) == pytest.approx(2 * decode_ms(narrow, bandwidth_gbs=1000))
    bound = {"bandwidth_gbs": 1000.0, "batch": 10_000, "peak_tflops": 100.0}
    assert decode_ms(wide, **bound) == pytest.approx(decode_ms(narrow, **bound))


def test_a_larger_batch_makes_a_token_cheaper() -> None:
    arm = Arm("m", 0, 0, parameters=8e9)
    prices = [token_usd(arm, accelerator_usd_per_hour=2.0, bandwidth_gbs=3350, batch=batch) for batch in (1, 8, 64)]
    assert prices == sorted(prices, reverse=True)


def test_the_roofline_of_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="m: the roofline needs the number of weights"):
        decode_ms(Arm("m", 0, 0), bandwidth_gbs=1000)


def test_a_quality_measured_elsewhere_is_where_learning_starts() -> None:
    mean, sigma = quality_prior(Arm("m", 0, 0, parameters=5e6, quality=0.71))
    assert mean == 0.71
    assert sigma < quality_prior(Arm("m", 0, 0, parameters=5e6))[1]
