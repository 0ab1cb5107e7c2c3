"""Reads low-rank adapters in PEFT's format from a store's `adapters` folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backends.anyprec.checkpoint import read_json
from backends.anyprec.engine.weights import Adapter
from backends.anyprec.errors import Corrupt, Unsupported
from backends.anyprec.names import WIDTH_KEY
from backends.anyprec.store import Store
from backends.anyprec.tensors import TensorFolder, read_metadata

FOLDER = "adapters"
WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
PREFIX = "base_model.model."


def adapters_of(store: Store) -> list[Adapter]:
    """Every adapter in a store's `adapters` folder, by folder name."""
    folder = store.folder / FOLDER
    return [read_adapter(each, store) for each in sorted(folder.iterdir())] if folder.is_dir() else []


def read_adapter(folder: Path, store: Store) -> Adapter:
    """Raises: Corrupt, Unsupported for one that does not fit the store."""
    config = read_json(folder / CONFIG_NAME)
    tensors = TensorFolder(folder / WEIGHTS_NAME)
    bits = int(read_metadata(folder / WEIGHTS_NAME).get(WIDTH_KEY, max(store.bits)))
    if bits not in store.bits:
        raise Unsupported(f"{folder} compensates {bits} bits; the store has {list(store.bits)}")
    factors = {}
    for name in tensors.names:
        if name.endswith(".lora_A.weight"):
            layer = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            a, b = tensors.read(name), tensors.read(name.replace("lora_A", "lora_B"))
            if layer not in store.layers or (b.shape[0], a.shape[1]) != store.shape(layer) or len(a) != b.shape[1]:
                raise Corrupt(f"{folder}: {layer} does not fit the store")
            factors[layer] = (np.ascontiguousarray(a), np.ascontiguousarray(b))
    return Adapter(folder.name, bits, float(config["lora_alpha"]) / float(config["r"]), factors)
