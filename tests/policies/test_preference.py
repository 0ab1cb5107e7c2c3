"""The knob from cheapest to best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.preference import knob_of, preference_price

KNOB = st.floats(0, 1)


def test_one_buys_the_best_whatever_it_costs() -> None:
    assert preference_price(1.0) == 0.0


def test_zero_lets_the_smallest_saving_outweigh_all_quality() -> None:
    assert preference_price(0.0) * 1e-9 > 1.0


def test_the_middle_pays_the_reference_for_a_full_point_of_quality() -> None:
    assert preference_price(0.5, reference_usd=0.02) == pytest.approx(50.0)


@given(KNOB, KNOB)
def test_a_higher_knob_never_has_a_higher_price(first: float, second: float) -> None:
    low, high = sorted([first, second])
    assert preference_price(low) >= preference_price(high)


@given(KNOB)
def test_the_price_is_always_finite(knob: float) -> None:
    assert np.isfinite(preference_price(knob))


@pytest.mark.parametrize("knob", [-0.1, 1.1, float("nan")])
def test_a_knob_outside_its_range_is_refused(knob: float) -> None:
    with pytest.raises(ValueError, match="expected 0"):
        preference_price(knob)


@given(KNOB, st.floats(1e-6, 10.0))
def test_a_price_is_shown_as_the_knob_it_was_set_by(knob: float, reference_usd: float) -> None:
    price = preference_price(knob, reference_usd=reference_usd)
    assert knob_of(price, reference_usd=reference_usd) == pytest.approx(knob, abs=2e-6)
