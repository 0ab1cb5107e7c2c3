"""Each source of judgements is believed as far as better ones agree with it, and several count by their precision."""

from __future__ import annotations

import numpy as np
import pytest

from policies.reliability import PRIOR, SourceReliability, combined


def scripted(skill: float, lenience: float, n: int, *, seed: int = 0) -> tuple[SourceReliability, float, float]:
    """A judge that is right this often, and passes this share of what it would fail; its true share; its mean."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.6
    verdict = np.where(rng.random(n) < skill, truth, ~truth)
    verdict = verdict | (rng.random(n) < lenience)
    found = SourceReliability()
    for said, true in zip(verdict, truth, strict=True):
        found.compared("judge:j", float(said), float(true))
    many = rng.random(10**6) < 0.6
    reported = np.where(rng.random(10**6) < skill, many, ~many) | (rng.random(10**6) < lenience)
    return (
        found,
        float(np.corrcoef(many, reported)[0, 1] ** 2),
        float(np.mean([found.calibrated("judge:j", float(v)) for v in verdict])),
    )


@pytest.mark.parametrize(("skill", "lenience"), [(0.95, 0.0), (0.8, 0.0), (0.8, 0.4), (0.6, 0.0), (0.9, 0.6)])
def test_a_judge_of_known_skill_is_believed_for_what_it_is(skill: float, lenience: float) -> None:
    found, truth, _ = scripted(skill, lenience, 2000)
    assert found.of("judge:j") == pytest.approx(truth, abs=0.05)


def test_a_lenient_judge_flatters_nobody_in_the_mean() -> None:
    _, _, mean = scripted(0.8, 0.5, 2000)
    assert mean == pytest.approx(0.6, abs=0.06)


def test_a_judge_that_says_the_contrary_is_hardly_believed() -> None:
    found, _, _ = scripted(0.1, 0.0, 2000)
    assert found.of("judge:j") < 0.01


def test_verdicts_on_chosen_answers_count_by_how_likely_they_were_chosen() -> None:
    """A judge that is good on easy answers and bad on hard ones, asked mostly about the hard ones."""
    rng, plain, corrected = np.random.default_rng(1), SourceReliability(), SourceReliability()
    kept: list[tuple[float, float]] = []
    for _ in range(12_000):
        hard, truth = rng.random() < 0.5, rng.random() < 0.5
        verdict = truth if rng.random() < (0.6 if hard else 0.95) else not truth
        kept.append((float(verdict), float(truth)))
        chance = 0.8 if hard else 0.2
        if rng.random() < chance:
            plain.compared("j", *kept[-1])
            corrected.compared("j", *kept[-1], weight=corrected.asked("j", chance))
    true = float(np.corrcoef(np.array(kept[-6000:]).T)[0, 1] ** 2)
    assert abs(corrected.of("j") - true) < 0.05 < abs(plain.of("j") - true)


def test_a_verdict_that_was_hardly_ever_asked_for_counts_no_more_than_four() -> None:
    found = SourceReliability()
    for _ in range(50):
        assert found.asked("j", 0.5) == pytest.approx(1.0)
    assert found.asked("j", 0.001) == 4.0


def test_an_unknown_source_is_believed_a_little_and_its_word_left_as_it_is() -> None:
    fresh = SourceReliability()
    assert (fresh.of("judge:new"), fresh.calibrated("judge:new", 0.9)) == (PRIOR, 0.9)


def test_two_sources_together_are_believed_more_than_either_and_nearer_the_better_one() -> None:
    score, believed = combined([(1.0, 0.2), (0.0, 0.6)])
    assert score < 0.2
    assert 0.6 < believed < 0.8
    assert combined([(0.7, 0.4)]) == (0.7, 0.4)
    with pytest.raises(ValueError, match="nobody"):
        combined([])


def test_what_is_known_of_sources_is_restored_to_the_last_bit() -> None:
    found, _, _ = scripted(0.8, 0.2, 200)
    other = SourceReliability()
    other.restore({key: np.array(value) for key, value in found.state().items()})
    assert other.of("judge:j") == found.of("judge:j")
    assert other.calibrated("judge:j", 0.3) == found.calibrated("judge:j", 0.3)
