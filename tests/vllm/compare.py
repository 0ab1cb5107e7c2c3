"""Runs one kernel on a CPU and compares it with numpy, to the last bit; exits with 1 where they differ.

python tests/vllm/compare.py skinny SEED
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import types as types_
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backends.anyprec import store
from backends.anyprec.kernels import compiled, launches, portable
from backends.anyprec.kernels.launches import ExpandArgs, GemmArgs, GemmLaunch, QuantizeArgs, ScatterArgs, SkinnyArgs
from backends.anyprec.kernels.layout import DeviceLayout, steps_of, to_device_layout, to_gpu_layout

LARGEST_ERROR = 1e-2  # relative, of a bfloat16 result
UNIT = 256


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

    def layout(self, *, gpu: bool, dtype: torch.dtype = torch.bfloat16) -> DeviceLayout:
        planes = torch.from_numpy(store.pack(self.codes, parent_bits=max(self.bits)))
        tables = {k: torch.from_numpy(table) for k, table in self.tables.items()}
        columns = self.codes.shape[1]
        if gpu:
            return to_gpu_layout(planes, tables, columns=columns)
        return to_device_layout(planes, tables, columns=columns, dtype=dtype)

    def row_tables(self, width: int) -> NDArray[np.float32]:
        """(N, 2^k) in float32."""
        return np.repeat(self.tables[width].astype(np.float32), len(self.codes) // len(self.tables[width]), axis=0)

    def scale(self) -> NDArray[np.float32]:
        """What a whole number of a row is worth: entries of 4 bits and less stay below 120, all below 127."""
        most = np.abs(self.row_tables(max(self.bits))).max(1) / np.float32(127)
        for table in [self.row_tables(k) for k in self.bits if k <= 4] + [self.four()]:
            most = np.maximum(most, np.abs(table).max(1) / np.float32(120))
        return most

    def four(self) -> NDArray[np.float32]:
        """Entries of 4 bits, which are the means of what is below them where a store has none."""
        if 4 in self.bits or max(self.bits) < 4:
            return self.row_tables(4 if 4 in self.bits else max(self.bits))
        return self.row_tables(max(self.bits)).reshape(len(self.codes), 16, -1).mean(2)

    def numbers(self, width: int) -> NDArray[np.int64]:
        """(N, K): the weights at a width as whole numbers, as the formats page defines them."""
        scale = self.scale()[:, None]

        def entries(table: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
            return np.take_along_axis(np.rint(table / scale), (self.codes >> (max(self.bits) - bits)).astype(int), 1)

        if width <= 4:
            return entries(self.row_tables(width), width).astype(np.int64)
        base = entries(self.four(), 4)
        wide = np.take_along_axis(self.row_tables(max(self.bits)) / scale, self.codes.astype(int), 1)
        coarse = np.clip(np.floor((wide - base + 8) / 4), 0, 3)
        if width <= 6:
            return (base + 4 * coarse - 6).astype(np.int64)
        return (base + 4 * coarse - 8 + np.clip(np.rint(wide - base + 8 - 4 * coarse), 0, 3)).astype(np.int64)

    def exact(self, x: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
        """What the kernels must give, to the last bit: whole-number sums, and one rounding."""
        out = np.zeros((len(widths), len(self.codes)), np.float32)
        numbers = {width: self.numbers(width) for width in set(widths) - {0}}
        for i, width in enumerate(widths):
            if width:
                row, row_scale = quantized(x[i].float().numpy())
                out[i] = row_scale * (self.scale() * (numbers[width] @ row).astype(np.float32))
        return torch.from_numpy(out).to(torch.bfloat16)


def quantized(row: NDArray[np.float32]) -> tuple[NDArray[np.int64], np.float32]:
    """A row of x as whole numbers, and what one is worth."""
    most = np.abs(row).max()
    return np.rint(row * (np.float32(127) / most)).astype(np.int64), most / np.float32(127)


def random_layer(rng: Any, rows: int, columns: int, *, bits: Sequence[int], group: int = 1) -> Layer:
    """Nested tables, as a quantizer's would be."""
    codes = rng.integers(0, 2 ** max(bits), (rows, columns), dtype=np.uint8)
    finest = np.sort(rng.standard_normal((rows // group, 2 ** max(bits))), axis=1) * columns**-0.5
    tables = {k: finest.reshape(rows // group, 2**k, -1).mean(2).astype(np.float16) for k in bits}
    return Layer(codes, tables)


def check(found: torch.Tensor, wanted: NDArray[np.float64], what: object) -> None:
    error = np.linalg.norm(found.double().numpy() - wanted) / np.linalg.norm(wanted)
    print(what, f"relative error {error:.2e}")
    if not error < LARGEST_ERROR:
        sys.exit(1)


def same(found: torch.Tensor, wanted: torch.Tensor, what: object) -> None:
    differ = int((found != wanted).sum())
    print(what, f"{differ} of {found.numel()} differ")
    if differ:
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
        (folder / "kernel.cpp").write_text(SOURCE.format(file=file, kernel=kernel, argument=argument))
        paths = [f"-I{path}" for path in (folder, Path(__file__).parent, Path(launches.__file__).parent)]
        flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-pthread", "-w", *(f"-D{option}" for option in options)]
        compiler = os.environ.get("CXX", "g++")
        subprocess.run([compiler, *flags, *paths, "-o", folder / "kernel.so", folder / "kernel.cpp"], check=True)
        return ctypes.CDLL(str(folder / "kernel.so"))


def inputs(rng: Any, layer: Layer, widths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, widths, and a result that nobody has written yet."""
    x = torch.from_numpy(rng.standard_normal((len(widths), layer.codes.shape[1]))).to(torch.bfloat16)
    out = torch.full((len(widths), len(layer.codes)), torch.nan, dtype=torch.bfloat16)
    return x, torch.tensor(list(widths), dtype=torch.int32), out


def run_skinny(rng: Any, layer: Layer, widths: Sequence[int], *, processors: int = 2) -> None:
    layout, (x, asked, out) = layer.layout(gpu=True), inputs(rng, layer, widths)
    units = layout.codes.shape[1]
    how = launches.skinny_launch(len(widths), rows=layout.rows, units=units, processors=processors)
    assert how is not None
    kernel = on_cpu(
        "skinny_gemm", "skinny_gemm", "Skinny", launches.macros(layer.bits, ring=how.ring, granules=how.granules)
    )
    argument = SkinnyArgs(
        launches.layer(layout.codes, layout.tables, layout.rows), x.data_ptr(), asked.data_ptr(), out.data_ptr(),
        *x.shape, how.parts, how.sharing(len(x)), 65536 // len(x) + 1,
    )  # fmt: skip
    kernel.run(ctypes.byref(argument), how.blocks, 1, 32 * how.warps)
    same(out, layer.exact(x, widths), (layer.codes.shape, layer.bits, widths, how))


def skinny(rng: Any) -> None:
    """A single row at every width; tables shared by two rows; columns that fill no unit; widths mixed, padding too."""
    layer = random_layer(rng, 40, 672, bits=(3, 4, 5, 6, 7, 8), group=2)
    for width in layer.bits:
        run_skinny(rng, layer, [width])
    run_skinny(rng, layer, [3, 0, 8, 6], processors=1)
    run_skinny(rng, layer, [4, 5, 6, 3, 3, 5, 0, 4])
    run_skinny(rng, layer, rng.choice([0, 3, 4, 6, 8], 13).tolist(), processors=1)
    run_skinny(rng, layer, [8] * 16)
    run_skinny(rng, random_layer(rng, 48, 1536, bits=(3, 8)), [3, 8, 3, 0, 8], processors=3)
    run_skinny(rng, random_layer(rng, 600, 256, bits=(2, 3)), [2, 3, 2], processors=2)
    run_skinny(rng, random_layer(rng, 24, 288, bits=(2, 5), group=4), [5, 2], processors=1)
    run_skinny(rng, random_layer(rng, 16, 256, bits=(8,)), [0, 0, 0])


def quantize_on_cpu(
    layer: Layer, layout: DeviceLayout, x: torch.Tensor, asked: torch.Tensor, out: torch.Tensor, granules: int
) -> Any:
    m, places, units = len(x), 8 * granules or len(x), layout.codes.shape[1]
    found = torch.zeros(places, units * UNIT, dtype=torch.int8)
    scales, numbers = torch.zeros(places), torch.zeros(2, places, dtype=torch.int32)
    kernel = on_cpu("quantize", "quantize", "Quantize", launches.macros(layer.bits))
    addresses = (each.data_ptr() for each in (x, asked, found, out, scales, *numbers))
    argument = QuantizeArgs(*addresses, m, layout.rows, x.shape[1], units, granules)
    kernel.run(ctypes.byref(argument), m, 1, 256)
    return found, scales, numbers


def run_gemm(rng: Any, layer: Layer, widths: Sequence[int], how: GemmLaunch) -> None:
    layout, (x, asked, out) = layer.layout(gpu=True), inputs(rng, layer, widths)
    granules = launches.granules_of(len(widths), len(steps_of(layer.bits)))
    found, scales, numbers = quantize_on_cpu(layer, layout, x, asked, out, granules)
    sums, row_of = (each.data_ptr() for each in numbers)
    argument = GemmArgs(
        launches.layer(layout.codes, layout.tables, layout.rows), found.data_ptr(), scales.data_ptr(), sums, row_of,
        asked.data_ptr(), out.data_ptr(), len(widths), granules, 1,
    )  # fmt: skip
    assert launches.gemm_shared_bytes(how, layer.bits) <= launches.SHARED_BYTES
    kernel = on_cpu("gemm", "gemm", "Gemm", launches.gemm_macros(layer.bits, how))
    groups = -(-layout.rows // (16 * how.warps))
    kernel.run(ctypes.byref(argument), -(-granules // how.granules), groups, 32 * how.warps)
    same(out, layer.exact(x, widths), (layer.codes.shape, layer.bits, len(widths), how))


def gemm(rng: Any) -> None:
    """Widths mixed, padding among them, more rows than a block takes."""
    layer = random_layer(rng, 72, 672, bits=(3, 4, 6, 8), group=2)
    run_gemm(rng, layer, rng.choice([0, 3, 4, 6, 8], 45).tolist(), GemmLaunch(4, 2, 1, wgmma=False))
    run_gemm(rng, layer, [8] * 12, GemmLaunch(4, 4, 1, wgmma=False))
    run_gemm(rng, random_layer(rng, 64, 512, bits=(2, 5, 6, 7)), [5, 6] * 10 + [2, 7], GemmLaunch(8, 1, 1, wgmma=False))
    run_gemm(rng, random_layer(rng, 40, 256, bits=(3, 4)), [4, 3, 3, 4, 0], GemmLaunch(1, 2, 1, wgmma=False))
    run_gemm(rng, random_layer(rng, 40, 256, bits=(3, 4)), [0] * 5, GemmLaunch(1, 2, 1, wgmma=False))


def quantize(rng: Any) -> None:
    """Rows sorted by width, their bytes, scales and sums; a row of zeros."""
    layer = random_layer(rng, 16, 288, bits=(3, 8))
    widths = rng.choice([0, 3, 8], 21).tolist()
    x, asked, out = inputs(rng, layer, widths)
    x[0] = 0
    found, scales, (sums, row_of) = quantize_on_cpu(layer, layer.layout(gpu=True), x, asked, out, 0)
    order = sorted(range(21), key=lambda i: (widths[i] or 9, i))
    assert row_of.tolist() == order
    for place, i in enumerate(order):
        if i:
            row, scale = quantized(x[i].float().numpy())
            assert found[place, :288].tolist() == row.tolist()
            assert (float(scales[place]), int(sums[place])) == (scale, row.sum())
        else:
            assert (float(scales[place]), int(sums[place])) == (0, 0)
        assert not found[place, 288:].any()


def expand(rng: Any) -> None:
    layer, first = random_layer(rng, 80, 288, bits=(3, 4, 5, 8)), 16
    layout = layer.layout(gpu=True)
    kernel = on_cpu("quantize", "expand", "Expand", launches.macros(layer.bits))
    for width in layer.bits:
        rows = torch.zeros(48, 2 * UNIT, dtype=torch.int8)
        start = launches.layer(layout.codes, layout.tables, layout.rows)
        step = {5: 6}.get(width, width)
        kernel.run(ctypes.byref(ExpandArgs(start, rows.data_ptr(), step, first // 16)), 1, 3, 256)
        same(rows[:, :288].long(), torch.from_numpy(layer.numbers(width)[first : first + 48]), ("rows 16 to 63", width))


def scatter(rng: Any) -> None:
    """Rows to their places among others' columns, and nothing beside them."""
    found, row_of = torch.randn(6, 48).to(torch.bfloat16), torch.from_numpy(rng.permutation(6).astype(np.int32))
    out = torch.zeros(6, 80, dtype=torch.bfloat16)
    kernel = on_cpu("quantize", "scatter", "Scatter", launches.macros([8]))
    to = out[:, 16:64]
    argument = ScatterArgs(found.data_ptr(), to.data_ptr(), row_of.data_ptr(), 6, 10)
    kernel.run(ctypes.byref(argument), 1, 6, 256)
    same(out[row_of.long(), 16:64], found, "rows")
    assert not out[:, :16].any()
    assert not out[:, 64:].any()


def close(rng: Any) -> None:
    """Up to 4 bits the whole numbers are a table's entries; above, near the widest as far as a residual reaches.

    A residual of 2 bits has steps of 4, so it is at most 2 off; 2 bits more, behind a prefix, leave at most 1.
    """
    layer = random_layer(rng, 64, 1024, bits=(2, 3, 4, 5, 6, 8))
    base, wide = layer.numbers(4), layer.weights(8) / layer.scale()[:, None]
    for width in layer.bits:
        numbers = layer.numbers(width)
        assert np.abs(numbers).max() <= 128
        if width <= 4:
            wanted = layer.weights(width)
            apart = ((numbers * layer.scale()[:, None] - wanted) ** 2).sum() / (wanted**2).sum()
            print(width, f"squared error {apart:.1e}")
            assert apart < 2e-4
            continue
        low, high, most = (-6, 6, 2.0) if width <= 6 else (-8, 7, 1.0)
        off = np.abs(numbers - np.clip(wide, base + low, base + high)).max()
        print(width, f"at most {off:.3f} units off within the residual's reach")
        assert off <= most + 1e-3


def portable_operator(rng: Any) -> None:
    layer = random_layer(rng, 32, 300, bits=(3, 4, 8), group=8)
    layout, widths = layer.layout(gpu=False, dtype=torch.float64), [3, 8, 8, 0, 3, 4]
    x = torch.from_numpy(rng.standard_normal((len(widths), 300)))
    found = portable.linear(x, layout.codes, layout.tables, torch.tensor(widths), layer.bits, layout.rows)
    check(found, layer.product(x.numpy(), widths), "torch's own operations")


def alone(rng: Any) -> None:
    """A row comes out of a crowd to the last bit as it does alone, in every precision."""
    layer, widths = random_layer(rng, 96, 256, bits=(3, 4, 8)), rng.choice([3, 4, 8], 150).tolist()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        layout, asked = layer.layout(gpu=False, dtype=dtype), torch.tensor(widths)
        x = torch.from_numpy(rng.standard_normal((len(widths), 256))).to(dtype)

        def product(x: torch.Tensor, asked: torch.Tensor, layout: DeviceLayout = layout) -> torch.Tensor:
            return portable.linear(x, layout.codes, layout.tables, asked, layer.bits, layout.rows)

        same(product(x, asked), torch.cat([product(x[t : t + 1], asked[t : t + 1]) for t in range(150)]), dtype)


def types(_: Any) -> None:
    """The kernels read bfloat16, so a launch with anything else is refused, with both types in the message."""
    for dtype in (torch.float16, torch.float32):
        with pytest.raises(TypeError, match=f"{dtype}.*torch.bfloat16"):
            launches.require_bfloat16(torch.zeros(1, 256, dtype=dtype))


def runners(_: Any) -> None:
    """A worker serves only where exactly one model runner can be followed: else widths would be lost without a word."""
    from backends.anyprec.plugin.runners import NEWER, OLDER, NoRunner, follow_batches
    from backends.anyprec.plugin.widths import RowWidths

    rows = RowWidths((3, 4), rows=8, device=torch.device("cpu"))

    class GPUModelRunner:
        def _model_forward(self) -> None: ...

        def load_model(self) -> None:
            follow_batches(rows)

    class Other(GPUModelRunner):
        pass

    def worker(**modules: Any) -> Any:
        named = {NEWER: modules.get("newer"), OLDER: modules.get("older")}
        return mock.patch.dict(sys.modules, {name: each for name, each in named.items() if each is not None})

    older = types_.SimpleNamespace(GPUModelRunner=GPUModelRunner)
    newer = types_.SimpleNamespace(GPUModelRunner=type("GPUModelRunner", (), {}), init_model_state=lambda: None)
    for modules in ({}, {"older": types_.SimpleNamespace()}, {"newer": types_.SimpleNamespace()}):
        with worker(**modules), pytest.raises(NoRunner, match="width would not reach"):
            follow_batches(rows)
    with worker(older=older, newer=newer):
        with pytest.raises(NoRunner, match="0 of the 2 model runners"):
            follow_batches(rows)
        untouched = newer.init_model_state
        Other().load_model()
        assert hasattr(GPUModelRunner._model_forward, "__wrapped__")
        assert newer.init_model_state is untouched


class Deaf(torch.Tensor):
    """A buffer on a device that takes nothing in."""

    def copy_(self, *_: Any, **__: Any) -> torch.Tensor:
        return self


def read_back(_: Any) -> None:
    """After a store was loaded, a width that is told is the width that is read."""
    from backends.anyprec.plugin.widths import LostWidth, RowWidths

    rows = RowWidths((3, 8), rows=4, device=torch.device("cpu"))
    rows.buffer()
    rows.read_back()
    assert rows.buffer().tolist() == [8] * 4
    rows._buffers = {key: each.as_subclass(Deaf) for key, each in rows._buffers.items()}
    with pytest.raises(LostWidth, match="width 3 was told and 8 is read"):
        rows.read_back()


def profiles(_: Any) -> None:
    """A fractional width is the profile's stored width in each layer; layers that read alike share a buffer."""
    from backends.anyprec.plugin.widths import RowWidths

    rows = RowWidths((3, 4), rows=8, device=torch.device("cpu"), fractions=(3.25, 3.5))
    first, second = rows.buffer({3.25: 3, 3.5: 4}), rows.buffer({3.25: 4, 3.5: 4})
    assert rows.buffer({3: 3, 4: 4, 3.25: 3, 3.5: 4}) is first
    asked = [rows.asked({"anyprec_bits": each}) for each in (3, 3.25, 3.5, 4)]
    rows.set_row_widths(asked, np.array([1, 2, 1, 1]), padded=7)
    assert first[:7].tolist() == [3, 3, 3, 4, 4, 0, 0]
    assert second[:7].tolist() == [3, 4, 4, 4, 4, 0, 0]
    rows.read_back()
    assert first.tolist() == second.tolist() == [4] * 8


def floor(_: Any) -> None:
    """A request whose width is the least is computed at the widest of its batch, others exactly at their own."""
    from backends.anyprec.plugin.served import ServedRows
    from backends.anyprec.plugin.widths import InvalidWidth, RowWidths, asked_floor

    shown = ServedRows.made((3, 4, 8, 3.25))
    rows = RowWidths((3, 4, 8), rows=8, device=torch.device("cpu"), fractions=(3.25,))
    first, second = rows.buffer({3.25: 3}), rows.buffer({3.25: 4})
    asked = [rows.asked({"anyprec_bits": k, "anyprec_floor": k != 4}) for k in (3, 4, 3.25)]
    rows.set_row_widths(asked, np.array([2, 1, 1]), padded=6)
    assert first[:6].tolist() == second[:6].tolist() == [4, 4, 4, 4, 0, 0]
    asked = [rows.asked({"anyprec_bits": k, "anyprec_floor": 1}) for k in (3, 3.25)]
    rows.set_row_widths(asked, np.array([1, 1]), padded=2)
    assert (first[:2].tolist(), second[:2].tolist()) == ([3, 3], [4, 4])
    rows.set_row_widths([rows.asked({"anyprec_bits": k}) for k in (3, 8)], np.array([3, 1]), padded=4)
    assert first[:4].tolist() == [3, 3, 3, 8]
    rows.set_row_widths([], np.array([], int), padded=2)
    (counter,) = shown.collect()
    found = {" at ".join(each.labels.values()): each.value for each in counter.samples}
    assert found == {
        "3 at 4": 2, "4 at 4": 1, "3.25 at 4": 1, "3 at 3.25": 1, "3.25 at 3.25": 1, "3 at 3": 3, "8 at 8": 1,
    }  # fmt: skip
    assert not asked_floor({}, default=False)
    assert not asked_floor({"anyprec_floor": 0}, default=True)
    with pytest.raises(InvalidWidth, match="anyprec_floor is 'yes'"):
        asked_floor({"anyprec_floor": "yes"}, default=False)


def traced(rng: np.random.Generator) -> None:
    """A compiled layer takes its widths as inputs: another batch is multiplied at its own without compiling anew."""
    from backends.anyprec.plugin.linear import AnyprecLinearMethod
    from backends.anyprec.plugin.widths import AskedWidth, RowWidths

    sizes, columns = [16, 16, 32], 64
    plain, fused = [{3: 3, 4: 4}] * 3, [{3: 3, 4: 4, 3.25: k} for k in (3, 4, 4)]
    for parts, fractions in ((plain, ()), (fused, (3.25,))):
        rows = RowWidths((3, 4), rows=8, device=torch.device("cpu"), fractions=fractions)
        method = AnyprecLinearMethod((3, 4), rows_per_table=1, row_widths=lambda _, rows=rows: rows, parts=parts)
        layer, graphs = torch.nn.Module(), []
        loading = {"weight_loader": lambda *_: None}
        method.create_weights(layer, columns, sizes, columns, sum(sizes), torch.float32, **loading)
        codes = rng.integers(0, 16, (sum(sizes), columns)).astype(np.uint8)
        layer.planes.data.copy_(torch.from_numpy(store.pack(codes, parent_bits=4).view(np.int32)).view(torch.uint32))
        for k in (3, 4):
            drawn = rng.normal(size=(sum(sizes), 2**k)).astype(np.float16)
            getattr(layer, f"lut{k}").data.copy_(torch.from_numpy(drawn))
        method.process_weights_after_loading(layer)

        def keep(graph: Any, _: Any, graphs: list[Any] = graphs) -> Any:
            graphs.append(graph)
            return graph

        compiled_layer = torch.compile(lambda x, layer=layer, method=method: method.apply(layer, x), backend=keep)
        x = torch.randn(4, columns)
        for widths in ([3, 3, 4, 4], [4, 4, 4, 3], [*(fractions or [3]), 3, 4, 4]):
            rows.set_row_widths([AskedWidth(width) for width in widths], np.ones(4, int), padded=4)
            assert torch.equal(compiled_layer(x), method.apply(layer, x))
        assert len(graphs) == 1


ARCHITECTURES = ((8, 0), (8, 9), (9, 0), (10, 0), (12, 0))


def compile_all(_: Any) -> None:
    """Every kernel for every architecture, by NVIDIA's own compiler where it is installed; 77 where it is not."""
    try:
        compiled.compiler_version()
    except Exception as error:  # the package or its library is missing: each says so in a type of its own
        print(f"no NVRTC: {error}")
        sys.exit(77)
    bits, few = [3, 4, 6, 8], {"ring": launches.RINGS[0]}
    with tempfile.TemporaryDirectory() as name:
        for capability in ARCHITECTURES:
            arch, hopper = compiled.architecture(capability), capability == (9, 0)
            kernels = [("quantize", launches.macros(bits))]
            kernels += [("skinny_gemm", launches.macros(bits, **few, granules=granules)) for granules in (1, 2)]
            for granules in (4, 16):
                how = GemmLaunch(granules, 8, 1, wgmma=hopper)
                kernels.append(("gemm", launches.gemm_macros(bits, how)))
            if hopper:
                size = dict(zip(("granules", "row_groups", "k_groups"), launches.HOPPER_SIZES[1], strict=True))
                kernels.append(("hopper_gemm", launches.macros(bits, **size)))
            for file, options in kernels:
                found = compiled.binary(file, options, arch, folder=Path(name))
                print(file, arch, len(found))
                assert found[:4] == b"\x7fELF"


CHECKS = {
    "skinny": skinny, "gemm": gemm, "quantize": quantize, "expand": expand, "close": close,
    "portable": portable_operator, "alone": alone, "types": types, "compile": compile_all,
    "runners": runners, "read_back": read_back, "profiles": profiles, "traced": traced, "floor": floor,
    "scatter": scatter,
}  # fmt: skip

if __name__ == "__main__":
    CHECKS[sys.argv[1]](np.random.default_rng(int(sys.argv[2])))
