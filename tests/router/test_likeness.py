"""What is compared, what turns an answer round, and how a bound is told from what was right and wrong."""

from __future__ import annotations

import numpy as np
import pytest

from policies.conformal import NEVER, selective_threshold
from router.learning.likeness import confidence, is_comparable, say_the_same

CAPITAL = "What is the capital of the northern province?"


@pytest.mark.parametrize(
    "text",
    [
        "What is the weather in Oslo?",
        "Who is the current president?",
        "What happened today?",
        "What is my balance?",
        "Can you check our order?",
        "I am 34 years old, what should I eat?",
        "Continue the above.",
        "Write to a.b@example.com",
        "Read https://example.com and say what it is about",
        "x" * 5000,
        "",
    ],
)
def test_what_is_of_the_moment_of_somebody_or_of_earlier_talk_is_never_compared(text: str) -> None:
    assert not is_comparable(text)


@pytest.mark.parametrize("text", [CAPITAL, "Tell me what a monad is.", "I need the area of a circle of radius 3."])
def test_politeness_makes_no_question_personal(text: str) -> None:
    assert is_comparable(text)


@pytest.mark.parametrize(
    "other",
    [
        "What is not the capital of the northern province?",
        "What isn't the capital of the northern province?",
        "What is the capital of the southern province?",
        "What is the capital of northern province 2?",
    ],
)
def test_what_turns_an_answer_round_leaves_nobody_sure(other: str) -> None:
    assert confidence(CAPITAL, other, 0.99) < 0.5


def test_a_number_a_negation_a_pair_and_a_name_are_never_the_same_question() -> None:
    pairs = [
        ("Is 7 odd?", "Is 8 odd?"),
        ("Is it legal?", "Is it not legal?"),
        ("Is seven odd?", "Is seven even?"),
        ("Where did Ada Lovelace live?", "Where did Ada Byron live?"),
    ]
    assert [confidence(*pair, 1.0) for pair in pairs] == [0.0] * len(pairs)


def test_other_words_around_it_leave_one_as_sure_as_the_vectors_are() -> None:
    assert confidence(CAPITAL, "Please tell me: what's the capital of the northern province? Thanks!", 0.9) > 0.9


def test_answers_say_the_same_where_nobody_can_doubt_it() -> None:
    assert say_the_same("Paris.", " paris")
    assert not say_the_same("Paris", "Lyon")
    assert not say_the_same("It is 12", "It is 13")
    long = "The river begins in the mountains, passes two lakes and the old town, and ends in the northern sea."
    assert say_the_same(long, long.replace("passes", "then passes"))
    assert not say_the_same(long, long.replace("ends", "never ends"))
    assert not say_the_same(long, long.replace("northern", "southern"))


def test_nobody_is_sure_before_enough_was_seen() -> None:
    sure = np.linspace(0.9, 1.0, 44)
    assert selective_threshold(sure, np.zeros(44, bool), risk=0.05, miss=0.1) == NEVER
    sure = np.linspace(0.9, 1.0, 45)
    assert selective_threshold(sure, np.zeros(45, bool), risk=0.05, miss=0.1) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="risk is 0"):
        selective_threshold(sure, np.zeros(45, bool), risk=0.0, miss=0.1)


def test_few_thresholds_let_through_more_than_they_may() -> None:
    missed, risk, rng = 0, 0.1, np.random.default_rng(0)
    for _ in range(300):
        sure = rng.random(400)
        wrong = rng.random(400) > sure  # P(wrong | sure ≥ t) = (1 − t) / 2
        threshold = selective_threshold(sure, wrong, risk=risk, miss=0.1)
        missed += threshold < 1.0 - 2.0 * risk
    assert missed <= 0.13 * 300


@pytest.mark.parametrize(
    ("asked", "before"),
    [
        ("Who won the cup in 2024?", "Who won the cup in 2025?"),
        ("Who won the cup in 2024?", "Who won the cup in ２０２５?"),
        ("What are the roots of x²?", "What are the roots of x³?"),
        ("What is 2+3?", "What is 2-3?"),
        ("What is 5 - 3?", "What is 3 - 5?"),
        ("What is (2+3)*4?", "What is 2+(3*4)?"),
        ("Is 3 greater than 5?", "Is 5 greater than 3?"),
        ("Convert $100 to yen.", "Convert €100 to yen."),
        ("How far is 5 km in feet?", "How far is 5 miles in feet?"),
        ("How far is 5km in feet?", "How far is 5mi in feet?"),
        ("How do I sort a list in C#?", "How do I sort a list in C?"),
        ("What does 👍 mean?", "What does 👎 mean?"),
        ("Does Alice love Bob?", "Does Bob love Alice?"),
        ("Is the train from Paris to London?", "Is the train from London to Paris?"),
    ],
)
def test_numbers_signs_units_and_names_in_another_order_turn_an_answer_round(asked: str, before: str) -> None:
    assert confidence(asked, before, 1.0) == 0.0


@pytest.mark.parametrize(
    ("asked", "before"),
    [
        ("Does a dog bite a man?", "Does a man bite a dog?"),
        ("Why is copper not a gas but a metal?", "Why is copper a gas but not a metal?"),
    ],
)
def test_the_same_words_in_another_order_are_no_surer_than_other_words(asked: str, before: str) -> None:
    assert 0.0 < confidence(asked, before, 1.0) < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "Wie ist das Wetter in Oslo?",
        "Was kostet eine Fahrkarte heute?",
        "Quel est mon solde ?",
        "¿Qué tiempo hace hoy?",
        "Qual é a capital da França?",
        "Che ore sono?",
        "Какая сегодня погода?",
        "今天天气怎么样？",
        "今日の天気は？",
        "오늘 날씨 어때?",
        "ما هو الطقس اليوم؟",
        "आज मौसम कैसा है?",
        "What is the capital of p\u0430ris?",  # a Cyrillic letter among Latin ones
        "Who won in 20\u200b24?",  # a space that nobody sees
        "Is it \u202etrue\u202c that copper conducts?",  # written backwards
    ],
)
def test_what_no_sign_is_known_for_is_never_compared(text: str) -> None:
    assert not is_comparable(text)


@pytest.mark.parametrize("text", ["What is naïve Bayes?", "Where is Bogotá?", "Who wrote Die Verwandlung?"])
def test_a_foreign_name_makes_no_foreign_question(text: str) -> None:
    assert is_comparable(text)
