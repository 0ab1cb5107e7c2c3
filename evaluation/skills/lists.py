"""Lists: the missing number of a shuffled range, sorting, alphabetical order, look-ups over several hops."""

from __future__ import annotations

import itertools
import random

from evaluation.skills import grading
from evaluation.skills.types import Draw, Skill
from evaluation.skills.words import FIRST, REAL, phrased

_GAP = (
    "One number from {a} to {b} is missing: {x}. Which one?",
    "Which number between {a} and {b} is missing from {x}?",
    "These are the tickets {a} to {b} except one: {x}. Which ticket is missing?",
)
_RISING = ("Sort in ascending order: {x}", "Sort these numbers from small to large: {x}")
_FALLING = ("Sort in descending order: {x}", "Sort these numbers from large to small: {x}")
_ALPHABET = ("Put in alphabetical order: {x}", "Sort these words from A to Z: {x}", "Alphabetize: {x}")
_GAP_SIZE = {1: 6, 2: 10, 3: 16, 4: 26, 5: 40}
_SORT_SIZE = {1: 3, 2: 5, 3: 8, 4: 13, 5: 20}
_BOSS = ("boss", "boss's boss", "boss's boss's boss")


def _gap(generator: random.Random, level: int) -> Draw:
    size = _GAP_SIZE[level]
    first = generator.randint(1, 60)
    shown = list(range(first, first + size))
    missing = shown.pop(generator.randrange(1, size - 1))
    generator.shuffle(shown)
    listed = ", ".join(map(str, shown))
    return Draw(phrased(generator, _GAP, a=first, b=first + size - 1, x=listed), str(missing), listed)


def _sorting(generator: random.Random, level: int) -> Draw:
    shown = generator.sample(range(100), _SORT_SIZE[level])
    falling = generator.random() < 0.5
    listed = ", ".join(map(str, shown))
    wanted = ", ".join(map(str, sorted(shown, reverse=falling)))
    return Draw(phrased(generator, _FALLING if falling else _RISING, x=listed), wanted, listed)


def _alphabet(generator: random.Random, level: int) -> Draw:
    shown = generator.sample(REAL, level + 1)
    listed = ", ".join(shown)
    return Draw(phrased(generator, _ALPHABET, x=listed), ", ".join(sorted(shown)), listed)


def _chain(generator: random.Random, level: int) -> Draw:
    """Who is at the end of a chain of `(level + 1) // 2` bosses, among other people's bosses."""
    hops = (level + 1) // 2
    names = generator.sample(FIRST, hops + 1 + level // 2 + 2)
    pairs = list(itertools.pairwise(names[: hops + 1]))
    others = names[hops + 1 :]
    pairs += [(other, generator.choice(names[: hops + 1])) for other in others]
    generator.shuffle(pairs)
    said = " ".join(f"{boss} is {name}'s boss." for name, boss in pairs)
    return Draw(f"{said} Who is {names[0]}'s {_BOSS[hops - 1]}?", names[hops], said)


SKILLS = (
    Skill("gap", "the missing number of a shuffled range of 6..40", _gap, grading.number, share=1.3),
    Skill("sorting", "3..20 numbers in either order", _sorting, grading.numbers, share=1.3),
    Skill("alphabet", "2..6 words in alphabetical order", _alphabet, grading.exact),
    Skill("chain", "look-ups over 1..3 hops among other people's", _chain, grading.exact, share=1.3),
)
