"""Runs one kernel on a CPU and compares it with numpy in float64; exits with 1 where they differ.

python tests/vllm/compare.py few SEED
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backends.anyprec import store
from backends.anyprec.kernels import launches, portable
from backends.anyprec.kernels.launches import Few, Launch, Many, macros
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


SOURCE = """#include "on_cpu.cuh"
#include "{file}.cu"
extern "C" void run(const {argument} *argument, unsigned x, unsigned y, unsigned threads) {{
    launch([=] {{ {kernel}(*argument); }}, {{x, y, 1}}, threads);
}}
"""


def on_cpu(file: str, kernel: str, argument: str, options: Sequence[str]) -> Any:
    """The kernel, compiled for a CPU with stand-ins for what only a GPU has."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "wgmma.cuh").touch()  # on_cpu.cuh has its own
        (folder / "kernel.cpp").write_text(SOURCE.format(file=file, kernel=kernel, argument=argument))
        paths = [f"-I{path}" for path in (folder, Path(__file__).parent, Path(launches.__file__).parent)]
        flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-pthread", "-w", *(f"-D{option}" for option in options)]
        compiler = os.environ.get("CXX", "g++")
        subprocess.run([compiler, *flags, *paths, "-o", folder / "kernel.so", folder / "kernel.cpp"], check=True)
        return ctypes.CDLL(str(folder / "kernel.so"))


def compare(rng: Any, layer: Layer, widths: Sequence[int], how: Launch) -> None:
    laid, bits, columns = layer.laid(gpu=True), tuple(layer.bits), layer.codes.shape[1]
    x = torch.from_numpy(rng.standard_normal((len(widths), columns))).to(torch.bfloat16)
    asked = torch.tensor(list(widths), dtype=torch.int32)
    out = torch.full((len(widths), len(layer.codes)), torch.nan, dtype=torch.bfloat16)
    argument = launches.layer(x, laid.codes, laid.tables, asked, layer.bits, out, columns=columns)
    whole = int(columns % launches.GROUP_COLUMNS == 0)
    if isinstance(how, Few):
        kernel = on_cpu("few", "few", "Layer", macros(bits, whole=whole, **dict(launches.few_sizes(bits, how)[0])))
        kernel.run(ctypes.byref(argument), 2, 1, 32 * how.warps)
    else:
        kernel = on_cpu("many", "many", "Layer", macros(bits, whole=whole, **dict(launches.many_sizes(bits, how)[0])))
        tiles = launches.most_tiles(len(widths), how.places, len(bits))
        kernel.run(ctypes.byref(argument), -(-len(layer.codes) // 64), tiles, 128 * how.groups)
    check(out, layer.product(x.double().numpy(), widths), (layer.codes.shape, widths, how))


def one(rng: Any) -> None:
    """A single row, at every width; tables shared by two rows, columns that fill no group."""
    layer = random_layer(rng, 40, 672, bits=(3, 4, 5, 6, 7, 8), group=2)
    for width in layer.bits:
        compare(rng, layer, [width], Few(1, 4, 2, 4, 2))


def few(rng: Any) -> None:
    """Widths mixed, padding among them, more rows of one width than a pass takes."""
    compare(rng, random_layer(rng, 40, 512, bits=(3, 4, 6, 8)), [3, 4, 8, 6, 0, 8], Few(1, 2, 1, 4, 2))
    compare(rng, random_layer(rng, 24, 288, bits=(2, 4, 7), group=4), rng.choice([0, 2, 4, 7], 40), Few(2, 4, 2, 2, 1))


def many(rng: Any) -> None:
    """Tiles of one width each, padding among them, the last of each width not full."""
    layer = random_layer(rng, 72, 672, bits=(3, 4, 6, 8), group=2)
    compare(rng, layer, rng.choice([0, 3, 4, 6, 8], 45), Many(16, 2))
    compare(rng, random_layer(rng, 64, 512, bits=(2, 5, 7)), [5] * 20 + [2, 7], Many(32, 1))


def dequantize(rng: Any) -> None:
    layer, first = random_layer(rng, 80, 288, bits=(3, 4, 6, 8)), 8
    laid, bits, how = layer.laid(gpu=True), tuple(layer.bits), Many(16, 2)
    kernel = on_cpu("many", "dequantize", "Some", macros(bits, whole=0, **dict(launches.many_sizes(bits, how)[0])))
    for width in layer.bits:
        rows = torch.full((66, 288), torch.nan, dtype=torch.bfloat16)
        start = launches.layer(None, laid.codes, laid.tables, None, layer.bits, rows, columns=288)
        kernel.run(ctypes.byref(launches.Some(start, width, first, len(rows))), 2, 2, 128 * how.groups)
        check(rows, layer.weights(width)[first : first + len(rows)], ("rows 8 to 73", width))


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


def types(rng: Any) -> None:
    """The kernels read bfloat16, so a launch with anything else is refused, with both types in the message."""
    layer = random_layer(rng, 16, 256, bits=(3, 4))
    laid, asked = layer.laid(gpu=True), torch.tensor([3], dtype=torch.int32)
    for dtype in (torch.float16, torch.float32):
        x, out = torch.zeros(1, 256, dtype=dtype), torch.zeros(1, 16, dtype=dtype)
        for rows in (x, None):
            with pytest.raises(TypeError, match=f"{dtype}.*torch.bfloat16"):
                launches.layer(rows, laid.codes, laid.tables, asked, layer.bits, out, columns=256)


CHECKS = {
    "one": one, "few": few, "many": many, "dequantize": dequantize, "portable": portable_operator, "alone": alone,
    "types": types,
}  # fmt: skip

if __name__ == "__main__":
    CHECKS[sys.argv[1]](np.random.default_rng(int(sys.argv[2])))
