"""How sure it is that two questions have one answer, and which questions are never compared. Pure.

Vectors of words do not see what turns an answer round: another number, sign or unit, a negation, the other one of a
pair, names in another order. Where two questions differ in such a thing nobody is sure at all; elsewhere a bound is
calibrated on what is told here. The signs are those of English: questions in other languages are never compared.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from hashlib import blake2b
from itertools import filterfalse
from typing import NamedTuple
from unicodedata import category, normalize
from zlib import crc32

MOST_CHARACTERS = 4_000  # of a question that is compared with others
ALIKE = 0.9  # share of words that two long answers which say the same have in common …
LONG = 8  # … where both have so many
DENIED = "not"  # stands for every negation
_HIDDEN = frozenset({"Cf", "Cc", "Co", "Cn", "Cs"})  # characters that nobody sees, or nobody can name
TURNED = 8  # characters of a fingerprint that tell what turns an answer round
_TOKEN = re.compile(  # a word, a number, or a sign that stands for something: + between numbers, %, $, # …
    r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+(?:[.,:]\d+)*!?|[-−–](?=\s*[\d(])|[^\w\s.,;:!?'\"`’‘“”…–—-]"
)
_POLITE = re.compile(r"(?i)\b(tell|give|show|remind|help) (me|us)\b|\bi (need|want|would like|wonder)\b|\bi'd like\b")


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
_FOREIGN = _words(
    """der das und ist nicht ein eine wie wer wo kein ich mein heute le les des est et que qui quel quelle une du pas ne
    je mon ma aujourd'hui el del en es una qué cuál como cómo por para mi hoy il gli che è di non sono oggi os é em um
    não são uma meu minha hoje qual het een niet wat hoe wie mijn vandaag och inte är jag jest nie się jak czy moje
    ve bir nedir değil benim bugün og ikke er hva hvad hvor"""
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
    disadvantages pros cons cause effect causes effects best worst
    km kilometre kilometres kilometer kilometers m metre metres meter meters cm mm mile miles yard yards foot feet ft
    inch inches kg kilogram kilograms g gram grams lb lbs pound pounds ounce ounces ton tons tonne tonnes celsius
    fahrenheit kelvin c f k litre litres liter liters gallon gallons second seconds minute minutes hour hours day days
    week weeks month months year years usd eur gbp dollar dollars euro euros yen percent degrees radians bit bits byte
    bytes kb mb gb tb thousand million billion trillion"""
)


class Signs(NamedTuple):
    """What of a question tells it from others."""

    words: Counter[str]
    order: tuple[str, ...]  # the same, and where it is denied
    turns: tuple[str, ...]  # numbers, signs, units and ones of a pair, as they come
    negations: int
    capitals: frozenset[str]  # names


def is_comparable(text: str) -> bool:
    """Whether its answer may be another question's: not of the moment, of nobody's own affairs, of no earlier talk."""
    if not text or len(text) > MOST_CHARACTERS or "@" in text or "://" in text or not _is_english(text):
        return False
    plain = _split(text)[1]
    if _BARRED.isdisjoint(plain):
        return True
    words = set(plain)
    return words.isdisjoint(_OF_NOW) and not _is_personal(text, words) and words.isdisjoint(_AGAIN)


def confidence(asked: str, before: str, cosine: float) -> float:
    """In [0, 1]: how sure it is that they have one answer; 0 where something turns it round."""
    one, other = signs_of(asked), signs_of(before)
    if one.turns != other.turns or one.negations % 2 != other.negations % 2:
        return 0.0
    if one.capitals - other.words.keys() - other.capitals or other.capitals - one.words.keys() - one.capitals:
        return 0.0
    names = one.capitals | other.capitals
    if _common_order(one, names) != _common_order(other, names):
        return 0.0
    apart = ((one.words - other.words) + (other.words - one.words)).total()  # a word of ten turns an answer, too
    both = one.words.keys() & other.words.keys() | {DENIED}
    apart += 2 * (_common_order(one, both) != _common_order(other, both))  # as if one word were another
    return max(0.0, min(1.0, 0.5 + 0.5 * cosine)) / (1.0 + apart)


def fingerprint(text: str) -> str:
    """Of a question: the same for others that ask in the same words, whatever stands around the words. Its first TURNED
    characters are the same for all questions that nothing turns round from one to the other."""
    found = signs_of(text)
    turned = crc32("\0".join((*found.turns, str(found.negations % 2))).encode(errors="replace"))
    packed = "\0".join(sorted(found.words.elements())).encode(errors="replace")
    return f"{turned:0{TURNED}x}{blake2b(packed, digest_size=8).hexdigest()}"


def say_the_same(one: str, other: str) -> bool:
    """Whether two answers do, as far as words tell: where nobody can be sure, they do not."""
    a, b = _bare(one), _bare(other)
    if a == b:
        return True
    left, right = signs_of(one), signs_of(other)
    if left.turns != right.turns or left.negations % 2 != right.negations % 2:
        return False
    says_more = left.words <= right.words or right.words <= left.words  # and nothing else in the place of anything
    is_long = min(left.words.total(), right.words.total()) >= LONG
    return says_more and is_long and _common(left.words, right.words) >= ALIKE


@lru_cache(maxsize=8_192)
def signs_of(text: str) -> Signs:
    """Of a question or an answer."""
    found, plain = _split(text)
    named = [word for as_said, word in zip(found[1:], plain[1:], strict=True) if as_said[:1].isupper()]
    content = [_stem(word) for word in filterfalse(_UNTOLD.__contains__, plain)]
    order = (DENIED if word in _NEGATIONS else _stem(word) for word in filterfalse(_EMPTY.__contains__, plain))
    turns = (word for word in plain if not word[0].isalpha() or word in _SWAPS)
    negations = sum(map(_NEGATIONS.__contains__, plain))
    return Signs(Counter(content), tuple(order), tuple(turns), negations, frozenset(map(_stem, set(named) - _EMPTY)))


@lru_cache(maxsize=64)
def _split(text: str) -> tuple[list[str], list[str]]:
    """(its words, numbers and signs as they come, the same in small letters); one look for all ways to write a sign."""
    found = _TOKEN.findall((text if text.isascii() else normalize("NFKC", text)).replace("’", "'"))
    return found, [word.casefold() for word in found]


def _is_english(text: str) -> bool:
    """Whether the words that are looked for here could stand in it: Latin letters, no little word of another language,
    and nothing that nobody sees."""
    if text.isascii() and _FOREIGN.isdisjoint(_split(text)[1]):
        return True
    hidden = any(category(each) in _HIDDEN for each in text if each > "\x7f")
    strange = any(each.isalpha() and each > "\u024f" for each in normalize("NFKC", text))
    return not hidden and not strange and _FOREIGN.isdisjoint(_split(text)[1])


def _common_order(signs: Signs, words: frozenset[str] | set[str]) -> tuple[str, ...]:
    """Those of the words that it has, as they come."""
    return tuple(filter(words.__contains__, signs.order))


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
