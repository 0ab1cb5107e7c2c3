"""What waits to be stored is taken once, in order, however it came."""

from __future__ import annotations

import random

import pytest

from router.stores import waiting
from router.stores.waiting import Waiting


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PART", 16)
    monkeypatch.setattr(waiting, "LEAST", 5)


def sorted_out(queue: Waiting[int]) -> int:
    """How many parts had to be sorted."""
    return sum(1 for _ in iter(queue.sort_some, False))


def test_everything_is_taken_once_and_in_order() -> None:
    things = random.Random(1).sample(range(1000), 300)
    queue = Waiting[int](lambda x: x)
    queue.add(things)
    assert sorted_out(queue) == 19
    taken = [each for parts in range(7, 0, -1) for each in queue.take(parts)]
    assert taken == sorted(things)
    assert len(queue) == 0


def test_what_comes_later_is_sorted_in_among_what_waits() -> None:
    queue = Waiting[int](lambda x: x)
    queue.add(range(0, 100, 2))
    sorted_out(queue)
    first = queue.take(10)
    queue.add(range(1, 100, 2))
    assert not queue.take(1)
    sorted_out(queue)
    assert first == [0, 2, 4, 6, 8]
    assert queue.take(1) == sorted(set(range(100)) - set(first))


def test_a_few_are_taken_together_even_where_less_is_asked() -> None:
    queue = Waiting[int](lambda x: x)
    queue.add(range(12))
    sorted_out(queue)
    assert [len(queue.take(100)) for _ in range(4)] == [5, 5, 2, 0]
