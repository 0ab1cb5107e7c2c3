"""Money, periods and sizes."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import amounts
from router.types import show_usd


@pytest.mark.parametrize("value", [0.15, "0.15", "$0.15", "0.15 USD", Decimal("0.15"), " 0.150 "])
def test_an_amount_is_exact_however_it_is_written(value: object) -> None:
    assert amounts.usd(value) == 150_000_000


@given(st.integers(min_value=0, max_value=10**15))
def test_an_amount_shown_and_read_again_is_the_same(nano: int) -> None:
    assert amounts.usd(show_usd(nano)) == nano


@given(st.decimals(min_value=0, max_value=1000, places=6))
def test_a_yaml_number_counts_as_its_decimal_digits(value: Decimal) -> None:
    assert amounts.usd(float(value)) == int(value * 10**9)


@pytest.mark.parametrize("value", ["cheap", "", True, None, [1], "-1", -0.1, "1e-10", "nan", "inf", float("inf")])
def test_what_is_no_amount_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        amounts.usd(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", (30, None)),
        ("5m", (300, None)),
        ("2 h", (7_200, None)),
        ("7d", (604_800, None)),
        ("1y", (31_536_000, None)),
        ("minute", (60, None)),
        ("day", (86_400, "day")),
        ("calendar month", (2_592_000, "month")),
        ("rolling week", (604_800, None)),
    ],
)
def test_a_period_is_rolling_or_of_the_calendar(text: str, expected: tuple[int, str | None]) -> None:
    assert amounts.period(text) == expected


@pytest.mark.parametrize("text", ["29s", "2y", "fortnight", "calendar 3d", "calendar hour", "0s", "", 30, None])
def test_a_period_out_of_range_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a period"):
        amounts.period(text)


def test_a_list_price_per_token_becomes_an_exact_price_per_million() -> None:
    assert amounts.per_million(2.5e-06) == 2_500_000_000


@pytest.mark.parametrize(("text", "expected"), [(1024, 1024), ("16 MiB", 2**24), ("20 MB", 20_000_000), ("7", 7)])
def test_a_size_may_have_a_unit(text: object, expected: int) -> None:
    assert amounts.size(text) == expected


@pytest.mark.parametrize("value", ["7B", 7_000_000_000, "7000M", 7e9])
def test_a_number_of_weights_may_be_short(value: object) -> None:
    assert amounts.count(value) == 7e9
