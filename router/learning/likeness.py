"""How sure it is that two questions have one answer, and which questions are never compared. Pure.

Vectors of words do not see what turns an answer round: another number, a negation, the other one of a pair. Where two
questions differ in such a thing nobody is sure at all; elsewhere a bound is calibrated on what is told here.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from hashlib import blake2b
from itertools import filterfalse
from typing import NamedTuple
from zlib import crc32

MOST_CHARACTERS = 4_000  # of a question that is compared with others
ALIKE = 0.9  # share of words that two long answers which say the same have in common …
LONG = 8  # … where both have so many
TURNED = 8  # characters of a fingerprint that tell what turns an answer round
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_POLITE = re.compile(r"(?i)\b(tell|give|show|remind|help) (me|us)\b|\bi (need|want|would like|wonder)\b|\bi'd like\b")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OF_NOW = _words(
    """now today tonight tomorrow yesterday currently current latest recent recently newest nowadays upcoming ago
    weather forecast news headlines stock price prices schedule deadline date"""
)
_OWN = _words(
    """i i'm i've i'd i'll me my mine myself we we're our ours us name email phone address account order password
    ssn birthday salary diagnosis"""
)
_AGAIN = _words("above previous earlier continue again that's same it's") - {"same"}
_NEGATIONS = _words(
    """not no never none nobody nothing neither nor without except cannot unless isn't aren't wasn't weren't don't
    doesn't didn't won't wouldn't can't couldn't shouldn't hasn't haven't hadn't false incorrect untrue wrong"""
)
_EMPTY = _words(
    """a an the is are was were be been do does did of in on at to for from by with as and or that this these those
    it its please tell me give what which who how could would can you i need know want look up find let have has there
    kindly quickly question answer hello hi thanks thank what's who's where's how's there's let's one"""
)
_BARRED = _OF_NOW | _OWN | _AGAIN
_UNTOLD = _EMPTY | _NEGATIONS
_SWAPS = _words(
    """more less most least first last next before after above below over under odd even largest smallest greatest
    longest shortest highest lowest maximum minimum max min increase decrease ascending descending up down left right
    north south east west add remove plus minus sum difference product quotient true false same different all any some
    every each only both either start end begin finish earlier later older younger bigger smaller higher lower better
    worse cheaper dearer faster slower positive negative inside outside import export encode decode encrypt decrypt
    uppercase lowercase vowels consonants sender receiver buy sell open close advantage disadvantage advantages
    disadvantages pros cons cause effect causes effects best worst"""
)


class Signs(NamedTuple):
    """What of a question tells it from others."""

    words: Counter[str]
    numbers: tuple[str, ...]
    negations: int
    swaps: tuple[str, ...]
    capitals: frozenset[str]  # names


def is_comparable(text: str) -> bool:
    """Whether its answer may be another question's: not of the moment, of nobody's own affairs, of no earlier talk."""
    if not text or len(text) > MOST_CHARACTERS or "@" in text or "://" in text:
        return False
    plain = _split(text)[1]
    if _BARRED.isdisjoint(plain):
        return True
    words = set(plain)
    return words.isdisjoint(_OF_NOW) and not _is_personal(text, words) and words.isdisjoint(_AGAIN)


def confidence(asked: str, before: str, cosine: float) -> float:
    """In [0, 1]: how sure it is that they have one answer; 0 where something turns it round."""
    one, other = signs_of(asked), signs_of(before)
    if one.numbers != other.numbers or one.negations % 2 != other.negations % 2 or one.swaps != other.swaps:
        return 0.0
    if one.capitals - other.words.keys() - other.capitals or other.capitals - one.words.keys() - one.capitals:
        return 0.0
    apart = ((one.words - other.words) + (other.words - one.words)).total()  # a word of ten turns an answer, too
    return max(0.0, min(1.0, 0.5 + 0.5 * cosine)) / (1.0 + apart)


def fingerprint(text: str) -> str:
    """Of a question: the same for others that ask in the same words, whatever stands around the words. Its first TURNED
    characters are the same for all questions that nothing turns round from one to the other."""
    words, numbers, negations, swaps, _ = signs_of(text)
    turned = crc32("\0".join((*numbers, str(negations % 2), *swaps)).encode(errors="replace"))
    packed = "\0".join(sorted(words.elements())).encode(errors="replace")
    return f"{turned:0{TURNED}x}{blake2b(packed, digest_size=8).hexdigest()}"


def say_the_same(one: str, other: str) -> bool:
    """Whether two answers do, as far as words tell: where nobody can be sure, they do not."""
    a, b = _bare(one), _bare(other)
    if a == b:
        return True
    left, right = signs_of(one), signs_of(other)
    if left.numbers != right.numbers or left.negations % 2 != right.negations % 2 or left.swaps != right.swaps:
        return False
    says_more = left.words <= right.words or right.words <= left.words  # and nothing else in the place of anything
    is_long = min(left.words.total(), right.words.total()) >= LONG
    return says_more and is_long and _common(left.words, right.words) >= ALIKE


@lru_cache(maxsize=8_192)
def signs_of(text: str) -> Signs:
    """Of a question or an answer."""
    found, plain = _split(text)
    named = [word for as_said, word in zip(found[1:], plain[1:], strict=True) if as_said[:1].isupper()]
    return Signs(
        Counter(map(_stem, filterfalse(_UNTOLD.__contains__, plain))),
        tuple(sorted(_NUMBER.findall(text))),
        sum(map(_NEGATIONS.__contains__, plain)),
        tuple(sorted(filter(_SWAPS.__contains__, plain))),
        frozenset(named) - _EMPTY,
    )


@lru_cache(maxsize=64)
def _split(text: str) -> tuple[list[str], list[str]]:
    """(its words, the same in small letters)."""
    found = _WORD.findall(text.replace("’", "'"))
    return found, [word.casefold() for word in found]


def _is_personal(text: str, words: set[str]) -> bool:
    """Beyond the polite forms in which anybody asks anything."""
    if words.isdisjoint(_OWN):
        return False
    return not _OWN.isdisjoint(_split(_POLITE.sub("", text))[1])


@lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    for ending in ("'s", "ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _common(one: Counter[str], other: Counter[str]) -> float:
    """F1 of the words that both have."""
    total = one.total() + other.total()
    return 2.0 * (one & other).total() / total if total else 1.0


def _bare(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .!\"'`*")
