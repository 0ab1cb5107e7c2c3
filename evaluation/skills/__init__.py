"""Graded skills: requests people make, each with one right answer, an exact grader and a difficulty dial of 1 to 5.

    items = sample(100, rng=np.random.default_rng(0))            # held-out items, evenly over skills and difficulties
    score = grade(items[0], "The answer is 42.")                 # in [0, 1]

The test split is made by content: one content key in ten is never trained on. Pure Python, offline.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from evaluation.skills import arithmetic, documents, facts, lists, measures, numerals, spelling
from evaluation.skills.types import LEVELS, Item, Skill, split_of

_ALL = (
    arithmetic.SKILLS
    + numerals.SKILLS
    + lists.SKILLS
    + spelling.SKILLS
    + measures.SKILLS
    + documents.SKILLS
    + facts.SKILLS
)
SKILLS: dict[str, Skill] = {skill.name: skill for skill in _ALL}

__all__ = ["LEVELS", "SKILLS", "Item", "Skill", "grade", "sample", "split_of"]


def sample(n: int, *, rng: np.random.Generator, split: str = "test", skills: Sequence[str] | None = None) -> list[Item]:
    """Draw n items of a split ("test" or "train"), evenly over `skills` (all by default) and difficulties.

    Raises: KeyError for an unknown skill.
    """
    generator = random.Random(int(rng.integers(2**63)))
    chosen = [SKILLS[name] for name in (SKILLS if skills is None else skills)]
    items = []
    for i in range(n):
        level = LEVELS[i // len(chosen) % len(LEVELS)]
        items.append(chosen[i % len(chosen)].draw(generator, difficulty=level, split=split))
    return items


def grade(item: Item, text: str) -> float:
    """The score of an answer in [0, 1], by the skill's own grader."""
    return SKILLS[item.skill].grade(item, text)
