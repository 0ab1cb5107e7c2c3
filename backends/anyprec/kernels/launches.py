"""What a launch of a kernel is made of: sizes, compiler options, arguments."""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from backends.anyprec.kernels.layout import PLANE_BYTES, TILE_ROWS, UNIT, steps_of

MOST_WARPS = 16
SHARED_BYTES = 224 << 10  # what a block may have, its static part left out
FEW_ROWS = 8  # rows of x that skinny_gemm.cu takes …
MOST_SKINNY, FEW_UNITS = 16, 6  # … and where a layer has no more units of columns
RINGS = (12288, 8192)  # bytes of a warp's words on their way, tried in turn
FEW_WARPS = 8  # of a block that leaves room for another
X_BYTES = 2048  # of 8 rows of x and a unit
DEEP_BYTES = SHARED_BYTES // 3  # of a unit, so that three fit
WGMMA_ROWS = 9  # rows of x from which Hopper's own instruction is worth it
KEPT_SIZES = 4096  # of launches, which take longer to find than to use
GRANULE = 8  # rows of x of one step, which tensor cores take together
SCATTERED = 8 * 4 * 256  # columns that a block of `scatter` moves
# Blocks that share a layer's columns, and the part of the multiprocessors that such clusters can take, for they do not
# cross a group of them.
CLUSTERS = {1: 1.0, 2: 1.0, 3: 0.88, 4: 0.88, 6: 0.7, 8: 0.8}


class Layer(ctypes.Structure):
    """A layer's arrangement, as decode.cuh declares it."""

    _fields_ = [
        ("planes", ctypes.c_void_p), ("rows", ctypes.c_void_p),
        ("n", ctypes.c_int), ("units", ctypes.c_int), ("tile_bytes", ctypes.c_int),
    ]  # fmt: skip


class SkinnyArgs(ctypes.Structure):
    """The argument of skinny_gemm.cu."""

    _fields_ = [
        ("layer", Layer), *((name, ctypes.c_void_p) for name in ("x", "widths", "out")),
        *((name, ctypes.c_int) for name in ("m", "columns", "parts", "sharing", "fraction")),
    ]  # fmt: skip


class GemmArgs(ctypes.Structure):
    """The argument of gemm.cu and hopper_gemm.cu, as decode.cuh declares it."""

    _fields_ = [
        ("layer", Layer), *((name, ctypes.c_void_p) for name in ("x", "scales", "sums", "row_of", "widths", "out")),
        *((name, ctypes.c_int) for name in ("m", "granules", "columns_first", "tiles", "shared_bytes")),
    ]  # fmt: skip


class QuantizeArgs(ctypes.Structure):
    """The argument of quantize.cu's `quantize`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "widths", "to", "out", "scales", "sums", "row_of")),
        *((name, ctypes.c_int) for name in ("m", "n", "columns", "units", "granules")),
    ]  # fmt: skip


class ExpandArgs(ctypes.Structure):
    """The argument of quantize.cu's `expand`."""

    _fields_ = [("layer", Layer), ("to", ctypes.c_void_p), ("step", ctypes.c_int), ("first_tile", ctypes.c_int)]


class ScatterArgs(ctypes.Structure):
    """The argument of quantize.cu's `scatter`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("from", "to", "row_of")),
        ("eights", ctypes.c_int), ("pitch", ctypes.c_int),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class SkinnyLaunch:
    """Sizes of a launch of skinny_gemm.cu."""

    blocks: int
    warps: int
    parts: int  # of the columns
    ring: int
    shared_bytes: int
    granules: int  # of eight rows of x, at most

    def sharing(self, m: int) -> int:
        """Warps that make bytes of one row of x."""
        return max(1, self.warps // m)


@dataclass(frozen=True, slots=True)
class GemmLaunch:
    """Sizes of a launch of gemm.cu; all but `warps` and `cluster` are compiled in."""

    granules: int
    warps: int
    cluster: int
    wgmma: bool
    depth: int = 3


@dataclass(frozen=True, slots=True)
class HopperLaunch:
    """Sizes of a launch of hopper_gemm.cu; the first three are compiled in."""

    granules: int  # of eight rows of x, that a block takes at once
    row_groups: int  # warpgroups side by side, of 64 rows of the layer
    k_groups: int  # warpgroups that share rows, and take the columns by turns
    tiles: int  # of 16 rows of the layer, that a block takes at once
    cluster: int  # blocks that share the columns

    @property
    def threads(self) -> int:
        """Of a block: its warpgroups' and those that copy."""
        return 128 * (self.row_groups * self.k_groups + 1)


HOPPER_SIZES = ((8, 4, 1), (8, 2, 2), (8, 1, 4), (16, 3, 1), (16, 1, 3), (16, 2, 1), (32, 2, 1), (32, 1, 2))
HOPPER_ROWS = 129  # rows of x from which hopper_gemm.cu is the faster
HOPPER_SHARED_BYTES = 206 << 10  # so that what is static fits beside


def hopper_launches(m: int, *, rows: int, units: int, processors: int) -> Iterator[tuple[float, HopperLaunch]]:
    """Launches worth trying, each with the microseconds that a fit to an H200's times expects (docs/gpu.md)."""
    tiles = -(-rows // TILE_ROWS)
    for (granules, row_groups, k_groups), cluster in itertools.product(HOPPER_SIZES, (1, 2)):
        across, places, share = -(-m // (GRANULE * granules)), processors // cluster, -(-units // cluster)
        together = max(places // across, 1)  # tiles of one column that are under way at once
        each = -(-tiles // (-(-tiles // (4 * row_groups * together)) * together))
        if k_groups > share or each > 4 * row_groups:
            continue
        copied, made = 0.009 * (2.5 * each + 2 * granules), 0.86 * max(1, row_groups * k_groups / 2) / k_groups
        unit = max(copied, made) + 1.36 * min(copied, made)
        end = 0.4 + 0.16 * granules + (1.4 if k_groups * cluster > 1 else 0)
        waves = -(-(-(-tiles // each) * across) // places)
        yield waves * (share * unit + end), HopperLaunch(granules, row_groups, k_groups, each, cluster)


@functools.lru_cache(maxsize=KEPT_SIZES)
def hopper_launch(m: int, *, rows: int, units: int, processors: int) -> HopperLaunch:
    """The sizes that are expected to take least."""
    sizes = hopper_launches(m, rows=rows, units=units, processors=processors)
    return min(sizes, key=lambda one: one[0])[1]


@functools.lru_cache(maxsize=KEPT_SIZES)
def skinny_launch(m: int, *, rows: int, units: int, processors: int) -> SkinnyLaunch | None:
    """Warps shared out over rows and columns; None where x does not fit, or another kernel is faster.

    For one or two rows, and four of a narrow layer, a block leaves room for another. So the next layer's weights are
    on their way before this layer ends. More rows, or few columns, take all of a multiprocessor. Warps that have
    nothing to multiply help to quantize.
    """
    tiles = -(-rows // TILE_ROWS)
    if m > (MOST_SKINNY if units <= FEW_UNITS else FEW_ROWS):
        return None
    whole, beside = [(MOST_WARPS, ring, 1) for ring in RINGS], (FEW_WARPS, RINGS[-1], 2)
    wide, few = units >= FEW_WARPS, m <= (4 if tiles <= 2 * processors else 2)
    for most_warps, ring, room in [beside, *whole] if wide and few else whole:
        blocks = min(tiles, processors * (room if tiles > room * processors else 1))
        together = min(-(-tiles // blocks), most_warps)
        parts = max(1, min(most_warps // together, units))
        warps = max(together * parts, most_warps if wide and m > 1 else FEW_WARPS // room)
        working = warps // parts * parts
        shared = working * ring + m * units * UNIT + working * m * TILE_ROWS * 4
        if shared <= SHARED_BYTES // room:
            return SkinnyLaunch(blocks, warps, parts, ring, shared, -(-m // GRANULE))
    return None


def granules_of(m: int, steps: int) -> int:
    """The most granules that m rows of so many steps can fill."""
    return (m + (GRANULE - 1) * min(steps, m)) // GRANULE


@functools.lru_cache(maxsize=KEPT_SIZES)
def gemm_launch(m: int, *, rows: int, units: int, processors: int, hopper: bool, clusters: bool) -> GemmLaunch:
    """The sizes that keep most multiprocessors busy; docs/gpu.md has what they reach."""
    granules = next((g for g in (4, 8) if GRANULE * g >= m), 16)
    tiles, across, wgmma = -(-rows // TILE_ROWS), -(-m // (GRANULE * granules)), hopper and m >= WGMMA_ROWS

    def cost(how: GemmLaunch) -> float:
        blocks = -(-tiles // how.warps) * across * how.cluster
        unit = max(how.warps * (1 + granules / (64 if wgmma else 4)), 12)
        places = int(processors * CLUSTERS[how.cluster]) // how.cluster * how.cluster
        return -(-blocks // places) * (-(-units // how.cluster) * unit + 10 + 3 * how.cluster)

    sizes = [
        GemmLaunch(granules, warps, cluster, wgmma, depth=3 if unit_bytes(granules, warps) <= DEEP_BYTES else 2)
        for warps in (range(4, MOST_WARPS + 1, 4) if wgmma else range(4, MOST_WARPS + 1))
        for cluster in (CLUSTERS if clusters else (1,))
        if cluster <= units
    ]
    return min(sizes, key=cost)


def columns_of(m: int, steps: int, how: GemmLaunch) -> int:
    """Of blocks, side by side, for the worst mixture of steps."""
    columns = -(-granules_of(m, steps) // how.granules)
    window = next((w for w in (4, 2, 1) if w * steps <= how.granules), 0)
    return max(columns, -(-m // (GRANULE * window))) if how.wgmma and window and steps > 1 else columns


def unit_bytes(granules: int, warps: int, step: int = 8) -> int:
    """Of a block's shared memory, for the x and the planes of a unit."""
    return granules * X_BYTES + warps * PLANE_BYTES * step


def gemm_shared_bytes(how: GemmLaunch, bits: Sequence[int]) -> int:
    """The dynamic shared memory of a block."""
    stage = unit_bytes(how.granules, how.warps, steps_of(bits)[-1])
    return max(how.depth * stage, GRANULE * how.granules * (TILE_ROWS * how.warps + 4) * 4)


def macros(bits: Sequence[int], **values: int) -> tuple[str, ...]:
    """The -D options of a kernel for a store of these widths."""
    steps = steps_of(bits)
    each = " ".join(f"X({step})" for step in steps)
    named = (f"{name.upper()}={value}" for name, value in values.items())
    return (f"EACH_STEP(X)={each}", f"WIDEST={steps[-1]}", *named)


def gemm_macros(bits: Sequence[int], how: GemmLaunch) -> tuple[str, ...]:
    """gemm.cu's."""
    return macros(bits, granules=how.granules, threads=32 * MOST_WARPS, wgmma=int(how.wgmma), depth=how.depth)


def require_bfloat16(tensor: torch.Tensor) -> None:
    """Raises: TypeError, for the kernels read every activation as bfloat16."""
    if tensor.dtype != torch.bfloat16:
        raise TypeError(f"activations are {tensor.dtype}; on a GPU they must be {torch.bfloat16}: --dtype bfloat16")


def layer(codes: torch.Tensor, tables: torch.Tensor, rows: int) -> Layer:
    """The layer's part of an argument."""
    return Layer(codes.data_ptr(), tables.data_ptr(), rows, codes.shape[1], codes.shape[2])
