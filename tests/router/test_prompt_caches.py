"""What of a prompt a model has in its cache follows from what usage reported, and from the log alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from backends.types import MOST_TOKENS
from policies.machine_pricing import MOST_READ, UNSEEN, counted_ratios, discounted, routed
from policies.records import SettlementRecord
from policies.types import Arm, Estimates, LoggedContext, MeasuredCost
from router.gateway.conversations import session_of
from router.gateway.types import Call
from router.learning import session_turns, turn_holders
from router.learning.prompt_caches import KEPT_S, MOST, SESSION, PromptCaches
from router.learning.session_turns import SessionTurns
from router.learning.token_counts import TokenCounts
from router.learning.turn_holders import TurnHolders
from router.learning.views import OpenDecision

ARMS = ("a", "b")


def turn(caches: PromptCaches, arm: str, prompt: int, cached: int, *, at_s: float = 0.0, session: str = "s") -> None:
    paid = SettlementRecord(
        "d", int(at_s * 1000), arm, 0, prompt, 100, "settled", parts={"cached": cached} if cached else {}
    )
    record: Any = SimpleNamespace(metadata={SESSION: session})
    caches.settled(record, paid)


def test_an_arm_that_never_said_that_it_found_anything_is_expected_to_find_nothing() -> None:
    caches = PromptCaches()
    for i in range(50):
        turn(caches, "a", 1000 + i, 0)
    assert caches.shares("s", ARMS, (2000, 2000), 1.0).tolist() == [0.0, 0.0]


def test_the_expected_share_comes_to_what_is_reported() -> None:
    """Turns of 20 conversations, of which an engine finds nine tenths of what it held: bias at most 3 %."""
    caches, expected, reported = PromptCaches(), 0.0, 0
    rng = np.random.default_rng(0)
    for conversation in range(200):
        name, held, now = f"s{conversation}", 0, conversation * 10.0
        for _ in range(20):
            prompt = held + int(rng.integers(50, 400))
            found = int(held * (0.9 if rng.random() < 0.95 else 0.0))
            if conversation >= 100:
                expected += prompt * float(caches.shares(name, ["a"], [prompt], now)[0])
                reported += found
            turn(caches, "a", prompt, found, at_s=now, session=name)
            held = prompt + 100
    assert expected == pytest.approx(reported, rel=0.03)


def test_what_a_conversation_has_elsewhere_is_in_no_cache_here_and_after_a_time_in_none() -> None:
    caches = PromptCaches()
    for i in range(100):
        turn(caches, "a", 1000, 990 if i else 0, at_s=float(i))
    here, there = caches.shares("s", ARMS, (1000, 1000), 100.0)
    assert here > 0.9
    assert there == 0.0
    assert caches.shares("s", ARMS, (1000, 1000), 100.0 + KEPT_S).max() < 0.1
    assert caches.shares("another", ARMS, (1000, 1000), 100.0).max() < 0.1


def test_an_engine_that_says_it_found_more_than_there_was_gives_no_share_above_one() -> None:
    caches = PromptCaches()
    for i in range(100):
        turn(caches, "a", 10, MOST_TOKENS, at_s=float(i))
    assert caches.shares("s", ARMS, (10, 10), 100.0).max() <= 1.0


def test_memory_is_bounded_and_the_oldest_conversation_goes_first() -> None:
    caches = PromptCaches()
    for i in range(MOST + 10):
        turn(caches, "a", 10, 9, session=f"s{i}")
    assert len(caches.state()["turns"]) == MOST
    assert str(caches.state()["turns"][0][0]) == "s10"


def test_an_answer_that_was_refused_or_read_nothing_leaves_what_is_known() -> None:
    caches = PromptCaches()
    for i in range(30):
        turn(caches, "a", 1000, 990 if i else 0, at_s=float(i))
    before = caches.shares("s", ARMS, (1000, 1000), 30.0).tolist()
    turn(caches, "a", 0, 0, at_s=30.0)
    assert caches.shares("s", ARMS, (1000, 1000), 30.0).tolist() == before


def test_a_hundred_thousand_sessions_of_a_stranger_push_nothing_out_but_the_oldest() -> None:
    """Of conversations, of their turns, and of the marks that tie a turn to its model."""
    caches, turns, holders = PromptCaches(), SessionTurns(), TurnHolders()
    for i in range(100_000):
        paid = SettlementRecord(
            f"d{i}", i, "a", 0, 10, 9, "settled", response_id=f"r{i}", tenant="t", marks=(f"m{i}", f"n{i}")
        )
        record: Any = SimpleNamespace(metadata={SESSION: f"s{i}"}, tenant="t")
        for each in (caches, turns):
            each.settled(record, paid)
        holders.settled(paid)
    assert len(caches.state()["turns"]) == MOST
    assert len(turns._turns) == session_turns.MOST
    assert len(turns._sessions) == 4 * session_turns.MOST
    assert len(holders.state()["marks"]) == turn_holders.MOST
    assert holders.holder(["m99999"]) == "a"
    assert turns.before("t", "r99999") == []


def test_a_snapshot_gives_back_the_same_shares() -> None:
    caches, again = PromptCaches(), PromptCaches()
    for i in range(30):
        turn(caches, ARMS[i % 2], 500 + 20 * i, 400 if i > 2 else 0, at_s=float(i), session=f"s{i % 3}")
    again.restore(caches.state())
    for name in ("s0", "s1", "s2", "new"):
        before, after = (each.shares(name, ARMS, (900, 800), 31.0) for each in (caches, again))
        assert before.tobytes() == after.tobytes()


CONTEXT = LoggedContext(
    "d", "t", 1.0, np.zeros(2, np.float32),
    (Arm("a", 2e-6, 8e-6, cached_price=2e-7), Arm("b", 1e-6, 4e-6)), 10_000, 40_000, 500, 0.0,
)  # fmt: skip
LISTED = Estimates(np.array([0.8, 0.8]), np.zeros(2), np.array([0.024, 0.012]))


def test_a_cached_share_is_taken_off_at_the_price_of_what_is_cached() -> None:
    cached = msgspec.structs.replace(CONTEXT, cached=np.array([0.9, 0.9]))
    charged = discounted(cached, LISTED)
    assert charged.cost.tolist() == pytest.approx([0.024 - 9000 * (2e-6 - 2e-7), 0.012])
    assert discounted(CONTEXT, LISTED) is LISTED


def test_what_is_found_again_takes_no_time_of_a_rented_machine() -> None:
    measured_cost = MeasuredCost(np.array([1e-6, 1e-6]), np.array([5e-6, 5e-6]), np.array([100.0, 100.0]))
    cold = msgspec.structs.replace(CONTEXT, measured_cost=measured_cost)
    warm = msgspec.structs.replace(cold, cached=np.array([0.5, 0.0]))
    before, after = (routed(each, LISTED, discounted(each, LISTED)).cost for each in (cold, warm))
    assert before - after == pytest.approx([0.5 * 10_000 * 1e-6, 0.0])


def test_tokens_that_an_engine_makes_of_a_prompt_are_priced_and_found_as_it_counts_them() -> None:
    """`a` reads twice of what is counted, `b` half; a tenth of what `a` reads is not in its cache."""
    counted = msgspec.structs.replace(CONTEXT, cached=np.array([0.9, 0.9]), counted=np.array([2.0, 0.5]))
    listed = Estimates(np.array([0.8, 0.8]), np.zeros(2), np.array([0.044, 0.007]))
    assert discounted(counted, listed).cost.tolist() == pytest.approx([0.044 - 18_000 * (2e-6 - 2e-7), 0.007])
    measured = MeasuredCost(np.array([1e-6, 1e-6]), np.array([5e-6, 5e-6]), np.array([100.0, 100.0]))
    rented = msgspec.structs.replace(counted, measured_cost=measured)
    made = [(0.044 - 20_000 * 2e-6) / 8e-6, (0.007 - 5_000 * 1e-6) / 4e-6]  # tokens, by the list prices
    read = [2_000 * 1e-6, 500 * 1e-6]
    assert routed(rented, listed, discounted(rented, listed)).cost == pytest.approx(
        np.array(read) + np.array(made) * 5e-6
    )


def test_how_many_tokens_an_engine_makes_of_a_prompt_is_learned_from_its_reports() -> None:
    """1.5 for one that is counted and a template of 300, after a few answers; a snapshot says the same."""
    counts, again = TokenCounts(), TokenCounts()
    rng = np.random.default_rng(1)
    assert counted_ratios(CONTEXT.arms, counts.lines, 1_000, (1.0, 1.0)) is None
    for _ in range(20):
        prompt = int(rng.integers(100, 5_000))
        record: Any = SimpleNamespace(context=msgspec.structs.replace(CONTEXT, prompt_tokens=prompt))
        counts.settled(record, SettlementRecord("d", 0, "a", 0, int(1.5 * prompt) + 300, 100, "settled"))
    again.restore(counts.state())
    for prompt in (200, 1_000, 4_000):
        expected = [(1.5 * prompt + 300) / prompt, 1.0]
        for each in (counts, again):
            assert counted_ratios(CONTEXT.arms, each.lines, prompt, (1.0, 1.0)) == pytest.approx(expected, rel=0.01)


def test_what_an_answer_would_have_cost_without_a_cache_is_what_fits_learn_from() -> None:
    """Else the next turn's cache would be taken off twice."""
    paid = SettlementRecord("d", 0, "a", 1_000, 10, 10, "settled", uncached=5_000)
    assert OpenDecision(b"", paid).cost == pytest.approx(5e-6)


def test_an_engine_that_lies_about_what_it_read_moves_the_count_within_bounds() -> None:
    counts = TokenCounts()
    for _ in range(50):
        record: Any = SimpleNamespace(context=CONTEXT)
        counts.settled(record, SettlementRecord("d", 0, "a", 0, MOST_TOKENS, 100, "settled"))
    found = counted_ratios(CONTEXT.arms, counts.lines, 10_000, (1.0, 1.0))
    assert found is not None
    assert found[0] <= MOST_READ + UNSEEN / 10_000


def call(**fields: Any) -> Call:
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    known: Any = SimpleNamespace(fields=raw, session=None)
    return known  # type: ignore[no-any-return]


SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 17 + 25?"}]
LATER = [*SAID, {"role": "assistant", "content": "42."}, {"role": "user", "content": "And doubled?"}]


def test_turns_of_one_conversation_share_a_key_and_others_do_not() -> None:
    first = session_of("acme", call(messages=SAID))
    assert first is not None
    assert session_of("acme", call(messages=LATER, temperature=0)) == first
    assert session_of("other", call(messages=SAID)) != first
    assert session_of("acme", call(messages=[SAID[0], {"role": "user", "content": "Hello"}])) != first
    assert session_of("acme", call(messages=SAID, system="Answer in French.")) != first


@pytest.mark.parametrize(
    "named", [{"prompt_cache_key": "k"}, {"metadata": {"user_id": "k"}}], ids=["prompt_cache_key", "user_id"]
)
def test_a_client_that_names_its_conversation_is_believed(named: dict[str, Any]) -> None:
    assert session_of("acme", call(messages=SAID, **named)) == session_of("acme", call(messages=[], **named))


@pytest.mark.parametrize(
    "odd", [{}, {"messages": 5}, {"messages": []}, {"input": "text"}, {"metadata": [1]}, {"prompt": None}]
)
def test_odd_bodies_are_no_error(odd: dict[str, Any]) -> None:
    session_of("acme", call(**odd))


@pytest.mark.parametrize("body", [b'[{"role": "user", "content": 1e999}]', b'["\xff"]', b"[" * 10_000 + b"]" * 10_000])
def test_a_body_that_no_decoder_can_follow_is_a_conversation_of_its_own(body: bytes) -> None:
    known: Any = SimpleNamespace(fields={"messages": msgspec.Raw(body)}, session=None)
    assert session_of("acme", known) == session_of("acme", known) != session_of("acme", call(messages=SAID))
