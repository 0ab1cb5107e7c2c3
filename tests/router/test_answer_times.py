"""How long answers take is learned from answers, whatever the engine says of itself."""

from __future__ import annotations

import numpy as np
import pytest

from policies.records import SettlementRecord
from router.learning.answer_times import AnswerTimes


def seen(times: AnswerTimes, model: str, *, first_s: float, token_s: float, answers: int, tokens: int = 0) -> None:
    rng = np.random.default_rng(1)
    for _ in range(answers):
        count = tokens or int(rng.integers(10, 500))
        seconds = (first_s + token_s * count) * rng.lognormal(0.0, 0.2)
        times.settled(SettlementRecord("d", 0, model, 0, 200, count, "settled", latency_ms=seconds * 1000))


def answer_s(times: AnswerTimes, model: str, tokens: int) -> float:
    speed = times.speed(model)
    assert speed is not None
    return 200 / speed.prefill_tokens_s + tokens / speed.decode_tokens_s


@pytest.mark.parametrize("tokens", [0, 40], ids=["lengths differ", "one length"])
def test_two_speeds_are_told_apart_within_fifty_answers(tokens: int) -> None:
    times = AnswerTimes()
    seen(times, "slow", first_s=0.2, token_s=0.02, answers=50, tokens=tokens)
    seen(times, "quick", first_s=0.1, token_s=0.01, answers=50, tokens=tokens)
    for length in (40, 300) if not tokens else (40,):
        assert answer_s(times, "slow", length) == pytest.approx(0.2 + 0.02 * length, rel=0.25)
        assert answer_s(times, "quick", length) < 0.7 * answer_s(times, "slow", length)


def test_longer_answers_never_take_less_and_nothing_is_said_of_nobody() -> None:
    times = AnswerTimes()
    assert times.speed("m") is None
    seen(times, "m", first_s=3.0, token_s=0.0, answers=20)
    assert answer_s(times, "m", 400) >= answer_s(times, "m", 10) > 0


def test_answers_without_tokens_or_time_teach_nothing_and_a_snapshot_gives_back_the_rest() -> None:
    times, again = AnswerTimes(), AnswerTimes()
    times.settled(SettlementRecord("d", 0, "m", 0, 10, 0, "settled", latency_ms=5.0))
    assert times.speed("m") is None
    seen(times, "m", first_s=0.1, token_s=0.01, answers=9)
    again.restore(times.state())
    assert again.speed("m") == times.speed("m")
