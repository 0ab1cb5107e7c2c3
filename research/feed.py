"""Training batches: items drawn in worker processes, encoded, and stacked by padded length."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator, Iterator
from itertools import islice
from multiprocessing import get_context
from multiprocessing.pool import AsyncResult

import numpy as np
import numpy.typing as npt

from backends.family.sizes import BUCKETS
from evaluation.skills import LEVELS, SKILLS
from research.tokens import PAD, encode_answer, encode_chat

SEED = 2026
PROMPT_WEIGHT = 0.02  # of a prompt token's loss, beside an answer token's length ** -0.5
SYSTEM_SHARE = 0.03  # of the training items, with a system message in front
Batch = tuple[npt.NDArray[np.int16], npt.NDArray[np.float16]]  # ids and loss weights, (rows, length)
SYSTEM_MESSAGES = ("You are a helpful assistant.", "Answer briefly.", "Answer with the result only.")


def encoded(generator: random.Random) -> tuple[list[int], list[float]]:
    """One training item as tokens and the loss weight of predicting each of them."""
    skill = generator.choices(list(SKILLS.values()), [skill.share for skill in SKILLS.values()])[0]
    item = skill.draw(generator, difficulty=generator.choices(LEVELS, skill.levels)[0], split="train")
    system = generator.choice(SYSTEM_MESSAGES) if generator.random() < SYSTEM_SHARE else None
    head, tail = encode_chat(item.prompt, system=system), encode_answer(item.answer)
    return head + tail, [PROMPT_WEIGHT] * len(head) + [len(tail) ** -0.5] * len(tail)


def rows_per_bucket(items_per_step: int) -> list[int]:
    """How many rows of each length a step takes: the lengths' own shares among 20,000 drawn items."""
    generator = random.Random(SEED)
    lengths = [len(encoded(generator)[0]) for _ in range(20_000)]
    counts = np.bincount(np.searchsorted(BUCKETS, lengths), minlength=len(BUCKETS) + 1)[: len(BUCKETS)]
    return [max(1, round(items_per_step * share)) for share in counts / len(lengths)]


def shard(number: int, rows: list[int], steps: int) -> list[list[Batch]]:
    """Whole steps of one shard: for each step a batch per bucket; deterministic in the shard's number."""
    generator = random.Random(SEED * 1_000_003 + number)
    waiting: list[list[tuple[list[int], list[float]]]] = [[] for _ in BUCKETS]
    while any(len(queue) < steps * count for queue, count in zip(waiting, rows, strict=True)):
        ids, weights = encoded(generator)
        fitting = int(np.searchsorted(BUCKETS, len(ids)))
        if fitting < len(BUCKETS) and len(waiting[fitting]) < steps * rows[fitting]:
            waiting[fitting].append((ids, weights))
    return [
        [
            _stacked(queue[step * n : (step + 1) * n], length)
            for queue, n, length in zip(waiting, rows, BUCKETS, strict=True)
        ]
        for step in range(steps)
    ]


def _stacked(items: list[tuple[list[int], list[float]]], length: int) -> Batch:
    ids = np.full((len(items), length), PAD, np.int16)
    weights = np.zeros((len(items), length), np.float16)
    for row, (tokens, weight) in enumerate(items):
        ids[row, : len(tokens)], weights[row, : len(tokens)] = tokens, weight
    return ids, weights


def batches(
    steps: int, rows: list[int], *, workers: int, steps_per_shard: int = 20, first_shard: int = 0
) -> Generator[list[Batch]]:
    """Yield `steps` steps in order, the same whatever the number of workers; a few shards are made ahead."""
    numbers = iter(range(first_shard, first_shard - (-steps // steps_per_shard)))
    done = 0
    with get_context("spawn").Pool(workers) as pool:

        def ordered(count: int) -> Iterator[AsyncResult[list[list[Batch]]]]:
            return (pool.apply_async(shard, (number, rows, steps_per_shard)) for number in islice(numbers, count))

        ahead = deque(ordered(2 * workers))
        while ahead:
            made = ahead.popleft().get()
            ahead.extend(ordered(1))
            yield from made[: steps - done]
            done += len(made)
