"""Scores of every candidate on the same held-out items, kept in ladder.json beside the weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.anyprec.names import width_name
from backends.family.packed import MARKS, SCORES, STORES, WIDTHS
from evaluation.skills import LEVELS, SKILLS, Item, sample
from research.tokens import encode_answer, encode_chat

PER_CELL = 10  # items for every skill and difficulty
SEED = 7


@dataclass(frozen=True)
class Ladder:
    """Scores of every candidate on the same items."""

    candidates: list[str]
    skills: list[str]  # (m,) of every item
    difficulties: list[int]  # (m,)
    scores: NDArray[np.float64]  # (candidates, m), in [0, 1]
    prompt_tokens: NDArray[np.float64]  # (m,)
    answer_tokens: NDArray[np.float64]  # (m,) of the right answer

    def means(self) -> NDArray[np.float64]:
        """Mean score of every candidate."""
        means: NDArray[np.float64] = self.scores.mean(axis=1)
        return means

    def by_skill(self, skill: str) -> NDArray[np.float64]:
        """Mean score of every candidate on one skill."""
        means: NDArray[np.float64] = self.scores[:, np.array(self.skills) == skill].mean(axis=1)
        return means


def candidates(names: Sequence[str]) -> list[tuple[str, int]]:
    """The measured widths of the named stores."""
    return [(name, bits) for name in names for bits in WIDTHS[name]]


def drawn(per_cell: int) -> list[Item]:
    """The held-out items of the ladder: the same number for every skill and difficulty, the same every time."""
    return sample(per_cell * len(SKILLS) * len(LEVELS), rng=np.random.default_rng(SEED), split="test")


def per_cell_of(ladder: Ladder) -> int:
    """Items for every skill and difficulty."""
    return len(ladder.skills) // (len(SKILLS) * len(LEVELS))


def ladder_of(rows: dict[str, list[float]], items: Sequence[Item]) -> Ladder:
    """Scores by candidate on these items."""
    return Ladder(
        list(rows),
        [item.skill for item in items],
        [item.difficulty for item in items],
        np.array(list(rows.values())),
        np.array([len(encode_chat(item.prompt)) for item in items], float),
        np.array([len(encode_answer(item.answer)) for item in items], float),
    )


def kept_rows(file: Path, per_cell: int) -> dict[str, str]:
    """Marks by candidate, if the file holds scores on these items; else none."""
    kept = json.loads(file.read_text()) if file.exists() else {}
    head = {"seed": SEED, "per_cell": per_cell}
    rows: dict[str, str] = kept["scores"] if {key: kept.get(key) for key in head} == head else {}
    return rows


def save(ladder: Ladder, file: Path) -> None:
    """Keep the scores beside those of other candidates on the same items.

    A candidate's row is one string of tenths ("0" wrong … "9", "A" right), so that a diff stays readable.
    """
    per_cell = per_cell_of(ladder)
    rows = kept_rows(file, per_cell)
    for name, row in zip(ladder.candidates, ladder.scores, strict=True):
        rows[name] = "".join(MARKS[round(10 * score)] for score in row)
    order = [width_name(name, bits) for name, bits in candidates(list(STORES))]
    scores = {name: rows[name] for name in sorted(rows, key=order.index)}
    file.write_text(json.dumps({"seed": SEED, "per_cell": per_cell, "scores": scores}, indent=1) + "\n")


def load(file: Path = SCORES) -> Ladder:
    """The kept scores, with the items drawn again."""
    kept = json.loads(file.read_text())
    rows = {name: [MARKS.index(mark) / 10 for mark in row] for name, row in kept["scores"].items()}
    return ladder_of(rows, drawn(kept["per_cell"]))
