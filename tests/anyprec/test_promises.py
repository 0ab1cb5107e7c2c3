"""What widths cost and compensation wins on the family's own models, on items they never saw."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from backends.anyprec.compensate import compensate, write_adapter
from backends.anyprec.engine.adapters import read_adapter
from backends.anyprec.engine.llama import Llama
from backends.anyprec.engine.weights import Variant, Weights
from backends.anyprec.quantize import quantize
from backends.anyprec.store import Store
from backends.family import packed
from benchmarks.full_precision import FULL as AS_IT_IS
from benchmarks.full_precision import full_precision
from evaluation.skills import sample
from research.tokens import encode_answer, encode_chat

ITEMS = 128
CALIBRATION_ITEMS = 96
FULL = Path(packed.__file__).parent / "full"


@dataclass(frozen=True)
class Loss:
    """Mean negative log-likelihood of a token, in nats."""

    text: float  # questions and answers
    answers: float


def loss(model: Llama, variant: Variant, items: Sequence[tuple[list[int], list[int]]]) -> Loss:
    reported = [-model.log_probabilities(head + tail, variant) for head, tail in items]
    answers = [each[len(head) - 1 :] for each, (head, _) in zip(reported, items, strict=True)]
    return Loss(float(np.concatenate(reported).mean()), float(np.concatenate(answers).mean()))


def drawn(count: int, *, split: str) -> list[tuple[list[int], list[int]]]:
    items = sample(count, rng=np.random.default_rng(23), split=split)
    return [(encode_chat(item.prompt), encode_answer(item.answer)) for item in items]


@pytest.fixture(scope="module")
def held_out() -> list[tuple[list[int], list[int]]]:
    return drawn(ITEMS, split="test")


@pytest.fixture(scope="module")
def losses(held_out: list[tuple[list[int], list[int]]]) -> Callable[[Path], dict[int, Loss]]:
    """Of a store, by width."""

    @functools.cache
    def by_width(folder: Path) -> dict[int, Loss]:
        store = Store.open(folder)
        model = Llama(Weights(store))
        return {bits: loss(model, Variant(bits), held_out) for bits in store.bits}

    return by_width


@pytest.mark.parametrize("name", ["small", "medium", "large"])
def test_perplexity_falls_with_every_bit(name: str, losses: Callable[[Path], dict[int, Loss]]) -> None:
    found = losses(packed.STORES[name])
    in_order = [found[bits].text for bits in sorted(found)]
    assert in_order == sorted(in_order, reverse=True)


def test_eight_bits_stay_within_a_hundredth_of_full_precision(
    losses: Callable[[Path], dict[int, Loss]], held_out: list[tuple[list[int], list[int]]], tmp_path: Path
) -> None:
    """The packed store of `small` ends at 6 bits, so it is quantized to 8 here."""
    quantize(FULL / "small", tmp_path, bits=(3, 8), rows_per_table=16)
    narrowed, full = losses(tmp_path)[8], loss(Llama(full_precision(FULL / "small")), AS_IT_IS, held_out)
    assert math.exp(narrowed.text) <= 1.01 * math.exp(full.text)
    assert math.exp(narrowed.answers) <= 1.01 * math.exp(full.answers)


def test_rank_sixteen_wins_back_a_third_of_what_three_bits_lose(
    losses: Callable[[Path], dict[int, Loss]], held_out: list[tuple[list[int], list[int]]], tmp_path: Path
) -> None:
    store, without = Store.open(packed.STORES["medium"]), losses(packed.STORES["medium"])[3]
    full = loss(Llama(full_precision(FULL / "medium")), AS_IT_IS, held_out)
    chats = [head + tail for head, tail in drawn(CALIBRATION_ITEMS, split="train")]
    found = compensate(store, FULL / "medium", chats, bits=3, rank=16)
    assert all(report.compensated < report.plain_svd for report in found.reports)
    write_adapter(found, tmp_path / "eora", base="medium")
    mended = loss(Llama(Weights(store, [read_adapter(tmp_path / "eora", store)])), Variant(3, "eora"), held_out)
    assert without.answers - mended.answers >= (without.answers - full.answers) / 3
