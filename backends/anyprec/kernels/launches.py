"""What a launch of a kernel is made of: sizes, compiler options, arguments."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import torch

from backends.anyprec.kernels.layout import aligned_offsets

GROUP_COLUMNS = 512  # columns in a multiple of these need no checks
MOST_BITS = 8
TABLE_BYTES = {"few": 128, "many": 64}  # of an entry, with its copies


class Layer(ctypes.Structure):
    """The first argument of every kernel, as they declare it."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("planes", "tables", "widths", "x", "out")),
        *((name, ctypes.c_int) for name in ("m", "rows", "columns", "words", "group", "stride")),
        ("first", ctypes.c_int * (MOST_BITS + 1)),
    ]  # fmt: skip


class Some(ctypes.Structure):
    """The argument of `dequantize`."""

    _fields_ = [("layer", Layer), *((name, ctypes.c_int) for name in ("width", "first_row", "count"))]


@dataclass(frozen=True, slots=True)
class Few:
    """A launch of few.cu: its TILES, NARROW_SPAN and WIDE_SPAN, warps a block, blocks on a multiprocessor."""

    tiles: int
    narrow_span: int
    wide_span: int
    warps: int
    resident: int


@dataclass(frozen=True, slots=True)
class Many:
    """A launch of many.cu: its PLACES and GROUPS."""

    places: int
    groups: int


Launch = Few | Many


def choose(rows: int, *, layer_rows: int, words: int) -> Launch:
    """What was fastest on an H100 for this many rows of x; docs/gpu.md has the figures."""
    wide = layer_rows > 8192
    if rows <= 8:
        square = not wide and 64 <= words <= 128
        return Few(1, 4, 2, 4, 4) if square else Few(1, 4, 2, 6, 2)
    if rows <= 16:
        return Few(2, 2, 1, 8, 2) if wide else Few(2, 4, 2, 4, 3)
    if rows <= 64:
        return Many(32, 4) if rows <= 32 or layer_rows <= 4096 else Many(64, 4)
    return Many(128, 2)


def require_bfloat16(tensor: torch.Tensor) -> None:
    """Raises: TypeError, for the kernels read every activation as bfloat16."""
    if tensor.dtype != torch.bfloat16:
        raise TypeError(f"activations are {tensor.dtype}; on a GPU they must be {torch.bfloat16}: --dtype bfloat16")


def layer(
    x: torch.Tensor | None, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor | None, bits: list[int],
    out: torch.Tensor, *, columns: int,
) -> Layer:  # fmt: skip
    """A kernel's first argument. Raises: ValueError: columns are no multiple of 16; TypeError: another type."""
    require_bfloat16(out if x is None else x)
    if columns % 16:
        raise ValueError(f"{columns} columns: the kernels take multiples of 16")
    firsts, stride = aligned_offsets(bits)
    first = (ctypes.c_int * (MOST_BITS + 1))(*(firsts.get(width, 0) for width in range(MOST_BITS + 1)))
    addresses = (t.data_ptr() if t is not None else 0 for t in (codes, tables, widths, x, out))
    rows, words = codes.shape[1:]
    m = x.shape[0] if x is not None else 0
    return Layer(*addresses, m, rows, columns, words, rows // tables.shape[0], stride, first)


def macros(bits: tuple[int, ...], **values: int) -> tuple[str, ...]:
    """The -D options of a kernel for a store of these widths, ascending."""
    each = " ".join(f"X({width})" for width in bits)
    return (f"EACH_WIDTH(X)={each}", *(f"{name.upper()}={value}" for name, value in values.items()))


@functools.cache
def few_sizes(bits: tuple[int, ...], how: Few) -> tuple[tuple[tuple[str, int], ...], int]:
    """The macros of few.cu and the bytes of shared memory a block."""
    narrow, wide = [b for b in bits if b <= 4], max(bits) > 4
    table = max(32768 if 4 in bits else 0, TABLE_BYTES["few"] << max(bits) if wide else 0)
    stage = 256 * max(max(narrow, default=0) * how.narrow_span, max(bits) * how.wide_span if wide else 0)
    raw = 1024 * -(-8 // how.warps)
    values = {
        "tiles": how.tiles, "narrow_span": how.narrow_span, "wide_span": how.wide_span, "threads": 32 * how.warps,
        "resident": how.resident, "table_bytes": table, "stage_bytes": stage, "raw_bytes": raw,
    }  # fmt: skip
    return tuple(values.items()), table + how.warps * (512 * how.tiles + raw + 2 * stage)


@functools.cache
def many_sizes(bits: tuple[int, ...], how: Many) -> tuple[tuple[tuple[str, int], ...], int]:
    """The macros of many.cu and the bytes of shared memory a block."""
    table = 4 * TABLE_BYTES["many"] << max(bits) if max(bits) > 3 else 0
    values = {"places": how.places, "groups": how.groups, "table_bytes": table, "table_times": TABLE_BYTES["many"]}
    return tuple(values.items()), max(table + how.groups * 3 * 128 * how.places, how.groups * 256 * how.places)


def most_tiles(rows: int, places: int, widths: int) -> int:
    """How many tiles rows of x can make when each tile has rows of one width."""
    return max(1, (rows + (places - 1) * min(widths, rows)) // places)
