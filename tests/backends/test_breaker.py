"""When a breaker opens, for how long, and how it closes again."""

from __future__ import annotations

import pytest

from backends.breaker import Breaker, BreakerRule


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's own."""
    return Clock()


def fail(breaker: Breaker, times: int = 1) -> None:
    """Requests that end badly, one after another."""
    for _ in range(times):
        breaker.fail(breaker.begin())


def test_it_opens_after_failures_in_a_row(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, 4)
    assert breaker.admits
    fail(breaker)
    assert breaker.state == "open"
    assert not breaker.admits


def test_a_success_between_starts_the_row_anew(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, 4)
    breaker.succeed(breaker.begin())
    fail(breaker, 4)
    assert breaker.state == "closed"


def test_it_opens_where_half_of_the_last_twenty_failed(clock: Clock) -> None:
    breaker = Breaker(clock)
    for _ in range(10):
        breaker.succeed(breaker.begin())
        assert breaker.state == "closed"
        fail(breaker)
    assert breaker.state == "open"


def test_after_the_ban_one_request_at_a_time_is_tried(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, 5)
    clock.now += 9.9
    assert not breaker.admits
    clock.now += 0.1
    assert breaker.state == "half-open"
    assert breaker.admits
    era = breaker.begin()
    assert not breaker.admits
    breaker.succeed(era)
    assert breaker.state == "closed"


def test_each_failed_trial_doubles_the_ban_up_to_its_longest(clock: Clock) -> None:
    breaker = Breaker(clock, BreakerRule(ban_s=15.0, longest_ban_s=100.0))
    fail(breaker, 5)
    for ban_s in (15.0, 30.0, 60.0, 100.0, 100.0):
        clock.now += ban_s - 0.001
        assert breaker.state == "open"
        clock.now += 0.001
        fail(breaker)


def test_recovery_forgets_the_doubling(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, 5)
    clock.now += 15
    fail(breaker)
    clock.now += 30
    breaker.succeed(breaker.begin())
    fail(breaker, 5)
    clock.now += 15
    assert breaker.state == "half-open"


def test_a_request_that_says_nothing_leaves_the_trial_to_the_next(clock: Clock) -> None:
    breaker = Breaker(clock)
    fail(breaker, 5)
    clock.now += 15
    breaker.abandon(breaker.begin())
    assert breaker.state == "half-open"
    assert breaker.admits


def test_an_answer_from_before_the_ban_does_not_lift_it(clock: Clock) -> None:
    breaker = Breaker(clock)
    early = breaker.begin()
    fail(breaker, 5)
    breaker.succeed(early)
    assert breaker.state == "open"
