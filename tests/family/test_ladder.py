"""The ladder, climbed again with the numpy engine on a few held-out items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.anyprec.engine.service import Loaded
from backends.family.packed import STORES
from evaluation.skills import Item, grade, sample
from research import ladder, report, scores


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
    kept = scores.load()
    row = kept.candidates.index("small@4bit")
    per_cell = len(kept.skills) // len(set(zip(kept.skills, kept.difficulties, strict=True)))
    items = scores.drawn(per_cell)[:34]
    texts = ladder.answer(loaded["small"], items, bits=4)
    found = [grade(item, text) for item, text in zip(items, texts, strict=True)]
    assert found == pytest.approx(kept.scores[row, :34], abs=0.051)


def test_scores_come_back_from_their_file(tmp_path: Path) -> None:
    kept = scores.load()
    scores.save(kept, tmp_path / "ladder.json")
    again = scores.load(tmp_path / "ladder.json")
    assert again.candidates == kept.candidates
    assert np.array_equal(again.scores, kept.scores)


def test_a_stopped_measurement_continues_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "scores.json"
    ladder.measure(1, names=["small"], file=file, widths=[3])
    first = scores.load(file)
    assert first.candidates == ["small@3bit"]
    assert scores.per_cell_of(first) == 1
    asked: list[int] = []

    def note(loaded: Loaded, items: list[Item], *, bits: int) -> list[str]:
        asked.append(bits)
        return [item.answer for item in items]

    monkeypatch.setattr(ladder, "answer", note)
    ladder.measure(1, names=["small"], file=file, widths=[3, 4])
    assert set(asked) == {4}
    again = scores.load(file)
    assert again.candidates == ["small@3bit", "small@4bit"]
    assert np.array_equal(again.scores[0], first.scores[0])
    assert again.scores[1].all()


def test_a_further_bit_is_told_with_the_interval_of_what_it_wins() -> None:
    items = scores.drawn(1)
    better = [1.0] * 85 + [0.0] * 85
    made = scores.ladder_of({"small@3bit": [0.0] * 170, "small@4bit": better, "medium@3bit": better}, items)
    lines = report.steps(made)
    assert len(lines) == 3  # a head, its rule, and the one step inside a size
    assert lines[-1] == "| small@3bit | small@4bit | 0.00 | 50.00 | 42.48 … 57.52 | 170 |"
    assert report.spread(made)[1] == pytest.approx(7.52, abs=0.01)
