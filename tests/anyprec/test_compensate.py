"""Low-rank compensation: better than plain SVD on every layer, and servable as one more candidate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backends.anyprec.adapter_budget import adapter_bytes, within_bytes
from backends.anyprec.calibration import read_texts
from backends.anyprec.compensate import compensate, low_rank, output_norm, plain_low_rank, run
from backends.anyprec.engine.adapters import read_adapter
from backends.anyprec.engine.llama import Cache, NewTokens
from backends.anyprec.engine.service import Loaded
from backends.anyprec.engine.tokenizer import Tokenizer
from backends.anyprec.engine.weights import Variant
from backends.anyprec.errors import Unsupported
from backends.anyprec.profiling import Divergences
from backends.anyprec.quantize import quantize
from backends.anyprec.store import Store


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[int(t) for t in rng.integers(32, 127, 60)] for _ in range(24)]


def test_no_factors_of_that_rank_leave_less_output_error() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 24)) @ rng.normal(size=(24, 24))
    covariance, delta = x.T @ x / len(x), rng.normal(size=(30, 24)).astype(np.float32)
    a, b = low_rank(delta, covariance, rank=4, damping=0.0)
    values = np.linalg.svd(delta @ x.T / np.sqrt(len(x)), compute_uv=False)
    assert output_norm(delta - b @ a, covariance) == pytest.approx(np.sqrt((values[4:] ** 2).sum()), rel=1e-4)


def test_inputs_that_span_too_little_do_no_harm() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 16))  # three inputs, sixteen dimensions
    delta = rng.normal(size=(8, 16)).astype(np.float32)
    a, b = low_rank(delta, x.T @ x / 3, rank=4)
    assert np.isfinite(a).all()
    assert np.linalg.norm(b @ a) < 3 * np.linalg.norm(delta)


def test_every_layer_does_better_than_plain_svd_of_the_same_rank(
    store_folder: Path, checkpoint: Path, texts: list[list[int]]
) -> None:
    found = compensate(Store.open(store_folder), checkpoint, texts, bits=3, rank=4)
    assert len(found.reports) == 14
    for report in found.reports:
        assert report.compensated < report.plain_svd < report.uncompensated, report.layer


def test_plain_svd_is_the_best_for_the_weights_themselves() -> None:
    delta = np.random.default_rng(2).normal(size=(12, 9)).astype(np.float32)
    a, b = plain_low_rank(delta, rank=3)
    values = np.linalg.svd(delta, compute_uv=False)
    assert np.linalg.norm(delta - b @ a) == pytest.approx(np.sqrt((values[3:] ** 2).sum()), rel=1e-5)


def test_an_adapter_is_one_more_candidate_and_brings_logits_closer(
    checkpoint: Path, tmp_path: Path, texts: list[list[int]]
) -> None:
    out = tmp_path / "small"
    quantize(checkpoint, out, bits=(3, 8), rows_per_table=8)
    lines = [json.dumps({"messages": [{"role": "user", "content": bytes(text).decode()}]}) for text in texts]
    (tmp_path / "calibration.jsonl").write_text("\n".join(lines))
    run(out, checkpoint=checkpoint, text=tmp_path / "calibration.jsonl", bits=3, rank=8, name="eora")
    loaded = Loaded("small", out)
    assert [model.name for model in loaded.models()] == ["small", "small@3bit", "small@8bit", "small@3bit+eora"]
    rng = np.random.default_rng(9)
    tokens = [257, *(int(t) for t in rng.integers(32, 127, 60)), 260]

    def logits(variant: Variant) -> np.ndarray:
        return loaded.model.forward([NewTokens(tokens, Cache(loaded.model.shape, 64), variant)], every_position=True)

    reference = logits(Variant(8))
    assert np.linalg.norm(logits(Variant(3, "eora")) - reference) < np.linalg.norm(logits(Variant(3)) - reference)


def test_the_adapter_has_pefts_names_and_shapes(checkpoint: Path, tmp_path: Path, texts: list[list[int]]) -> None:
    out = tmp_path / "small"
    quantize(checkpoint, out, bits=(3, 4), rows_per_table=8)
    (tmp_path / "text.txt").write_bytes(b"\n".join(bytes(text) for text in texts))
    run(out, checkpoint=checkpoint, text=tmp_path / "text.txt", bits=4, rank=4)
    config = json.loads((out / "adapters" / "eora" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 4)
    adapter = read_adapter(out / "adapters" / "eora", Store.open(out))
    assert (adapter.bits, adapter.scale) == (4, 1.0)
    a, b = adapter.factors["model.layers.1.mlp.down_proj"]
    assert (a.shape, b.shape) == ((4, 96), (48, 4))


def test_chats_are_read_through_the_template_and_text_in_windows(store_folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(store_folder)
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat) + "\n")
    assert read_texts(tmp_path / "chats.jsonl", tokenizer, window=64) == [[257, *b"hi", 260, 258, *b"yo", 260]]
    (tmp_path / "plain.txt").write_text("abcdefg")
    assert read_texts(tmp_path / "plain.txt", tokenizer, window=3) == [[*b"abc"], [*b"def"], [*b"g"]]


def test_widths_and_ranks_that_are_not_there_are_refused(store_folder: Path, checkpoint: Path) -> None:
    store = Store.open(store_folder)
    for bits, rank in ((2, 4), (3, 0), (3, 1000)):
        with pytest.raises(Unsupported, match=f"{bits} bits at rank {rank}"):
            compensate(store, checkpoint, [[1, 2]], bits=bits, rank=rank)
    with pytest.raises(Unsupported, match="empty"):
        compensate(store, checkpoint, [], bits=3, rank=4)


def test_within_a_bound_of_bytes_the_layers_are_kept_that_gain_most(
    store_folder: Path, checkpoint: Path, texts: list[list[int]]
) -> None:
    store = Store.open(store_folder)
    every = compensate(store, checkpoint, texts, bits=3, rank=4).factors
    bound = adapter_bytes(every) // 3
    kept = within_bytes(store, every, texts, bits=3, most_bytes=bound)
    assert 0 < adapter_bytes(kept) <= bound
    assert all(kept[layer] is every[layer] for layer in kept)
    divergences, widths, rng = Divergences(store, texts), dict.fromkeys(store.layers, 3), np.random.default_rng(0)
    by_chance = []
    for _ in range(8):
        drawn: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for layer in rng.permutation(list(every)):
            if adapter_bytes({**drawn, layer: every[layer]}) <= bound:
                drawn[str(layer)] = every[layer]
        by_chance.append(divergences.of(widths, drawn))
    assert divergences.of(widths, every) < divergences.of(widths, kept) < np.mean(by_chance) < divergences.of(widths)


def test_a_bound_that_holds_no_layer_is_refused(store_folder: Path, checkpoint: Path, texts: list[list[int]]) -> None:
    store = Store.open(store_folder)
    every = compensate(store, checkpoint, texts, bits=3, rank=4).factors
    with pytest.raises(Unsupported, match="100 bytes hold no layer of the adapter"):
        within_bytes(store, every, texts, bits=3, most_bytes=100)
