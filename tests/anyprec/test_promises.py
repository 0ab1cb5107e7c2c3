"""What widths cost and compensation wins on the family's own medium model, on items it never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from backends.anyprec.compensate import compensate, write_adapter
from backends.anyprec.engine.adapters import read_adapter
from backends.anyprec.engine.llama import Llama
from backends.anyprec.engine.reference import FULL, full_precision
from backends.anyprec.engine.weights import Variant, Weights
from backends.anyprec.store import Store
from backends.family import packed
from backends.family.skills import sample
from backends.family.tokens import encode_answer, encode_chat

ITEMS = 128
CALIBRATION_ITEMS = 96
FULL_FOLDER = Path(packed.__file__).parent / "full" / "medium"


@dataclass(frozen=True)
class Loss:
    """Mean negative log-likelihood of a token, in nats."""

    text: float  # questions and answers
    answers: float


def loss(model: Llama, variant: Variant, items: Sequence[tuple[list[int], list[int]]]) -> Loss:
    told = [-model.log_probabilities(head + tail, variant) for head, tail in items]
    answers = [each[len(head) - 1 :] for each, (head, _) in zip(told, items, strict=True)]
    return Loss(float(np.concatenate(told).mean()), float(np.concatenate(answers).mean()))


def drawn(count: int, *, split: str) -> list[tuple[list[int], list[int]]]:
    items = sample(count, rng=np.random.default_rng(23), split=split)
    return [(encode_chat(item.prompt), encode_answer(item.answer)) for item in items]


@pytest.fixture(scope="module")
def store() -> Store:
    return Store.open(packed.STORES["medium"])


@pytest.fixture(scope="module")
def held_out() -> list[tuple[list[int], list[int]]]:
    return drawn(ITEMS, split="test")


@pytest.fixture(scope="module")
def losses(store: Store, held_out: list[tuple[list[int], list[int]]]) -> dict[int, Loss]:
    """By width; 32 is full precision."""
    model = Llama(Weights(store))
    found = {bits: loss(model, Variant(bits), held_out) for bits in store.bits}
    return found | {32: loss(Llama(full_precision(FULL_FOLDER)), FULL, held_out)}


def test_perplexity_falls_with_every_bit(losses: dict[int, Loss]) -> None:
    in_order = [losses[bits].text for bits in sorted(losses) if bits <= 8]
    assert in_order == sorted(in_order, reverse=True)


def test_eight_bits_stay_within_a_hundredth_of_full_precision(losses: dict[int, Loss]) -> None:
    assert math.exp(losses[8].text) <= 1.01 * math.exp(losses[32].text)
    assert math.exp(losses[8].answers) <= 1.01 * math.exp(losses[32].answers)


def test_rank_sixteen_wins_back_a_third_of_what_three_bits_lose(
    store: Store, losses: dict[int, Loss], held_out: list[tuple[list[int], list[int]]], tmp_path: Path
) -> None:
    chats = [head + tail for head, tail in drawn(CALIBRATION_ITEMS, split="train")]
    found = compensate(store, FULL_FOLDER, chats, bits=3, rank=16)
    assert all(report.compensated < report.plain_svd for report in found.reports)
    write_adapter(found, tmp_path / "eora", base="medium")
    mended = loss(Llama(Weights(store, [read_adapter(tmp_path / "eora", store)])), Variant(3, "eora"), held_out)
    assert losses[3].answers - mended.answers >= (losses[3].answers - losses[32].answers) / 3
