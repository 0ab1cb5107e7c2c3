"""The table of stored answers in small: similar questions share an answer, and few of those given are wrong."""

from __future__ import annotations

import random

from benchmarks.stored_answers import in_other_words, row, table, turned_round

PROMPTS = [
    f"Which of the following is the {kind} of a {thing} that has {count} parts in its first half?"
    for kind in ("largest cost", "usual colour", "true weight", "best maker")
    for thing in ("wagon", "lantern", "violin", "kettle", "compass")
    for count in (3, 5)
]


def test_few_of_the_answers_that_are_given_again_are_wrong_and_they_save_calls() -> None:
    found = table(dict.fromkeys(PROMPTS, 0.25), [0.1], seeds=6, queries=500)[0.1]
    given, wrong = sum(each.given for each in found), sum(each.wrong for each in found)
    assert given > 100
    assert wrong <= (0.1 + 0.02) * given
    saved, paid = sum(each.saved_usd for each in found), sum(each.spent_usd for each in found)
    assert paid == 0.25 * sum(each.asked for each in found)
    assert row(0.1, found).endswith(f"| {saved:.2f} of {saved + paid:.2f} USD |\n")


def test_a_question_turned_round_is_another_one_and_in_other_words_the_same() -> None:
    dice = random.Random(0)
    for prompt in PROMPTS:
        assert turned_round(prompt, dice) != prompt
    assert len({in_other_words(PROMPTS[0], dice) for _ in range(50)}) > 5
