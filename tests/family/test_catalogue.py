"""The catalogue: its candidates are in the packed weights, and what it says of them is so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.anyprec.store import Store
from backends.family import catalogue
from backends.family.catalogue import CATALOGUE, WEIGHTS, Candidate
from evaluation.skills import SKILLS
from research import report, scores

EACH = pytest.mark.parametrize("candidate", CATALOGUE, ids=lambda candidate: candidate.name)


@EACH
def test_a_candidate_is_a_width_of_a_packed_store(candidate: Candidate) -> None:
    store = Store.open(WEIGHTS[candidate.parent])
    assert candidate.bits in store.bits
    assert candidate.name == f"{candidate.parent}@{candidate.bits}bit"
    assert store.config["max_position_embeddings"] == candidate.context_tokens


@EACH
def test_a_candidate_has_the_parameters_it_says(candidate: Candidate) -> None:
    store = Store.open(WEIGHTS[candidate.parent], verify_files=False)
    linear = sum(rows * columns for rows, columns in map(store.shape, store.layers))
    norms = sum(store.tensor(n).size for n in _norms(store.config["num_hidden_layers"]))
    assert linear + norms + store.tensor("model.embed_tokens.weight").size == candidate.parameters


def _norms(layers: int) -> list[str]:
    each = ("input_layernorm", "post_attention_layernorm")
    return ["model.norm.weight", *(f"model.layers.{i}.{name}.weight" for i in range(layers) for name in each)]


def test_prices_rise_with_size_and_with_bits() -> None:
    prices = [candidate.completion_usd for candidate in CATALOGUE]
    assert prices == sorted(prices)
    assert len(set(prices)) == len(prices)


def test_all_packed_weights_together_take_at_most_16_megabytes() -> None:
    folder = Path(catalogue.__file__).parent
    files = [*folder.glob("stores/**/*.safetensors"), *folder.glob("full/**/*.safetensors")]
    assert sum(file.stat().st_size for file in files) <= 16_000_000


def test_the_measured_ladder_rises_with_size_and_with_bits() -> None:
    kept = scores.load()
    mean = dict(zip(kept.candidates, kept.means(), strict=True))
    for name in WEIGHTS:
        widths = [mean[candidate.name] for candidate in CATALOGUE if candidate.parent == name]
        assert widths == sorted(set(widths))
    for bits in (3, 4, 5, 6):
        assert mean[f"small@{bits}bit"] < mean[f"medium@{bits}bit"] < mean[f"large@{bits}bit"]


def test_cheapest_and_most_expensive_are_25_points_apart_and_yet_equal_on_easy_skills() -> None:
    offered = report.offered(scores.load())
    assert offered.means()[-1] - offered.means()[0] >= 0.25
    assert report.easy_skills(offered, among=offered.candidates[0])
    assert len(report.easy_skills(offered, among="small")) >= 5


def test_no_candidate_is_the_cheapest_of_the_best_everywhere() -> None:
    offered = report.offered(scores.load())
    chosen = report.by_cell(offered)
    assert len(set(chosen.tolist())) >= 4


def test_an_oracle_answers_as_well_as_the_largest_for_less() -> None:
    offered = report.offered(scores.load())
    largest = report.outcome(offered, np.full(len(offered.skills), len(offered.candidates) - 1))
    routed = report.outcome(offered, report.by_cell(offered))
    assert routed[0] >= largest[0] - 1.0
    assert routed[1] < 0.8 * largest[1]


def test_the_tables_name_every_skill_and_candidate() -> None:
    kept = scores.load()
    lines = "\n".join([*report.accuracy(kept), *report.routing(report.offered(kept))])
    assert all(f"| {skill} |" in lines for skill in SKILLS)
    assert all(candidate.name in lines for candidate in CATALOGUE)
