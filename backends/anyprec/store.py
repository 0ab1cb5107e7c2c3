"""One artefact, every width: bit planes, one table per width, checksums, and the numpy reference that reads them.

A store is a folder in Hugging Face's layout. Each linear layer L has

    L.planes   uint32 [P, N, ceil(K/32)]   plane 0 holds the most significant bit of the P-bit code;
                                           bit j (least significant first) of word w is column 32 w + j
    L.lut{k}   float16 [N/g, 2^k]          for every supported width k; row r reads table row r // g
    L.bias     float16 [N]                 only where the checkpoint has one

and every other tensor keeps its name, in float16. The k-bit code of a weight is the top k bits of its P-bit code
(Any-Precision LLM, arXiv 2402.10517). Fails with Corrupt when a file is not the one that was written.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.anyprec.errors import Corrupt, Unsupported
from backends.anyprec.tensors import TensorFolder

METHOD = "anyprec"
VERSION = 1
WORD_BITS = 32
ACTIVATIONS = "bfloat16"  # the `dtype` a store's config.json gives: what the GPU kernels take


def words(columns: int) -> int:
    """How many uint32 words one row of one plane takes."""
    return -(-columns // WORD_BITS)


def pack(codes: NDArray[np.uint8], *, parent_bits: int) -> NDArray[np.uint32]:
    """Codes (N, K) below 2^P to planes (P, N, ceil(K/32)); the padding is code 0."""
    rows, columns = codes.shape
    padded = np.zeros((rows, words(columns) * WORD_BITS), np.uint8)
    padded[:, :columns] = codes
    planes = [
        np.packbits((padded >> shift) & 1, axis=1, bitorder="little").view("<u4")
        for shift in range(parent_bits - 1, -1, -1)
    ]
    return np.stack(planes)


def unpack(planes: NDArray[np.uint32], *, columns: int) -> NDArray[np.uint8]:
    """The first k planes (k, N, ceil(K/32)) to k-bit codes (N, K)."""
    codes = np.zeros((planes.shape[1], columns), np.uint8)
    for plane in planes:
        bits = np.unpackbits(np.ascontiguousarray(plane).view(np.uint8), axis=1, count=columns, bitorder="little")
        np.left_shift(codes, 1, out=codes)
        np.bitwise_or(codes, bits, out=codes)
    return codes


def look_up(codes: NDArray[np.uint8], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (N, K) of codes (N, K) in tables (N/g, 2^k)."""
    rows, width = codes.shape[0], table.shape[1]
    first = np.arange(rows, dtype=np.intp) // (rows // table.shape[0]) * width
    weights: NDArray[np.float32] = np.take(table.reshape(-1), codes + first[:, None], mode="clip")
    return weights


def layer_bytes(rows: int, columns: int, *, bits: Sequence[int], rows_per_table: int = 1) -> int:
    """Bytes of one layer's planes and tables: P/8 a (padded) weight, and 2·Σ2^k for each table row."""
    codes = max(bits) * rows * words(columns) * 4
    tables = rows // rows_per_table * sum(2 << k for k in bits)
    return codes + tables


def bytes_per_weight(rows: int, columns: int, *, bits: Sequence[int], rows_per_table: int = 1) -> float:
    """P/8 + 2·Σ2^k / (K·g) when K is a multiple of 32 (METHODS: n/8 + 2·Σ2^k/K at g = 1)."""
    return layer_bytes(rows, columns, bits=bits, rows_per_table=rows_per_table) / (rows * columns)


def payload_bytes(
    layers: Iterable[tuple[int, int]], *, bits: Sequence[int], rows_per_table: int, plain_numbers: int
) -> int:
    """Bytes of all tensors of a store: `layers` as (N, K), and `plain_numbers` float16 beside them."""
    quantized = sum(layer_bytes(rows, columns, bits=bits, rows_per_table=rows_per_table) for rows, columns in layers)
    return quantized + 2 * plain_numbers


def sha256_of(file: Path) -> str:
    """Hexadecimal digest of a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def config_digest(config: Mapping[str, Any]) -> str:
    """Digest of a store's config, its own `config_sha256` left out."""
    quantization = {key: value for key, value in config["quantization_config"].items() if key != "config_sha256"}
    text = json.dumps({**config, "quantization_config": quantization}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def rewrite_config(folder: Path, **facts: object) -> None:
    """Add facts to a store's `quantization_config`, with the digest that then holds. Raises: Corrupt, Unsupported."""
    config = read_config(folder)
    config["quantization_config"] |= facts
    config["quantization_config"]["config_sha256"] = config_digest(config)
    partial = folder / "config.json.partial"
    partial.write_text(json.dumps(config, indent=1, sort_keys=True))
    partial.rename(folder / "config.json")


def read_config(folder: Path) -> dict[str, Any]:
    """A store's config.json. Raises: Corrupt, Unsupported when it is no store of this version."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise Corrupt(f"{folder}/config.json: {error}") from error
    quantization = config.get("quantization_config") or {}
    if (quantization.get("quant_method"), quantization.get("version")) != (METHOD, VERSION):
        found = f"{quantization.get('quant_method')} version {quantization.get('version')}"
        raise Unsupported(f"{folder}: expected an {METHOD} store of version {VERSION}, found {found}")
    return config


def verify(folder: Path, config: Mapping[str, Any]) -> None:
    """Compare every file with its checksum. Raises: Corrupt, naming the first that differs."""
    quantization = config["quantization_config"]
    if config_digest(config) != quantization.get("config_sha256"):
        raise Corrupt(f"{folder}/config.json was edited after it was written")
    for name, expected in quantization["checksums"].items():
        file = folder / name
        if not file.is_file():
            raise Corrupt(f"{file} is missing")
        if sha256_of(file) != expected:
            raise Corrupt(f"{file} is truncated or was edited: its sha256 is not {expected[:12]}…")


class Store:
    """An open store: planes stay memory-mapped, one copy for all widths."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = dict(config)
        quantization = config["quantization_config"]
        self.bits: tuple[int, ...] = tuple(quantization["bits"])
        self.rows_per_table: int = quantization["rows_per_table"]
        self._columns: dict[str, int] = quantization["in_features"]
        self.distances: dict[float, float] = {
            int(k): float(each) for k, each in quantization.get("distances", {}).items()
        }
        self._tensors = TensorFolder(folder)
        self.layers = [name.removesuffix(".planes") for name in self._tensors.names if name.endswith(".planes")]

    @classmethod
    def open(cls, folder: Path | str, *, verify_files: bool = True) -> Store:
        """Raises: Corrupt for a truncated or edited file, Unsupported for another format."""
        path = Path(folder)
        config = read_config(path)
        if verify_files:
            verify(path, config)
        return cls(path, config)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, layer: str) -> tuple[int, int]:
        """(N, K) of a linear layer."""
        _, rows, row_words = self._tensors.entry(f"{layer}.planes").shape
        return rows, self._columns.get(layer, row_words * WORD_BITS)

    def planes(self, layer: str, k: int | None = None) -> NDArray[np.uint32]:
        """The first k planes (k, N, ceil(K/32)), all of them by default; memory-mapped."""
        planes: NDArray[np.uint32] = self._tensors.mapped(f"{layer}.planes")[:k]
        return planes

    def table(self, layer: str, k: int) -> NDArray[np.float32]:
        """The table (N/g, 2^k) of width k. Raises: Unsupported for a width that was not stored."""
        if k not in self.bits:
            raise Unsupported(f"{self.folder}: width {k} is not one of {list(self.bits)}")
        return self._tensors.read(f"{layer}.lut{k}")

    def codes(self, layer: str, k: int) -> NDArray[np.uint8]:
        """k-bit codes (N, K)."""
        return unpack(self.planes(layer, k), columns=self.shape(layer)[1])

    def dequantize(self, layer: str, k: int) -> NDArray[np.float32]:
        """Weights (N, K) at width k."""
        return look_up(self.codes(layer, k), self.table(layer, k))

    def matmul(self, x: NDArray[np.float32], layer: str, k: int) -> NDArray[np.float32]:
        """x (m, K) through the layer at width k, without its bias: (m, N)."""
        product: NDArray[np.float32] = x @ self.dequantize(layer, k).T
        return product

    def tensor(self, name: str) -> NDArray[np.float32]:
        """An unquantized tensor as float32: embeddings, norms, biases, an untied head."""
        return self._tensors.read(name)

    def payload_bytes(self) -> int:
        """What the formula says all tensors take; equals what the shards hold beside their headers."""
        kept = [name for name in self._tensors.names if not re.search(r"\.(planes|lut\d+)$", name)]
        numbers = sum(int(np.prod(self._tensors.entry(name).shape)) for name in kept)
        shapes = [self.shape(layer) for layer in self.layers]
        return payload_bytes(shapes, bits=self.bits, rows_per_table=self.rows_per_table, plain_numbers=numbers)
