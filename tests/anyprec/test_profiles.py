"""Fractional widths: a profile of a store is one more width, and only of that store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from backends.anyprec.engine.llama import Cache, NewTokens
from backends.anyprec.engine.requests import Rejected
from backends.anyprec.engine.service import Loaded, Service
from backends.anyprec.engine.weights import PARTS, Variant
from backends.anyprec.errors import Corrupt, Unsupported
from backends.anyprec.profiles import Profile, file_of, part_widths, read_profiles
from backends.anyprec.profiling import Divergences, add_distances, choose_widths, run
from backends.anyprec.quantize import quantize
from backends.anyprec.store import Store
from tests.anyprec.llamas import write_llama


@pytest.fixture(scope="module")
def folder(store_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(store_folder, tmp_path_factory.mktemp("profiled") / "small"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(" ".join(f"{i} and {i * i % 97} are two." for i in range(40)))
    return file


@pytest.fixture(scope="module")
def profile(folder: Path, text: Path) -> Profile:
    return run(folder, bits=3.5, calibration=text)


def test_a_profile_has_a_stored_width_for_every_layer_and_at_most_the_mean_asked_for(
    folder: Path, profile: Profile
) -> None:
    store = Store.open(folder)
    assert set(profile.widths) == set(store.layers)
    assert set(profile.widths.values()) <= set(store.bits)
    assert 3.4 < profile.mean_bits <= 3.5
    (read,) = read_profiles(folder, store.config)
    assert (read.bits, read.widths) == (3.5, profile.widths)
    assert (read.mean_bits, read.distance) == pytest.approx((profile.mean_bits, profile.distance), abs=1e-6)


def test_measured_layers_lose_less_than_layers_by_chance(folder: Path, profile: Profile, text: Path) -> None:
    store = Store.open(folder)
    divergences = Divergences(store, [list(text.read_bytes()[:120]), list(text.read_bytes()[200:320])])
    rng = np.random.default_rng(0)
    sizes = {layer: np.prod(store.shape(layer)) for layer in store.layers}
    drawn = []
    for _ in range(8):
        widths, left = dict.fromkeys(store.layers, 3), 0.5 * sum(sizes.values())
        for layer in rng.permutation(store.layers):
            if sizes[layer] <= left:
                widths[str(layer)], left = 4, left - sizes[layer]
        drawn.append(divergences.of(widths))
    assert divergences.of(profile.widths) < min(drawn)


def test_layers_are_read_at_the_profiles_widths(folder: Path, profile: Profile) -> None:
    weights, store = Loaded("small", folder).model.weights, Store.open(folder)
    for part, names in PARTS.items():
        layers = [f"model.layers.1.{name}" for name in names]
        wanted = np.concatenate([store.dequantize(layer, profile.widths[layer]) for layer in layers])
        assert np.array_equal(weights.matrix(Variant(3.5), 1, part), wanted)


def test_a_profile_and_plain_widths_answer_in_one_batch_as_they_do_alone(folder: Path, profile: Profile) -> None:
    model = Loaded("small", folder).model
    variants = [Variant(3), Variant(3.5), Variant(4), Variant(8)]
    tokens = list(b"What is in a batch?")
    fresh = lambda v: NewTokens(tokens, Cache(model.shape, len(tokens)), v)  # noqa: E731
    together = model.forward([fresh(each) for each in variants])
    for row, variant in zip(together, variants, strict=True):
        assert row == pytest.approx(model.forward([fresh(variant)])[0], abs=1e-4)
    assert not np.allclose(together[0], together[1])


def test_the_engine_lists_a_profile_and_takes_it_by_name_and_by_number(folder: Path, profile: Profile) -> None:
    service = Service({"small": folder})
    try:
        assert "small@3.5bit" in [model.name for model in service.models()]
        assert service.resolve("small@3.5bit")[1] == Variant(3.5)
        assert service.resolve("small", {"anyprec_bits": 3.5})[1] == Variant(3.5)
        with pytest.raises(Rejected, match=r"no 3.25bit; it has 3bit, 3.5bit, 4bit"):
            service.resolve("small@3.25bit")
    finally:
        service.close()


def test_a_profile_of_another_store_is_refused_by_name(
    folder: Path, profile: Profile, text: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    quantize(write_llama(tmp_path / "checkpoint", seed=5), other, bits=(3, 4), rows_per_table=8)
    shutil.copytree(folder / "profiles", other / "profiles")
    with pytest.raises(Unsupported, match=r"3.5bit.json is a profile of another store"):
        Loaded("other", other)
    with pytest.raises(Unsupported, match="of another store"):
        run(other, bits=3.25, calibration=text)
    assert [file.name for file in (other / "profiles").iterdir()] == ["3.5bit.json"]


def test_an_edited_profile_is_refused_by_name(folder: Path, profile: Profile, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "small"))
    file = file_of(copy, 3.5)
    content = json.loads(file.read_text())
    content["widths"]["model.layers.0.mlp.up_proj"] = 8
    file.write_text(json.dumps(content))
    with pytest.raises(Corrupt, match=r"3.5bit.json was edited"):
        Loaded("small", copy)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_calibration_text_is_refused_before_anything_is_written(
    store_folder: Path, tmp_path: Path, content: str
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text(content)
    with pytest.raises(Unsupported, match=r"calibration text .*empty.jsonl is empty"):
        run(store_folder, bits=3.25, calibration=empty)
    assert not (store_folder / "profiles").exists()


@pytest.mark.parametrize("bits", [3.0, 2.5, 8.5, 3.333, float("nan")])
def test_what_is_no_fraction_between_two_widths_is_refused(store_folder: Path, bits: float) -> None:
    with pytest.raises(Unsupported, match="lies between the store's widths 3, 4, 5, 6, 7, 8"):
        choose_widths(Store.open(store_folder), [[1, 2]], bits=bits)


def test_an_engine_that_fuses_layers_reads_each_part_at_its_own_width() -> None:
    at = "model.layers.0.self_attn"
    widths = {f"{at}.q_proj": 3, f"{at}.k_proj": 4, f"{at}.v_proj": 4, f"{at}.o_proj": 4}
    profiles = [Profile(3.25, 3.25, widths)]
    assert part_widths(f"{at}.qkv_proj", (3, 4), profiles) == [
        {3: 3, 4: 4, 3.25: 3},
        {3: 3, 4: 4, 3.25: 4},
        {3: 3, 4: 4, 3.25: 4},
    ]
    assert part_widths(f"{at}.o_proj", (3, 4), profiles) == [{3: 3, 4: 4, 3.25: 4}]
    assert part_widths(f"{at}.qkv_proj", (3, 4), []) == [{3: 3, 4: 4}] * 3


def test_what_each_width_loses_is_measured_into_the_stores_config(
    folder: Path, profile: Profile, text: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "small"))
    found = add_distances(copy, text)
    store = Store.open(copy)  # its digest holds
    assert store.distances == found
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert found[8] == 0.0
    distances = {model.bits: model.distance for model in Loaded("small", copy).models() if model.parent}
    assert distances == {**found, 3.5: pytest.approx(profile.distance, abs=1e-6)}
    assert found[4] < (profile.distance or 0) < found[3]
