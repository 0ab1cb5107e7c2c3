"""Signatures of answers, thresholds with a bounded risk, and escalation."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from policies.conformal import NEVER, risk_threshold
from policies.escalation import Calibration, Escalation
from policies.signature import FEATURES, FLOOR, Head, chat_signature, signature
from policies.types import Outcome
from tests.policies.worlds import make_arms, make_context, make_history, make_outcome

ARMS = make_arms(3)


def draw_answers(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Signatures (n, 12) and whether each answer is right: sure answers are right more often."""
    sure = rng.random(count)
    right = rng.random(count) < 0.2 + 0.75 * sure
    signatures = rng.normal(size=(count, len(FEATURES)))
    signatures[:, 0] = -2 + 2 * sure + 0.3 * rng.normal(size=count)
    return signatures, right


def test_a_hesitant_answer_has_more_entropy_and_less_margin() -> None:
    sure = signature(np.full(10, -0.01), np.tile([-0.01, -5.0, -7.0], (10, 1)), finish_reason="stop")
    torn = signature(np.full(10, -1.1), np.tile([-1.0, -1.1, -1.2], (10, 1)), finish_reason="stop")
    at = {name: i for i, name in enumerate(FEATURES)}
    assert torn[at["mean_entropy"]] > sure[at["mean_entropy"]]
    assert torn[at["mean_margin"]] < sure[at["mean_margin"]]
    assert (torn[at["share_not_first"]], sure[at["share_not_first"]]) == (1.0, 0.0)


def test_an_empty_answer_still_has_its_ending() -> None:
    found = signature(np.zeros(0), np.zeros((0, 1)), finish_reason="length")
    assert found[FEATURES.index("cut_off")] == 1.0
    assert found.sum() == 1.0


def test_impossible_tokens_do_not_make_a_signature_infinite() -> None:
    found = signature(np.array([-np.inf, -9999.0]), np.array([[-0.1], [-0.2]]), finish_reason="stop")
    assert np.isfinite(found).all()
    assert found[FEATURES.index("least_logprob")] == FLOOR


def test_a_chat_completion_gives_the_same_signature_as_its_arrays() -> None:
    token = {"token": "a", "logprob": -0.5, "top_logprobs": [{"logprob": -0.5}, {"logprob": -1.5}]}
    choice = {"finish_reason": "stop", "logprobs": {"content": [token, token]}}
    direct = signature(np.array([-0.5, -0.5]), np.array([[-0.5, -1.5]] * 2), finish_reason="stop")
    np.testing.assert_array_equal(chat_signature(choice), direct)


def test_a_chat_completion_without_logprobs_shows_its_ending_length_and_repetition_alone() -> None:
    text = "again and again it says " * 20
    found = chat_signature({"finish_reason": "length", "logprobs": None}, tokens=100, expected=20.0, text=text)
    shown = dict(zip(FEATURES, found.tolist(), strict=True))
    assert not any(shown[name] for name in FEATURES[:8])
    assert (shown["cut_off"], shown["stopped"], shown["has_logprobs"]) == (1.0, 0.0, 0.0)
    assert shown["log_over_expected"] > 1.0
    assert shown["repeated"] > 0.9


def test_malformed_logprobs_are_refused() -> None:
    with pytest.raises(ValueError, match="malformed logprobs"):
        chat_signature({"logprobs": {"content": [{"token": "a"}]}})


def test_a_heads_confidence_is_calibrated_on_answers_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    signatures, right = draw_answers(rng, 2000)
    head = Head()
    head.fit(signatures, right, np.ones(2000))
    fresh, truth = draw_answers(rng, 2000)
    confidences = np.array([head.confidence(each) for each in fresh])
    for low in (0.3, 0.5, 0.7):
        bucket = (confidences >= low) & (confidences < low + 0.2)
        assert abs(truth[bucket].mean() - confidences[bucket].mean()) < 0.08
    assert head.reliability > 0.02


def test_the_share_of_wrong_answers_returned_stays_below_the_risk() -> None:
    risk, lost = 0.1, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        confidences = rng.random(300)
        wrong = rng.random(300) > confidences
        threshold = risk_threshold(confidences[:200], wrong[:200], risk=risk)
        lost.append(np.mean(wrong[200:] & (confidences[200:] >= threshold)))
    chance = 3 * np.std(lost) / np.sqrt(len(lost))
    assert 0.6 * risk < np.mean(lost) <= risk + chance


def test_a_weighted_log_is_repaired_by_inverse_propensities() -> None:
    risk, lost = 0.1, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        confidences = rng.random(1200)
        wrong = rng.random(1200) > confidences
        propensities = 0.2 + 0.8 * confidences
        logged = rng.random(1000) < propensities[:1000]
        weights = 1 / propensities[:1000][logged]
        threshold = risk_threshold(confidences[:1000][logged], wrong[:1000][logged], risk=risk, weights=weights)
        lost.append(np.mean(wrong[1000:] & (confidences[1000:] >= threshold)))
    chance = 3 * np.std(lost) / np.sqrt(len(lost))
    assert np.mean(lost) <= risk + chance


def test_too_few_answers_for_the_risk_return_nothing() -> None:
    assert risk_threshold(np.ones(8), np.zeros(8, bool), risk=0.1) == NEVER


def judged(signature: np.ndarray, right: bool, at: int = 0, *, returned: float = 1.0) -> Outcome:
    """A program's first answer with its score."""
    outcome = make_outcome(make_context(ARMS, None, at), "sure", score=float(right))
    return replace(outcome, signature=signature, propensity=1.0, answered="small", returned=returned)


def taught(seed: int = 0, *, count: int = 600) -> Escalation:
    """The first arm of a program was judged so often."""
    rng, known = np.random.default_rng(seed), Escalation()
    signatures, right = draw_answers(rng, count)
    for i in range(count):
        known.learn(judged(signatures[i], bool(right[i]), i))
    known.refit(make_history(ARMS))
    return known


def test_an_unsure_answer_escalates_and_a_sure_one_is_returned() -> None:
    known = taught()
    sure, unsure = np.zeros(len(FEATURES)), np.zeros(len(FEATURES))
    sure[0], unsure[0] = 0.3, -2.5
    assert known.returns("sure", "small", sure, risk=0.15)
    assert not known.returns("sure", "small", unsure, risk=0.15)


def test_what_is_returned_is_wrong_no_more_often_than_the_risk() -> None:
    lost = []
    for seed in range(8):
        known = taught(seed)
        signatures, right = draw_answers(np.random.default_rng(1000 + seed), 500)
        returned = np.array([known.returns("sure", "small", each, risk=0.15) for each in signatures])
        lost.append(np.mean(returned & ~right))
    assert np.mean(lost) <= 0.15 + 0.02


def test_a_share_returned_by_chance_keeps_the_threshold_from_ratcheting() -> None:
    """What is judged is what was returned. Without the share, each round asks for more than the bound needs."""
    audit, shares = 0.1, []
    for seed in range(4):
        rng, first = np.random.default_rng(seed), taught(seed)
        signatures, right = draw_answers(rng, 2000)
        everything, audited, ratchet = Escalation(), Escalation(), Escalation()
        for i, (each, good) in enumerate(zip(signatures, right, strict=True)):
            everything.learn(judged(each, bool(good), i))
            sure = first.returns("sure", "small", each, risk=0.15)
            if sure:
                ratchet.learn(judged(each, bool(good), i))
            if sure or rng.random() < audit:
                audited.learn(judged(each, bool(good), i, returned=1.0 if sure else audit))
        for known in (everything, audited, ratchet):
            known.refit(make_history(ARMS))
            shares.append(np.mean([known.returns("sure", "small", each, risk=0.15) for each in signatures[:400]]))
    whole, kept, ratcheted = np.reshape(shares, (4, 3)).mean(axis=0)
    assert abs(whole - kept) < 0.5 * (whole - ratcheted)


@pytest.mark.parametrize("right", [True, False])
def test_an_arm_whose_answers_were_all_right_or_all_wrong_is_returned_always_or_never(right: bool) -> None:
    known, rng = Escalation(), np.random.default_rng(0)
    signatures, _ = draw_answers(rng, 80)
    for i in range(80):
        known.learn(judged(signatures[i], right, i))
    known.refit(make_history(ARMS))
    assert {known.returns("sure", "small", each, risk=0.15) for each in signatures} == {right}


def test_the_risk_holds_for_every_arm_over_many_seeds_at_several_levels() -> None:
    """Head, out-of-fold confidences and threshold as a whole, on answers drawn after the fit."""
    for risk in (0.05, 0.1, 0.2):
        lost = []
        for seed in range(20):
            rng, known = np.random.default_rng(seed), Calibration()
            signatures, right = draw_answers(rng, 300)
            for each, good in zip(signatures, right, strict=True):
                known.add(each, float(good), 1.0)
            known.fit()
            fresh, truth = draw_answers(rng, 120)
            returned = np.array([known.returns(each, risk=risk) for each in fresh])
            lost.append(np.mean(returned & ~truth))
        assert np.mean(lost) <= risk + 3 * np.std(lost) / np.sqrt(len(lost))


def test_before_anything_is_judged_an_answers_own_probabilities_are_believed() -> None:
    sure, unsure = np.zeros(len(FEATURES)), np.zeros(len(FEATURES))
    sure[0], unsure[0] = np.log(0.96), np.log(0.94)
    assert Escalation().returns("sure", "small", sure, risk=0.1)
    assert not Escalation().returns("sure", "small", unsure, risk=0.1)


def test_what_is_known_comes_back_from_its_state_to_the_last_bit() -> None:
    known, again = taught(count=200), Escalation()
    again.restore(known.state())
    probes, _ = draw_answers(np.random.default_rng(5), 50)
    for each in probes:
        assert known.returns("sure", "small", each, risk=0.1) == again.returns("sure", "small", each, risk=0.1)
