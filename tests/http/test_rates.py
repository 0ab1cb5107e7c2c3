"""How often a name may do something is bounded, whatever the clock says and however many names there are."""

from __future__ import annotations

import pytest

from router.errors import RateLimited
from router.http.rates import Rates


class Clock:
    """Time that stands still until it is set, also back."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(rates: Rates, name: str, tries: int) -> int:
    """How many of these tries were allowed."""
    allowed = 0
    for _ in range(tries):
        try:
            rates.take(name)
            allowed += 1
        except RateLimited:
            pass
    return allowed


def test_a_name_has_its_minute_at_once_and_the_same_again_each_minute() -> None:
    clock = Clock()
    rates = Rates("judgements", 60, clock=clock)
    assert taken(rates, "a", 100) == 60
    clock.now += 10
    assert taken(rates, "a", 100) == 10
    clock.now += 10_000
    assert taken(rates, "a", 100) == 60
    assert taken(rates, "b", 100) == 60


def test_tries_that_are_refused_cost_nothing_and_the_wait_is_told() -> None:
    clock = Clock()
    rates = Rates("judgements", 2, clock=clock)
    taken(rates, "a", 50)
    with pytest.raises(RateLimited, match="a is limited to 2 judgements a minute") as refused:
        rates.take("a")
    clock.now += refused.value.retry_after_s or 0
    rates.take("a")


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    clock = Clock()
    rates = Rates("judgements", 2, clock=clock)
    assert taken(rates, "a", 5) == 2
    clock.now -= 1000
    assert taken(rates, "a", 5) == 0


def test_many_names_take_bounded_memory() -> None:
    rates = Rates("judgements", 2, clock=Clock(), most=10)
    for i in range(1000):
        rates.take(f"t{i}")
    assert len(rates._left) == 10
