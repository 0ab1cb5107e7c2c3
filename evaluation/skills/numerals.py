"""Numbers as they are written: comparing, odd and even, roman numerals, other bases."""

from __future__ import annotations

import random

from evaluation.skills import grading
from evaluation.skills.types import Draw, Skill
from evaluation.skills.words import digits, phrased

_ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10,
    "X"), (9, "IX"),
    (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip
_LARGEST = ("Which is larger, {x}?", "Which number is larger: {x}?", "Larger: {x}?")
_SMALLEST = ("Which is smaller, {x}?", "Which number is smaller: {x}?", "Smaller: {x}?")
_PARITY = ("Is {a} even or odd?", "Tell me whether {a} is odd or even.", "{a}: even or odd?")
_TO_ROMAN = ("Write {a} in roman numerals.", "What is {a} as a roman numeral?", "{a} in roman numerals?")
_FROM_ROMAN = ("What number is {a}?", "Write the roman numeral {a} as a number.", "{a} as an ordinary number?")
_BASE = ("Convert {a} from {s} to {t}.", "Write the {s} number {a} in {t}.", "What is {s} {a} in {t}?")
_ROMAN_LIMIT = {1: 30, 2: 100, 3: 400, 4: 1200, 5: 3999}
_BASE_LIMIT = {1: 32, 2: 128, 3: 512, 4: 4096, 5: 65536}
_WRITE = {"binary": "b", "decimal": "d", "hexadecimal": "X"}


def roman(value: int) -> str:
    """The roman numeral of 1..3999."""
    letters = []
    for unit, sign in _ROMAN:
        letters.append(sign * (value // unit))
        value %= unit
    return "".join(letters)


def _compare(generator: random.Random, level: int) -> Draw:
    a, b = digits(generator, level + 1), digits(generator, level + 1)
    if generator.random() < 0.5:  # a close call
        b = max(0, a + generator.choice((-1, 1)) * 10 ** generator.randrange(level))
    if a == b:
        b += 1
    larger = generator.random() < 0.5
    pair = f"{a} or {b}"
    prompt = phrased(generator, _LARGEST if larger else _SMALLEST, x=pair)
    return Draw(prompt, str(max(a, b) if larger else min(a, b)), f"{min(a, b)}<{max(a, b)}")


def _parity(generator: random.Random, level: int) -> Draw:
    a = digits(generator, level + 1)
    return Draw(phrased(generator, _PARITY, a=a), "odd" if a % 2 else "even", str(a))


def _numeral(generator: random.Random, level: int) -> Draw:
    value = generator.randint(1, _ROMAN_LIMIT[level])
    if generator.random() < 0.5:
        return Draw(phrased(generator, _TO_ROMAN, a=value), roman(value), str(value))
    return Draw(phrased(generator, _FROM_ROMAN, a=roman(value)), str(value), str(value))


def _base(generator: random.Random, level: int) -> Draw:
    value = generator.randrange(_BASE_LIMIT[level])
    source, target = generator.sample(sorted(_WRITE), 2)
    written, wanted = format(value, _WRITE[source]), format(value, _WRITE[target])
    return Draw(phrased(generator, _BASE, a=written, s=source, t=target), wanted, str(value))


SKILLS = (
    Skill("compare", "the larger or smaller of two numbers of 2..6 digits", _compare, grading.number),
    Skill("parity", "even or odd, 2..6 digits", _parity, grading.exact, share=0.5),
    Skill("roman", "roman numerals to 3999, both ways", _numeral, grading.exact),
    Skill("base", "binary, decimal and hexadecimal up to 65535", _base, grading.exact, share=1.6),
)
