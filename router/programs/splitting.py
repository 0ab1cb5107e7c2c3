"""Cuts a long text into so many parts: at paragraphs, else at lines, sentences, words or characters. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

SLACK = 0.2  # a part is no longer than 1 + SLACK of the mean
_BOUNDARIES = (b"\n\n", b"\n", b". ", b" ")
SHORT_QUESTION = 0.25  # of a text: a first or last piece no longer than this is what is asked of the rest


def parts_of(text: bytes, count: int) -> list[bytes]:
    """The text in `count` parts (fewer where there are fewer bytes), in order, with nothing left out."""
    places = [0, *_cuts(text, count), len(text)]
    return [text[a:b] for a, b in pairwise(places) if b > a]


def longest(length: int, count: int) -> int:
    """Bytes of the longest part."""
    return -int(-length * (1 + SLACK) // count) + 4  # and a character


def _cuts(text: bytes, count: int) -> Iterator[int]:
    """The ends of all parts but the last, each near its even share."""
    mean, before = len(text) / count, 0
    for number in range(1, count):
        even = round(number * mean)
        half = int(mean * SLACK / 2)
        before = _cut(text, max(before, even - half), even, min(len(text), even + half))
        yield before


def _cut(text: bytes, low: int, even: int, high: int) -> int:
    """After the best boundary between low and high, of those the nearest; where there is none, at a character."""
    for boundary in _BOUNDARIES:
        earlier, later = text.rfind(boundary, low, even), text.find(boundary, even, high)
        found = [at + len(boundary) for at in (earlier, later) if at >= 0]
        if found:
            return min(found, key=lambda at: abs(at - even))
    while even < len(text) and text[even] & 0xC0 == 0x80:
        even += 1
    return even


def question_of(text: str) -> tuple[str, str]:
    """(the long part, what is asked of it): a short last or first paragraph, else a line; else nothing."""
    for boundary in ("\n\n", "\n"):
        body, _, last = text.rstrip().rpartition(boundary)
        if body and len(last) <= SHORT_QUESTION * len(text):
            return body, last
        first, _, rest = text.partition(boundary)
        if rest and len(first) <= SHORT_QUESTION * len(text):
            return rest, first
    return text, ""
