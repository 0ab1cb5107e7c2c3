"""Multiplies by a layer straight from its bit planes, each row of the input at its own width, with whole-number sums.

Up to 8 rows, or 16 of a small layer: skinny_gemm.cu. More: rows become bytes (quantize.cu), then gemm.cu or
hopper_gemm.cu. Outside CUDA graphs, for a large batch, some rows of the layer at a time become bytes and vLLM's int8
product multiplies. Sums are whole numbers and every path rounds once, so a row comes out the same to the last bit alone
and among others. Widths are read on the device, so graphs replay with new ones.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from backends.anyprec.kernels import compiled, launches
from backends.anyprec.kernels.launches import (
    ExpandArgs,
    GemmArgs,
    GemmLaunch,
    HopperLaunch,
    QuantizeArgs,
    ScatterArgs,
    SkinnyArgs,
    SkinnyLaunch,
)
from backends.anyprec.kernels.layout import TILE_ROWS, UNIT, step_of, steps_of

_counts: dict[int, Mapping[int, int]] = {}  # by the address of a widths buffer: how many rows of each width are there
LARGE_ROWS = 257  # rows from which bytes and vLLM's product are faster than gemm.cu …
HOPPER_LARGE_ROWS = 513  # … and than hopper_gemm.cu, for each step present
CHUNK_BYTES = 60 << 20  # of a layer's bytes at a time, which stay in the cache


def set_row_widths(widths: torch.Tensor, counts: Mapping[int, int]) -> None:
    """Tell which widths this buffer now holds, so that a large batch outside a graph need not ask the device."""
    _counts[widths.data_ptr()] = counts


def linear(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor, bits: list[int], rows: int
) -> torch.Tensor:
    """x (m, K) bfloat16 to (m, rows), row t at width widths[t]. Raises: TypeError: another type."""
    launches.require_bfloat16(x)
    x, m = x.contiguous(), x.shape[0]
    layer = Operand(codes, tables, tuple(bits), rows)
    how = launches.skinny_launch(m, rows=rows, units=codes.shape[1], processors=processors(x.device.index))
    if how is not None:
        return skinny(x, layer, widths, how)
    counts = _counts.get(widths.data_ptr(), {})
    hopper = _capability(x.device.index) == (9, 0)
    large = HOPPER_LARGE_ROWS * len(by_step(counts)) if hopper else LARGE_ROWS
    if m >= large and sum(counts.values()) == m and not torch.cuda.is_current_stream_capturing():
        return by_bytes(x, layer, widths, counts)
    if m >= launches.HOPPER_ROWS and hopper:
        return hopper_gemm(x, layer, widths)
    return gemm(x, layer, widths)


class Operand:
    """A layer's arrangement with what its kernels were compiled for."""

    def __init__(self, codes: torch.Tensor, tables: torch.Tensor, bits: tuple[int, ...], rows: int) -> None:
        self.codes, self.tables, self.bits, self.rows = codes, tables, bits, rows
        self.units = codes.shape[1]

    def argument(self) -> launches.Layer:
        """The layer's part of a kernel's argument."""
        return launches.layer(self.codes, self.tables, self.rows)


@functools.cache
def processors(device: int) -> int:
    """Multiprocessors of a device."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@functools.cache
def _capability(device: int) -> tuple[int, int]:
    major, minor = torch.cuda.get_device_capability(device)
    return major, minor


def _hopper_or_newer(device: int) -> bool:
    return _capability(device) >= (9, 0)


def _kernel(
    file: str, name: str, options: tuple[str, ...], device: int, shared_bytes: int = launches.SHARED_BYTES
) -> Any:
    return compiled.load(file, name, options, device=device, shared_bytes=shared_bytes)


def skinny(x: torch.Tensor, layer: Operand, widths: torch.Tensor, how: SkinnyLaunch) -> torch.Tensor:
    """Few rows in one kernel, which quantizes them itself."""
    m, columns = x.shape
    out = torch.empty(m, layer.rows, dtype=x.dtype, device=x.device)
    argument = SkinnyArgs(
        layer.argument(), x.data_ptr(), widths.data_ptr(), out.data_ptr(), m, columns, how.parts, how.sharing(m),
        65536 // m + 1,
    )  # fmt: skip
    options = launches.macros(layer.bits, ring=how.ring, granules=how.granules)
    function = _kernel("skinny_gemm", "skinny_gemm", options, x.device.index)
    early = _hopper_or_newer(x.device.index)
    compiled.launch(function, (how.blocks, 1, 1), 32 * how.warps, how.shared_bytes, argument, early=early)
    return out


class Quantized:
    """Rows of x as bytes, sorted by step, with what goes with each place; rows of width 0 become zeros of `out`."""

    def __init__(
        self, x: torch.Tensor, layer: Operand, widths: torch.Tensor, out: torch.Tensor, *, granules: int
    ) -> None:
        m, columns = x.shape
        places = launches.GRANULE * granules or m
        self.granules = granules
        self.bytes = torch.empty(places, layer.units * UNIT, dtype=torch.int8, device=x.device)
        self.scales = torch.empty(places, dtype=torch.float32, device=x.device)
        self.numbers = torch.empty(2, places, dtype=torch.int32, device=x.device)  # sums, rows of x
        addresses = (each.data_ptr() for each in (x, widths, self.bytes, out, self.scales, *self.numbers))
        argument = QuantizeArgs(*addresses, m, layer.rows, columns, layer.units, granules)
        function = _kernel("quantize", "quantize", launches.macros(layer.bits), x.device.index, 0)
        compiled.launch(function, (m, 1, 1), 256, 0, argument, early=_hopper_or_newer(x.device.index))

    def argument(
        self, layer: Operand, widths: torch.Tensor, out: torch.Tensor, *, several: bool = False, tiles: int = 0
    ) -> GemmArgs:
        """What multiplies them."""
        sums, row_of = (each.data_ptr() for each in self.numbers)
        return GemmArgs(
            layer.argument(), self.bytes.data_ptr(), self.scales.data_ptr(), sums, row_of, widths.data_ptr(),
            out.data_ptr(), len(out), self.granules, several, tiles, launches.HOPPER_SHARED_BYTES,
        )  # fmt: skip

    @property
    def row_of(self) -> torch.Tensor:
        """The row of x at each place."""
        return self.numbers[1]


def gemm(x: torch.Tensor, layer: Operand, widths: torch.Tensor, how: GemmLaunch | None = None) -> torch.Tensor:
    """Any number of rows in two kernels."""
    m, device = x.shape[0], x.device.index
    newer, steps = _hopper_or_newer(device), len(steps_of(layer.bits))
    how = how or launches.gemm_launch(
        m, rows=layer.rows, units=layer.units, processors=processors(device),
        hopper=_capability(device) == (9, 0), clusters=newer,
    )  # fmt: skip
    several = m > launches.GRANULE * how.granules  # columns of blocks that all have work share planes in the cache
    out = torch.empty(m, layer.rows, dtype=x.dtype, device=x.device)
    quantized = Quantized(x, layer, widths, out, granules=launches.granules_of(m, steps))
    argument = quantized.argument(layer, widths, out, several=several)
    function = _kernel("gemm", "gemm", launches.gemm_macros(layer.bits, how), device)
    sides = launches.columns_of(m, steps, how), -(-layer.rows // (TILE_ROWS * how.warps))
    grid = (*(sides if several else sides[::-1]), how.cluster)
    shared = launches.gemm_shared_bytes(how, layer.bits)
    compiled.launch(function, grid, 32 * how.warps, shared, argument, early=newer, cluster=how.cluster)
    return out


def hopper_gemm(x: torch.Tensor, layer: Operand, widths: torch.Tensor, how: HopperLaunch | None = None) -> torch.Tensor:
    """Any number of rows in two kernels, on Hopper."""
    m, device = x.shape[0], x.device.index
    units, blocks = layer.units, processors(device)
    how = how or launches.hopper_launch(m, rows=layer.rows, units=units, processors=blocks)
    out = torch.empty(m, layer.rows, dtype=x.dtype, device=x.device)
    quantized = Quantized(x, layer, widths, out, granules=launches.granules_of(m, len(steps_of(layer.bits))))
    shared, argument = launches.HOPPER_SHARED_BYTES, quantized.argument(layer, widths, out, tiles=how.tiles)
    options = launches.macros(
        layer.bits, granules=how.granules, row_groups=how.row_groups, k_groups=how.k_groups
    )  # fmt: skip
    function = _kernel("hopper_gemm", "hopper_gemm", options, device, shared)
    grid = blocks // how.cluster, 1, how.cluster
    compiled.launch(function, grid, how.threads, shared, argument, early=True, cluster=how.cluster)
    return out


def expanded(layer: Operand, *, width: int, first: int, count: int) -> torch.Tensor:
    """Rows first ... first + count (multiples of 16) at a width as int8 (count, 256 units)."""
    out = torch.empty(count, layer.units * UNIT, dtype=torch.int8, device=layer.codes.device)
    argument = ExpandArgs(layer.argument(), out.data_ptr(), step_of(width), first // TILE_ROWS)
    shared = 8 * TILE_ROWS * (UNIT + 16)
    function = _kernel("quantize", "expand", launches.macros(layer.bits), out.device.index, shared)
    compiled.launch(function, (-(-layer.units // 8), count // TILE_ROWS, 1), 256, shared, argument)
    return out


def by_step(counts: Mapping[int, int]) -> list[tuple[int, int]]:
    """How many rows of each step, in the order of quantize.cu: padding comes last."""
    rows: dict[int, int] = {}
    for width, count in counts.items():
        rows[step_of(width)] = rows.get(step_of(width), 0) + count
    return sorted(rows.items(), key=lambda each: each[0] or 9)


def by_bytes(x: torch.Tensor, layer: Operand, widths: torch.Tensor, counts: Mapping[int, int]) -> torch.Tensor:
    """A large batch: some rows of the layer at a time become bytes, for each width the rows that ask for it."""
    from vllm import _custom_ops  # noqa: PLC0415  there only where vLLM serves

    rows, steps = len(layer.tables), by_step(counts)
    out = torch.empty(x.shape[0], rows, dtype=x.dtype, device=x.device)
    quantized = Quantized(x, layer, widths, out, granules=0)
    scales = layer.tables[:, 24:28].contiguous().view(torch.float32).view(-1)
    chunk = max(TILE_ROWS, CHUNK_BYTES // (layer.units * UNIT) // TILE_ROWS * TILE_ROWS)
    if not all(step for step, _ in steps):
        out.zero_()
    parts = list(_parts(quantized, steps))
    for first in range(0, rows, chunk):
        last = min(first + chunk, rows)
        for step, x_bytes, x_scales, row_of in parts:
            weights = expanded(layer, width=step, first=first, count=last - first)
            found = _custom_ops.cutlass_scaled_mm(x_bytes, weights.t(), x_scales, scales[first:last, None], x.dtype)
            if found.shape == out.shape:  # all of it, and one step leaves rows where they are
                return found[:, : layer.rows]
            scatter(found, out[:, first:last], row_of)
    return out[:, : layer.rows]


def _parts(
    quantized: Quantized, steps: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Each step present with the bytes and scales of its rows, and the rows of x they are."""
    begin = 0
    for step, count in steps:
        places, begin = slice(begin, begin + count), begin + count
        if count and step:
            yield step, quantized.bytes[places], quantized.scales[places, None], quantized.row_of[places]


def scatter(found: torch.Tensor, to: torch.Tensor, row_of: torch.Tensor) -> None:
    """Rows, of a multiple of 8 columns, to their places."""
    argument = ScatterArgs(
        found.data_ptr(), to.data_ptr(), row_of.data_ptr(), found.shape[1] // 8, to.stride(0) // 8
    )  # fmt: skip
    function = _kernel("quantize", "scatter", launches.macros((8,)), found.device.index, 0)
    compiled.launch(function, (-(-found.shape[1] // launches.SCATTERED), len(found), 1), 256, 0, argument)
