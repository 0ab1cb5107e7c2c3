"""What a skill is: a generator of requests with one right answer, a difficulty dial and an exact grader."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

LEVELS = (1, 2, 3, 4, 5)
TEST_SHARE = 10  # one content key in ten belongs to the test split


class Draw(NamedTuple):
    """One drawn request; `key` is its content, by which the split is made."""

    prompt: str
    answer: str
    key: str


@dataclass(frozen=True)
class Item:
    """One graded request: `difficulty` is the skill's dial, 1 (easy) to 5 (hard)."""

    skill: str
    difficulty: int
    prompt: str
    answer: str


Maker = Callable[[random.Random, int], Draw]
Grader = Callable[[Item, str], float]


@dataclass(frozen=True)
class Skill:
    """A kind of request. `make(generator, difficulty)` draws one; `grade(item, text)` scores an answer in [0, 1]."""

    name: str
    summary: str
    make: Maker
    grade: Grader
    share: float = 1.0  # how often training draws it, relative to the others
    levels: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)  # how often training draws each difficulty, relative

    def draw(self, generator: random.Random, *, difficulty: int, split: str) -> Item:
        """Draw until the content falls into `split` ("train" or "test").

        Raises: ValueError when the skill has no content on that side of the split.
        """
        for _ in range(5000):
            prompt, answer, key = self.make(generator, difficulty)
            if split_of(self.name, key) == split:
                return Item(self.name, difficulty, prompt, answer)
        raise ValueError(f"{self.name} at difficulty {difficulty} has no content in the split {split!r}")


def split_of(skill: str, key: str) -> str:
    """The split a content key belongs to: "test" for one in ten, else "train"; the same on every machine."""
    return "test" if zlib.crc32(f"{skill}|{key}".encode()) % TEST_SHARE == 0 else "train"
