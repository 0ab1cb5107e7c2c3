"""Letters and words: counting, reversing, picking letters, case and plural forms."""
# ruff: noqa: SIM905  # lists of words read better as text

from __future__ import annotations

import random
from collections.abc import Callable

from evaluation.skills import grading
from evaluation.skills.types import Draw, Skill
from evaluation.skills.words import FIRST, REAL, invented, phrased, word_of_length

_LENGTH = {1: 4, 2: 6, 3: 9, 4: 13, 5: 18}
_COUNT = (
    "How many times does the letter {l} occur in {w}?",
    "Count the letter {l} in {w}.",
    "How many {l}'s are in {w}?",
)
_REVERSE = ("Reverse the word {w}.", "Spell {w} backwards.", "Write {w} in reverse.")
_NTH = ("What is letter number {n} of {w}?", "Give me letter {n} of {w}.", "Which letter is at position {n} in {w}?")
_CASE = ("Write {w} in {c}.", "Convert {w} to {c}.", "Put {w} into {c}.")
_PLURAL = ("What is the plural of {w}?", "Plural of {w}?", "Give the plural: {w}")
_INITIALS = ("What are the initials of {w}?", "Give the initials: {w}", "Initials of {w}?")
_IRREGULAR = (
    ("man", "men"), ("woman", "women"), ("child", "children"), ("foot", "feet"), ("tooth", "teeth"), ("mouse", "mice"),
    ("goose", "geese"), ("leaf", "leaves"), ("knife", "knives"), ("wolf", "wolves"), ("shelf", "shelves"),
    ("wife", "wives"),
)  # fmt: skip
_COLOURS = (
    "red blue green gray small large old young tall calm loud brave clever cold dusty early eager gentle happy "
    "hungry kind lazy lonely lost lucky mild neat new nice odd pale polite proud quick quiet rare rude sad shy "
    "silly slow smart soft strange strong sweet tiny tired warm weak white wild wise"
).split()
_STYLES: dict[str, Callable[[list[str]], str]] = {
    "upper case": lambda words: " ".join(words).upper(),
    "title case": lambda words: " ".join(words).title(),
    "snake case": "_".join,
    "kebab case": "-".join,
    "camel case": lambda words: words[0] + "".join(word.title() for word in words[1:]),
}


def _letters(generator: random.Random, level: int) -> Draw:
    word = word_of_length(generator, _LENGTH[level])
    letter = generator.choice(word if generator.random() < 0.85 else "abcdefghijklmnopqrstuvwxyz")
    return Draw(phrased(generator, _COUNT, l=letter, w=word), str(word.count(letter)), f"{letter}{word}")


def _reverse(generator: random.Random, level: int) -> Draw:
    word = word_of_length(generator, _LENGTH[level])
    return Draw(phrased(generator, _REVERSE, w=word), word[::-1], word)


def _position(generator: random.Random, level: int) -> Draw:
    word = word_of_length(generator, _LENGTH[level])
    place = generator.randint(1, len(word))
    return Draw(phrased(generator, _NTH, n=place, w=word), word[place - 1], f"{place}{word}")


def _case(generator: random.Random, level: int) -> Draw:
    words = [
        generator.choice(REAL) if generator.random() < 0.7 else invented(generator, syllables=2) for _ in range(level)
    ]
    style = generator.choice(sorted(_STYLES))
    text = " ".join(words)
    return Draw(phrased(generator, _CASE, w=f'"{text}"', c=style), _STYLES[style](words), text)


def _noun(generator: random.Random, kind: int) -> tuple[str, str]:
    """A noun and its plural: 0 plain, 1 sibilant, 2 ending in y, 3 irregular after an adjective."""
    if kind == 3:
        adjective, (noun, plural) = generator.choice(_COLOURS), generator.choice(_IRREGULAR)
        return f"{adjective} {noun}", f"{adjective} {plural}"
    stem = generator.choice(("bl", "tr", "gr", "p", "m", "d", "f", "st"))
    stem += invented(generator, syllables=generator.randint(1, 2)).rstrip("sx").removesuffix("th")
    if kind == 1:
        stem += generator.choice(("sh", "ch", "x", "ss"))
        return stem, stem + "es"
    if kind == 2:
        stem += generator.choice("bdlntr")
        return stem + "y", stem + "ies"
    stem += generator.choice("kmprt")
    return stem, stem + "s"


def _plural(generator: random.Random, level: int) -> Draw:
    kinds = (0, 1, 2, 3) if level > 3 else (0,) if level == 1 else (1, 2) if level == 2 else (3,)
    pairs = [_noun(generator, generator.choice(kinds)) for _ in range(max(1, level - 2))]
    singular = ", ".join(pair[0] for pair in pairs)
    return Draw(phrased(generator, _PLURAL, w=singular), ", ".join(pair[1] for pair in pairs), singular)


def _initials(generator: random.Random, level: int) -> Draw:
    names = [invented(generator, syllables=2).title() for _ in range(level)]
    given = " ".join([generator.choice(FIRST), *names])
    initials = "".join(name[0] for name in given.split())
    return Draw(phrased(generator, _INITIALS, w=given), initials, given)


SKILLS = (
    Skill("letters", "how often a letter occurs in a word of 4..18 letters", _letters, grading.number, share=1.6),
    Skill("reverse", "a word of 4..18 letters backwards", _reverse, grading.exact),
    Skill("position", "the n-th letter of a word of 4..18 letters", _position, grading.exact),
    Skill("case", "upper, title, snake, kebab and camel case of 1..5 words", _case, grading.exact),
    Skill("plural", "plurals, regular and irregular, one to three nouns", _plural, grading.exact),
    Skill("initials", "the initials of a name of two to six words", _initials, grading.exact, share=0.5),
)
