"""What hashing looks up: classes of code points, groups of characters, powers of its base. Arithmetic only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint32]
MAX_CHARACTERS = 8192  # a longer text is embedded by its two ends of half this length

SPACE, PUNCTUATION, LETTER, CJK = range(4)
CJK_RANGES = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF))

# Odd multipliers of multilinear hashes modulo 2³²; the top bits of the products are the buckets.
MULTIPLIERS = np.random.default_rng(20250917).integers(1 << 30, 1 << 32, size=12, dtype=np.uint32) | np.uint32(1)
BASE = int(MULTIPLIERS[0])
INVERSE_BASE = pow(BASE, -1, 1 << 32)

DIGITS, CAPITALS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GROUPS = ("\n", DIGITS, "?", "$%", "=", "()[]", "{}", "_", "\\", ",", "\"'`", "+-*/^<>", ":;", CAPITALS)


def _classes() -> NDArray[np.uint8]:
    """(0x110000,) the class of each code point; those above the basic plane count as letters."""
    classes = np.full(0x110000, LETTER, dtype=np.uint8)
    for code in range(1 << 16):
        character = chr(code)
        if character.isspace():
            classes[code] = SPACE
        elif not character.isalnum():
            classes[code] = PUNCTUATION
    for low, high in CJK_RANGES:
        classes[low : high + 1] = CJK
    return classes


def _groups() -> NDArray[np.float32]:
    """(groups, 129) which of the first 128 code points belong to each of GROUPS."""
    members = np.zeros((len(GROUPS), 129), np.float32)
    for row, characters in enumerate(GROUPS):
        members[row, [ord(character) for character in characters]] = 1.0
    return members


def _powers(base: int, count: int) -> Codes:
    """(count,) base⁰, base¹, … modulo 2³²."""
    factors = np.full(count, base, np.uint32)
    factors[0] = 1
    return np.asarray(factors.cumprod(dtype=np.uint32))


CLASSES = _classes()
MEMBERS = _groups()
POWERS = _powers(BASE, MAX_CHARACTERS + 2)
INVERSE_POWERS = _powers(INVERSE_BASE, MAX_CHARACTERS + 2)
