"""Runs one kernel in Triton's interpreter and compares it with numpy in float64; exits with 1 where they differ.

TRITON_INTERPRET=1 python tests/vllm/interpret.py vector SEED
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.anyprec import store
from backends.anyprec.kernels import fused, portable
from backends.anyprec.kernels.fused import Launch
from backends.anyprec.kernels.layout import Laid, lay_out, lay_out_for_gpu

LARGEST_ERROR = 1e-2  # relative, of a bfloat16 result


@dataclass
class Layer:
    """A random layer in numpy, and the same in torch."""

    codes: NDArray[np.uint8]
    tables: dict[int, NDArray[np.float16]]

    @property
    def bits(self) -> list[int]:
        return sorted(self.tables)

    def weights(self, width: int) -> NDArray[np.float64]:
        """(N, K) in float64, by the reference's own look-up."""
        codes = self.codes >> (max(self.bits) - width)
        return store.look_up(codes, self.tables[width].astype(np.float32)).astype(np.float64)

    def product(self, x: NDArray[np.float64], widths: Sequence[int]) -> NDArray[np.float64]:
        rows = [
            self.weights(width) @ row if width else np.zeros(len(self.codes))
            for row, width in zip(x, widths, strict=True)
        ]
        return np.stack(rows)

    def laid(self, *, gpu: bool, dtype: torch.dtype = torch.bfloat16) -> Laid:
        planes = torch.from_numpy(store.pack(self.codes, parent_bits=max(self.bits)))
        tables = {k: torch.from_numpy(table) for k, table in self.tables.items()}
        if gpu:
            return lay_out_for_gpu(planes, tables)
        return lay_out(planes, tables, columns=self.codes.shape[1], dtype=dtype)


def random_layer(rng: Any, rows: int, columns: int, *, bits: Sequence[int], group: int = 1) -> Layer:
    codes = rng.integers(0, 2 ** max(bits), (rows, columns), dtype=np.uint8)
    tables = {k: (rng.standard_normal((rows // group, 2**k)) * columns**-0.5).astype(np.float16) for k in bits}
    return Layer(codes, tables)


def check(found: torch.Tensor, wanted: NDArray[np.float64], what: object) -> None:
    error = np.linalg.norm(found.double().numpy() - wanted) / np.linalg.norm(wanted)
    print(what, f"relative error {error:.2e}")
    if not error < LARGEST_ERROR:
        sys.exit(1)


def compare(rng: Any, layer: Layer, widths: Sequence[int], how: Launch) -> None:
    laid = layer.laid(gpu=True)
    x = torch.from_numpy(rng.standard_normal((len(widths), layer.codes.shape[1]))).to(torch.bfloat16)
    asked = torch.tensor(list(widths), dtype=torch.int32)
    found = fused.launch(x, laid.codes, laid.tables, asked, layer.bits, how)
    check(found, layer.product(x.double().numpy(), widths), (layer.codes.shape, widths, how))


def vector(rng: Any) -> None:
    layer = random_layer(rng, 24, 288, bits=(3, 4, 5, 6, 7, 8), group=2)
    for width in layer.bits:
        compare(rng, layer, [width], Launch(4, 1, 16, 1))


def tile(rng: Any) -> None:
    compare(rng, random_layer(rng, 40, 288, bits=(3, 4, 6, 8)), [3, 4, 8, 6, 0], Launch(16, 16, 8, 4, 2))


def split(rng: Any) -> None:
    layer = random_layer(rng, 32, 768, bits=(2, 4, 7), group=4)
    compare(rng, layer, [2, 4, 7, 7] * 5, Launch(16, 16, 8, 4, 1, splits=3))


def dequantize(rng: Any) -> None:
    layer = random_layer(rng, 32, 288, bits=(3, 4, 6, 8))
    laid = layer.laid(gpu=True)
    for width in layer.bits:
        rows = torch.empty(12, 288, dtype=torch.bfloat16)
        fused.dequantize_rows(laid.codes, laid.tables, layer.bits, width=width, first=8, out=rows)
        check(rows, layer.weights(width)[8:20], ("rows 8 to 19", width))


def large(rng: Any) -> None:
    layer = random_layer(rng, 32, 288, bits=(3, 4, 8))
    laid, widths = layer.laid(gpu=True), [3, 8, 8, 0, 3, 4] * 12
    x = torch.from_numpy(rng.standard_normal((len(widths), 288))).to(torch.bfloat16)
    asked = torch.tensor(widths, dtype=torch.int32)
    found = fused.large(x, laid.codes, laid.tables, asked, layer.bits, (3, 4, 8))
    check(found, layer.product(x.double().numpy(), widths), "each width in turn")


def portable_operator(rng: Any) -> None:
    layer = random_layer(rng, 32, 300, bits=(3, 4, 8), group=8)
    laid, widths = layer.laid(gpu=False, dtype=torch.float64), [3, 8, 8, 0, 3, 4]
    x = torch.from_numpy(rng.standard_normal((len(widths), 300)))
    found = portable.linear(x, laid.codes, laid.tables, torch.tensor(widths), layer.bits)
    check(found, layer.product(x.numpy(), widths), "torch's own operations")


def alone(rng: Any) -> None:
    """A row comes out of a crowd to the last bit as it does alone, in every precision."""
    layer, widths = random_layer(rng, 96, 256, bits=(3, 4, 8)), rng.choice([3, 4, 8], 150).tolist()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        laid, asked = layer.laid(gpu=False, dtype=dtype), torch.tensor(widths)
        x = torch.from_numpy(rng.standard_normal((len(widths), 256))).to(dtype)
        crowd = portable.linear(x, laid.codes, laid.tables, asked, layer.bits)
        each = [
            portable.linear(x[t : t + 1], laid.codes, laid.tables, asked[t : t + 1], layer.bits) for t in range(150)
        ]
        differ = int((crowd != torch.cat(each)).sum())
        print(dtype, f"{differ} of {crowd.numel()} differ")
        if differ:
            sys.exit(1)


CHECKS = {
    "vector": vector, "tile": tile, "split": split, "dequantize": dequantize, "large": large,
    "portable": portable_operator, "alone": alone,
}  # fmt: skip

if __name__ == "__main__":
    CHECKS[sys.argv[1]](np.random.default_rng(int(sys.argv[2])))
