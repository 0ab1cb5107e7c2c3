"""Reckoning: sums, products, percentages, remainders, nested expressions and change at the till."""
# ruff: noqa: SIM905  # lists of words read better as text

from __future__ import annotations

import random

from evaluation.skills import grading
from evaluation.skills.types import Draw, Skill
from evaluation.skills.words import digits, phrased

_PLUS = (
    "What is {a} + {b}?",
    "Add {a} and {b}.",
    "How much is {a} plus {b}?",
    "I had {a} euros and got {b} more. How many euros do I have?",
)
_MINUS = (
    "What is {a} - {b}?",
    "Subtract {b} from {a}.",
    "How much is {a} minus {b}?",
    "I had {a} euros and spent {b}. How many euros are left?",
)
_TIMES = (
    "What is {a} * {b}?",
    "Multiply {a} by {b}.",
    "How much is {a} times {b}?",
    "A box holds {a} screws. How many screws are in {b} boxes?",
)
_REST = ("What is the remainder of {a} divided by {b}?", "What is {a} mod {b}?", "Divide {a} by {b}. What remains?")
_SHARE = ("What is {p}% of {a}?", "How much is {p} percent of {a}?", "Work out {p}% of {a}.")
_SALE = ("A coat costs {a} euros and is {p}% off. What does it cost now?", "Take {p}% off {a}.")
_EVALUATE = ("Evaluate {e}", "What is {e}?", "Calculate {e}")
_WARES = ("apple banana bread cheese egg fig lemon mango melon milk onion peach pear plum rice tea").split()
_FACTORS = {1: (2, 1), 2: (2, 1), 3: (2, 2), 4: (3, 2), 5: (3, 3)}
_DIVISORS = {1: (2, 5, 10), 2: (3, 4, 9), 3: (6, 7, 8), 4: (11, 12, 13), 5: (17, 19, 23)}
_PERCENTAGES = {1: (10, 50), 2: (5, 20, 25), 3: tuple(range(5, 100, 5)), 4: tuple(range(1, 100))}


def _operands(generator: random.Random, level: int) -> tuple[int, int]:
    """Two numbers, the first of `level` digits; of two at level 1, since expressions hold the sums of single digits."""
    return digits(generator, max(level, 2)), digits(generator, generator.randint(1, level))


def _addition(generator: random.Random, level: int) -> Draw:
    a, b = _operands(generator, level)
    return Draw(phrased(generator, _PLUS, a=a, b=b), str(a + b), f"{min(a, b)}+{max(a, b)}")


def _subtraction(generator: random.Random, level: int) -> Draw:
    b, a = sorted(_operands(generator, level))
    return Draw(phrased(generator, _MINUS, a=a, b=b), str(a - b), f"{a}-{b}")


def _product(generator: random.Random, level: int) -> Draw:
    a, b = (digits(generator, count) for count in _FACTORS[level])
    if level == 1:  # the easier half of level 2: single digits are in expressions
        a = generator.randint(10, 19)
    if generator.random() < 0.5:
        a, b = b, a
    return Draw(phrased(generator, _TIMES, a=a, b=b), str(a * b), f"{min(a, b)}*{max(a, b)}")


def _remainder(generator: random.Random, level: int) -> Draw:
    a, b = digits(generator, min(level + 1, 4)), generator.choice(_DIVISORS[level])
    return Draw(phrased(generator, _REST, a=a, b=b), str(a % b), f"{a}%{b}")


def _percentage(generator: random.Random, level: int) -> Draw:
    p = generator.choice(_PERCENTAGES[min(level, 4)])
    a = digits(generator, min(level + 1, 3)) * (10 if level < 3 else 1)
    part = a * p if level < 5 else a * (100 - p)
    prompt = phrased(generator, _SHARE if level < 5 else _SALE, a=a, p=p)
    return Draw(prompt, f"{part / 100:.2f}".rstrip("0").rstrip("."), f"{p}%{a}")


def _tree(generator: random.Random, operators: int, *, signs: str = "+-*") -> tuple[str, int]:
    """A random expression of single digits with that many of the operators, and its value."""
    if operators == 0:
        value = generator.randint(1, 9)
        return str(value), value
    left_size = generator.randrange(operators)
    a, x = _tree(generator, left_size, signs=signs)
    b, y = _tree(generator, operators - 1 - left_size, signs=signs)
    operator = generator.choice(signs)
    left = f"({a})" if left_size else a
    right = f"({b})" if operators - 1 - left_size else b
    return f"{left} {operator} {right}", x + y if operator == "+" else x - y if operator == "-" else x * y


def _expression(generator: random.Random, level: int) -> Draw:
    text, value = _tree(generator, max(level, 2), signs="+-*" if level > 1 else "+-")
    return Draw(phrased(generator, _EVALUATE, e=text), str(value), text)


def _shopping(generator: random.Random, level: int) -> Draw:
    wares = generator.sample(_WARES, 3 + level // 2)
    prices = [generator.randint(2, 9 if level < 4 else 19) for _ in wares]
    bought = generator.sample(range(len(wares)), (level + 2) // 2)
    counts = [1 if level == 1 else generator.randint(2, 9) for _ in bought]
    total = sum(prices[i] * n for i, n in zip(bought, counts, strict=True))
    listed = ", ".join(f"{ware} {price}" for ware, price in zip(wares, prices, strict=True))
    basket = " and ".join(f"{n} {wares[i]}" for i, n in zip(bought, counts, strict=True))
    key = f"{listed}|{basket}"
    if level == 5:
        return Draw(f"Prices: {listed}. I buy {basket} and pay 500. What is my change?", str(500 - total), key)
    ask = phrased(generator, ("How much is {b}?", "What do I pay for {b}?", "Total for {b}?"), b=basket)
    return Draw(f"Prices: {listed}. {ask}", str(total), key)


SKILLS = (
    Skill("addition", "sums of two numbers of up to 2..5 digits", _addition, grading.number),
    Skill("subtraction", "differences of two numbers of up to 2..5 digits", _subtraction, grading.number),
    Skill(
        "product", "products: below 20 times a digit, 2x1, 2x2, 3x2 and 3x3 digits", _product, grading.number, share=1.6
    ),
    Skill("remainder", "remainders by 2, 5, 10 up to two-digit primes", _remainder, grading.number, share=1.3),
    Skill("percentage", "shares in percent, and discounts", _percentage, grading.number, share=1.3),
    Skill("expression", "nested expressions of 2..5 operators", _expression, grading.number, share=1.6),
    Skill("shopping", "prices from a list, summed over a basket", _shopping, grading.number, share=1.8),
)
