"""Multiplies by a layer straight from its bit planes, each row of the input at its own width.

Up to 16 rows: few.cu. More: many.cu in CUDA graphs; outside them, from 65 rows, some rows of the layer at a time are
dequantized and cuBLAS multiplies. The widths are read on the device, so graphs replay with new ones.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from backends.anyprec.kernels import compiled
from backends.anyprec.kernels.launches import (
    GROUP_COLUMNS,
    Few,
    Launch,
    Many,
    Some,
    choose,
    few_sizes,
    layer,
    macros,
    many_sizes,
    most_tiles,
)

_present: dict[int, tuple[int, ...]] = {}  # by the address of a widths buffer: the widths the host wrote there
LARGE = 65  # rows of x from which dequantizing some rows at a time and cuBLAS is faster than the fused tiles
CHUNK_ROWS = 8192


def announce(widths: torch.Tensor, present: tuple[int, ...]) -> None:
    """Tell which widths this buffer now holds, so that a large batch outside a graph need not ask the device."""
    _present[widths.data_ptr()] = present


def linear(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor, bits: list[int]
) -> torch.Tensor:
    """x (m, K) bfloat16 to (m, N), row t at width widths[t]. Raises: ValueError: K is no multiple of 16."""
    present = _present.get(widths.data_ptr())
    if x.shape[0] >= LARGE and present is not None and not torch.cuda.is_current_stream_capturing():
        return large(x, codes, tables, widths, bits, present)
    return launch(x, codes, tables, widths, bits, choose(x.shape[0], layer_rows=codes.shape[1], words=codes.shape[2]))


def large(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor, bits: list[int],
    present: tuple[int, ...],
) -> torch.Tensor:  # fmt: skip
    """One product for each width present, over the rows that ask for it and zeros in place of the others."""
    if len(present) == 1:
        return by_chunks(x, codes, tables, bits, width=present[0], chunk_rows=CHUNK_ROWS)
    asked = widths[: x.shape[0], None]
    out = x.new_zeros(x.shape[0], codes.shape[1])
    for width in present:
        out += by_chunks(torch.where(asked == width, x, 0), codes, tables, bits, width=width, chunk_rows=CHUNK_ROWS)
    return out


def _function(file: str, name: str, bits: list[int], how: Launch, *, columns: int, device: int) -> tuple[Any, int]:
    sizes, shared = few_sizes(tuple(bits), how) if isinstance(how, Few) else many_sizes(tuple(bits), how)
    options = macros(tuple(bits), whole=int(columns % GROUP_COLUMNS == 0), **dict(sizes))
    places = how.places if isinstance(how, Many) else 64
    return compiled.load(file, name, options, places=places, device=device, shared_bytes=shared), shared


@functools.cache
def _multiprocessors(device: int) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def launch(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor, bits: list[int], how: Launch
) -> torch.Tensor:
    """As `linear`, with the launch's sizes given."""
    x, m, n, device = x.contiguous(), x.shape[0], codes.shape[1], x.device.index
    out = torch.empty(m, n, dtype=x.dtype, device=x.device)
    argument = layer(x, codes, tables, widths, bits, out, columns=x.shape[1])
    if isinstance(how, Few):
        function, shared = _function("few", "few", bits, how, columns=x.shape[1], device=device)
        blocks = min(-(-n // 16), how.resident * _multiprocessors(device))
        compiled.launch(function, (blocks, 1), 32 * how.warps, shared, argument)
    else:
        function, shared = _function("many", "many", bits, how, columns=x.shape[1], device=device)
        tiles = most_tiles(m, how.places, len(bits))
        compiled.launch(function, (-(-n // 64), tiles), 128 * how.groups, shared, argument)
    return out


def dequantize_rows(
    codes: torch.Tensor, tables: torch.Tensor, bits: list[int], *, width: int, first: int, out: torch.Tensor
) -> None:
    """Rows first … first + len(out) of the layer at `width` into out (rows, K) bfloat16."""
    count, columns = out.shape
    how = Many(16, 4)
    function, _ = _function("many", "dequantize", bits, how, columns=columns, device=out.device.index)
    argument = Some(layer(None, codes, tables, None, bits, out, columns=columns), width, first, count)
    shared = dict(many_sizes(tuple(bits), how)[0])["table_bytes"]
    compiled.launch(function, (-(-count // 64), 2), 128 * how.groups, shared, argument)


def by_chunks(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, bits: list[int], *, width: int, chunk_rows: int
) -> torch.Tensor:
    """x (m, K) at one width: some rows of the layer at a time into a scratch buffer that stays in the cache."""
    m, n = x.shape[0], codes.shape[1]
    out = torch.empty(m, n, dtype=x.dtype, device=x.device)
    weights = torch.empty(min(chunk_rows, n), x.shape[1], dtype=x.dtype, device=x.device)
    for first in range(0, n, chunk_rows):
        part = weights[: min(chunk_rows, n - first)]
        dequantize_rows(codes, tables, bits, width=width, first=first, out=part)
        torch.mm(x, part.t(), out=out[:, first : first + part.shape[0]])
    return out
