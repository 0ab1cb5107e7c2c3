"""Sentences are short: the number of longer ones may only fall, and whoever mends some lowers it here."""

from __future__ import annotations

from tests.house import english

LONG_IN_DOCSTRINGS, LONG_IN_PAGES = 0, 130


def test_docstrings_have_few_sentences_over_thirty_words() -> None:
    found = sorted(english.of_docstrings())
    assert len(found) <= LONG_IN_DOCSTRINGS, "\n".join(map(str, found))


def test_pages_have_few_sentences_over_thirty_words() -> None:
    found = sorted(english.of_pages())
    assert len(found) <= LONG_IN_PAGES, "\n".join(map(str, found))


def test_a_long_sentence_is_found_and_code_is_none() -> None:
    words = "word " * 31
    assert list(english.long_sentences(f"Short. A {words}.\n\n    code {words}\n\n| table {words} |")) == [
        f"A {words.strip()} ."
    ]
