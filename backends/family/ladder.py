"""Measure the family with the numpy engine: `python -m backends.family.ladder`.

accuracy   every candidate's score by skill on held-out items, kept in ladder.json beside the weights
speed      prompt and decode tokens per second of every width, one answer at a time on one thread
table      what docs/family.md shows, from the kept scores and the catalogue's prices
picture    the same as a drawing (needs matplotlib)
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from backends.anyprec.engine.sampling import Sampling
from backends.anyprec.engine.scheduler import Job, complete
from backends.anyprec.engine.service import Loaded
from backends.anyprec.engine.weights import Variant

from .packed import MARKS, SCORES, STORES, WIDTHS
from .skills import LEVELS, SKILLS, Item, grade, sample
from .tokens import encode_answer, encode_chat

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


def answer(loaded: Loaded, items: Sequence[Item], *, bits: int) -> list[str]:
    """Greedy answers of a store at one width, at most 8 tokens longer than the right ones."""
    texts = [""] * len(items)

    def job(place: int) -> Job:
        def deliver(piece: object) -> None:
            texts[place] += piece.text  # type: ignore[attr-defined]

        item = items[place]
        sampling = Sampling(max_tokens=len(encode_answer(item.answer)) + 8, temperature=0.0)
        return Job(encode_chat(item.prompt), Variant(bits), sampling, 0, deliver, _raise)

    complete(loaded.scheduler, [job(place) for place in range(len(items))])
    return texts


def _raise(error: BaseException) -> None:
    raise error


def candidates(names: Sequence[str]) -> list[tuple[str, int]]:
    """The measured widths of the named stores."""
    return [(name, bits) for name in names for bits in WIDTHS[name]]


def drawn(per_cell: int) -> list[Item]:
    """The held-out items of the ladder: the same number for every skill and difficulty, the same every time."""
    return sample(per_cell * len(SKILLS) * len(LEVELS), rng=np.random.default_rng(SEED), split="test")


def measure(per_cell: int, *, names: Sequence[str]) -> Ladder:
    """Let every width of the named stores answer the same items."""
    items = drawn(per_cell)
    widths = candidates(names)
    scores = []
    with Progress() as bar:
        for name, bits in bar.track(widths, description="answering"):
            texts = answer(Loaded(name, STORES[name]), items, bits=bits)
            scores.append([grade(item, text) for item, text in zip(items, texts, strict=True)])
            print(f"{name}@{bits}bit {100 * np.mean(scores[-1]):.2f}", flush=True)
    return Ladder(
        [f"{name}@{bits}bit" for name, bits in widths],
        [item.skill for item in items],
        [item.difficulty for item in items],
        np.array(scores),
        np.array([len(encode_chat(item.prompt)) for item in items], float),
        np.array([len(encode_answer(item.answer)) for item in items], float),
    )


def save(ladder: Ladder, file: Path) -> None:
    """Keep the scores beside those of other stores on the same items.

    A candidate's row is one string of tenths ("0" wrong … "9", "A" right), so that a diff stays readable.
    """
    per_cell = len(ladder.skills) // (len(SKILLS) * len(LEVELS))
    head = {"seed": SEED, "per_cell": per_cell}
    kept = json.loads(file.read_text()) if file.exists() else {}
    rows = kept["scores"] if {key: kept.get(key) for key in head} == head else {}
    for name, row in zip(ladder.candidates, ladder.scores, strict=True):
        rows[name] = "".join(MARKS[round(10 * score)] for score in row)
    order = [f"{name}@{bits}bit" for name, bits in candidates(list(STORES))]
    scores = {name: rows[name] for name in sorted(rows, key=order.index)}
    file.write_text(json.dumps({**head, "scores": scores}, indent=1) + "\n")


def load(file: Path = SCORES) -> Ladder:
    """The kept scores, with the items drawn again."""
    kept = json.loads(file.read_text())
    items = drawn(kept["per_cell"])
    return Ladder(
        list(kept["scores"]),
        [item.skill for item in items],
        [item.difficulty for item in items],
        np.array([[MARKS.index(mark) / 10 for mark in row] for row in kept["scores"].values()]),
        np.array([len(encode_chat(item.prompt)) for item in items], float),
        np.array([len(encode_answer(item.answer)) for item in items], float),
    )


@dataclass(frozen=True)
class Speed:
    """Tokens per second of one candidate, one answer at a time."""

    name: str
    prompt: float
    decode: float


def speeds(names: Sequence[str], *, tokens: int = 200, rounds: int = 5) -> Iterator[Speed]:
    """Median speed of every width, from 200-token prompts and 200-token answers."""
    for name, bits in candidates(names):
        loaded = Loaded(name, STORES[name])
        prompt = ([*encode_chat("How many s's are in processes? " * 8)] * 2)[:tokens]
        read = [_seconds(loaded, prompt, bits=bits, tokens=1) for _ in range(rounds + 1)][1:]
        both = [_seconds(loaded, prompt, bits=bits, tokens=tokens + 1) for _ in range(rounds)]
        yield Speed(f"{name}@{bits}bit", tokens / np.median(read), tokens / (np.median(both) - np.median(read)))


def _seconds(loaded: Loaded, prompt: list[int], *, bits: int, tokens: int) -> float:
    sampling = Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    job = Job(prompt, Variant(bits), sampling, 0, lambda piece: None, _raise)
    started = time.perf_counter()
    complete(loaded.scheduler, [job])
    return time.perf_counter() - started


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="table", choices=["accuracy", "speed", "table", "picture"])
    parser.add_argument("--per-cell", type=int, default=PER_CELL, help="accuracy: items for every skill and difficulty")
    parser.add_argument("--stores", nargs="+", default=list(STORES), choices=list(STORES))
    parser.add_argument("--out", type=Path, help="where the scores or the picture go")
    options = parser.parse_args()
    if options.what == "accuracy":
        save(measure(options.per_cell, names=options.stores), options.out or SCORES)
    elif options.what == "speed":
        for speed in speeds(options.stores):
            print(f"{speed.name:12} prompt {speed.prompt:8.0f} tok/s   decode {speed.decode:7.0f} tok/s", flush=True)
    else:
        from . import report  # noqa: PLC0415  # matplotlib only for the picture

        report.show(load(), console=Console()) if options.what == "table" else report.draw(load(), options.out)


if __name__ == "__main__":
    main()
