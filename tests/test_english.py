"""Sentences are short: none of a docstring or a page has more than thirty words."""

from __future__ import annotations

from tests.house import english


def test_no_docstring_has_a_sentence_over_thirty_words() -> None:
    found = sorted(english.of_docstrings())
    assert not found, "\n".join(map(str, found))


def test_no_page_has_a_sentence_over_thirty_words() -> None:
    found = sorted(english.of_pages())
    assert not found, "\n".join(map(str, found))


def test_a_long_sentence_is_found_and_code_is_none() -> None:
    words = "word " * 31
    assert list(english.long_sentences(f"Short. A {words}.\n\n    code {words}\n\n| table {words} |")) == [
        f"A {words.strip()} ."
    ]


def test_each_entry_of_a_list_in_columns_is_read_alone() -> None:
    entry = " ".join(["word"] * 20)
    assert not list(english.long_sentences(f"Two kinds.\n\none    {entry}\nother  {entry}"))
    assert list(english.long_sentences(f"one  {entry} {entry}\nother  {entry}"))
