"""The format: packing, sizes, checksums."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from backends.anyprec import store as format_
from backends.anyprec.errors import Corrupt, Unsupported
from backends.anyprec.store import Store
from backends.family.packed import STORES
from benchmarks.random_store import SHAPES, write_store


@pytest.mark.parametrize("columns", [1, 31, 32, 48, 100])
def test_codes_survive_packing_at_any_number_of_columns(columns: int) -> None:
    codes = np.random.default_rng(columns).integers(0, 256, (6, columns), dtype=np.uint8)
    planes = format_.pack(codes, parent_bits=8)
    assert planes.shape == (8, 6, -(-columns // 32))
    np.testing.assert_array_equal(format_.unpack(planes, columns=columns), codes)


def test_the_layout_is_the_one_the_format_names() -> None:
    codes = np.zeros((2, 40), np.uint8)
    codes[1, 37] = 0b100
    planes = format_.pack(codes, parent_bits=3)
    assert planes[0, 1, 1] == 1 << 5
    assert planes.sum() == 1 << 5


def test_a_narrow_code_is_the_prefix_of_the_widest(store_folder: Path) -> None:
    store = Store.open(store_folder)
    for layer in store.layers:
        widest = store.codes(layer, 8)
        for k in store.bits:
            np.testing.assert_array_equal(store.codes(layer, k), widest >> (8 - k))


def test_weights_come_closer_with_every_bit(store_folder: Path, checkpoint: Path) -> None:
    store = Store.open(store_folder)
    original = format_.TensorFolder(checkpoint)
    for layer in store.layers:
        exact = original.read(f"{layer}.weight")
        errors = [float(((store.dequantize(layer, k) - exact) ** 2).sum()) for k in store.bits]
        assert errors == sorted(errors, reverse=True)


def test_matmul_multiplies_by_the_dequantized_weights(store_folder: Path) -> None:
    store = Store.open(store_folder)
    layer = store.layers[0]
    x = np.random.default_rng(0).normal(size=(3, store.shape(layer)[1])).astype(np.float32)
    table, codes = store.table(layer, 5), store.codes(layer, 5)
    group = codes.shape[0] // table.shape[0]
    expected = [
        [sum(table[r // group, c] * v for c, v in zip(codes[r], row, strict=True)) for r in range(4)] for row in x
    ]
    np.testing.assert_allclose(store.matmul(x, layer, 5)[:, :4], expected, rtol=1e-4, atol=1e-5)


def test_the_size_on_disk_is_the_formula_and_the_headers(store_folder: Path) -> None:
    store = Store.open(store_folder)
    shards = list(store_folder.glob("*.safetensors"))
    headers = sum(8 + int.from_bytes(file.read_bytes()[:8], "little") for file in shards)
    assert sum(file.stat().st_size for file in shards) - headers == store.payload_bytes()


def test_bytes_a_weight_follow_the_papers_formula() -> None:
    assert format_.bytes_per_weight(4096, 4096, bits=(3, 6)) == pytest.approx(6 / 8 + 2 * (8 + 64) / 4096)
    assert format_.bytes_per_weight(64, 256, bits=range(3, 9), rows_per_table=16) == pytest.approx(1 + 1008 / 256 / 16)


@pytest.mark.parametrize("name", ["model-00001-of-00003.safetensors", "tokenizer.json", "model.safetensors.index.json"])
def test_an_edited_file_is_refused(store_folder: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(store_folder, tmp_path / "copy")
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(Corrupt, match=name):
        Store.open(copy)


def test_a_truncated_file_is_refused_even_unverified(store_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store_folder, tmp_path / "copy")
    file = copy / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    for verify_files in (True, False):
        with pytest.raises(Corrupt, match=file.name):
            Store.open(copy, verify_files=verify_files)


def test_a_missing_file_is_refused(store_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store_folder, tmp_path / "copy")
    (copy / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(Corrupt, match="model-00002"):
        Store.open(copy)


def test_an_edited_config_is_refused(store_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store_folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["num_hidden_layers"] = 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(Corrupt, match=r"config\.json"):
        Store.open(copy)


def test_what_is_no_store_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="anyprec"):
        Store.open(checkpoint)
    with pytest.raises(Corrupt):
        Store.open(tmp_path)


def test_a_width_that_was_not_stored_is_refused(store_folder: Path) -> None:
    store = Store.open(store_folder)
    with pytest.raises(Unsupported, match="width 2"):
        store.dequantize(store.layers[0], 2)


def test_every_store_says_the_activations_that_the_gpu_kernels_take(store_folder: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "random", SHAPES["tiny"], bits=(3, 4))
    for folder in (store_folder, tmp_path / "random", *STORES.values()):
        config = json.loads((folder / "config.json").read_text())
        assert config.get("dtype", config.get("torch_dtype")) == "bfloat16", folder
        Store.open(folder)  # its checksums stand
