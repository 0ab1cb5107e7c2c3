"""What many put in is shared fairly, and the same whatever order a snapshot gives it back in."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from router.learning.shares import Shares


def owners(shares: Shares[int]) -> Counter[str]:
    return Counter(owner for owner, _, _ in shares.items())


def test_whoever_floods_pushes_out_its_own() -> None:
    shares = Shares[int](100)
    for i in range(30):
        shares.put("quiet", f"q{i}", i)
    for i in range(10_000):
        shares.put("flood", f"f{i}", i)
    assert owners(shares) == {"quiet": 30, "flood": 70}
    assert shares.get("q0") == 0
    assert shares.get("f9999") == 9999
    assert shares.get("f0") is None


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 30)), max_size=300), st.integers(1, 20))
def test_nobody_loses_a_thing_while_somebody_else_has_more(put: list[tuple[str, int]], most: int) -> None:
    shares, whole = Shares[int](most), dict[str, list[str]]()
    for owner, number in put:
        name = f"{owner}{number}"
        before = owners(shares)
        shares.put(owner, name, number)
        mine = whole.setdefault(owner, [])
        if name in mine:
            mine.remove(name)
        mine.append(name)
        after = owners(shares)
        assert len(shares) == sum(after.values()) <= most
        for each in before:
            if each != owner and after[each] < before[each]:
                assert before[each] == max(before.values()) >= after[owner]
    for owner, names in whole.items():  # what is left of each is the newest
        kept = [name for each, name, _ in shares.items() if each == owner]
        assert kept == names[len(names) - len(kept) :]


def test_what_is_out_of_date_is_forgotten() -> None:
    shares = Shares[int](50)
    for i in range(20_000):
        shares.put(f"t{i % 7}", f"n{i % 60}", i)
    assert len(shares._heap) <= 4 * 50 + 64 + 1
