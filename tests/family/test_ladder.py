"""The ladder, climbed again with the numpy engine on a few held-out items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.anyprec.engine.service import Loaded
from backends.family import ladder
from backends.family.packed import STORES
from backends.family.skills import grade, sample


@pytest.fixture(scope="module")
def loaded() -> dict[str, Loaded]:
    return {name: Loaded(name, STORES[name]) for name in ("small", "large")}


def score(loaded: Loaded, skill: str, *, bits: int, n: int = 15) -> float:
    items = sample(n, rng=np.random.default_rng(11), skills=[skill])
    texts = ladder.answer(loaded, items, bits=bits)
    return float(np.mean([grade(item, text) for item, text in zip(items, texts, strict=True)]))


def test_the_largest_beats_the_smallest_on_a_table_of_facts(loaded: dict[str, Loaded]) -> None:
    assert score(loaded["large"], "extension", bits=8) >= score(loaded["small"], "extension", bits=4) + 0.5


def test_the_smallest_keeps_up_on_an_easy_skill(loaded: dict[str, Loaded]) -> None:
    assert score(loaded["small"], "parity", bits=4) >= score(loaded["large"], "parity", bits=8) - 0.07


def test_more_bits_recover_more_facts(loaded: dict[str, Loaded]) -> None:
    assert score(loaded["large"], "extension", bits=8) > score(loaded["large"], "extension", bits=3)


def test_kept_scores_are_those_of_the_packed_weights(loaded: dict[str, Loaded]) -> None:
    kept = ladder.load()
    row = kept.candidates.index("small@4bit")
    per_cell = len(kept.skills) // len(set(zip(kept.skills, kept.difficulties, strict=True)))
    items = ladder.drawn(per_cell)[:34]
    texts = ladder.answer(loaded["small"], items, bits=4)
    found = [grade(item, text) for item, text in zip(items, texts, strict=True)]
    assert found == pytest.approx(kept.scores[row, :34], abs=0.051)


def test_scores_come_back_from_their_file(tmp_path: Path) -> None:
    kept = ladder.load()
    ladder.save(kept, tmp_path / "ladder.json")
    again = ladder.load(tmp_path / "ladder.json")
    assert again.candidates == kept.candidates
    assert np.array_equal(again.scores, kept.scores)
