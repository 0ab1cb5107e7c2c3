"""Triton kernels that multiply by a layer straight from its bit planes, each row of the input at its own width.

A batch of one row is a sum of products (`_vector`). Larger batches dequantize tile by tile and use the tensor cores
(`_tile`), skipping every width that no row of the tile asks for. Weights of up to 4 bits are looked up by permuting
bytes in registers, wider ones in memory (L1). The widths are read on the device, so the kernels replay in CUDA graphs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from backends.anyprec.kernels.layout import PERMUTED_BITS, doubled_offset, offsets

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _permute(a, b, selector):
    """Byte i of the result is byte s of b:a, where s is nibble i of the selector (0 to 7): PTX prmt."""
    if INTERPRETED:
        result = (a + b + selector) * 0
        for i in tl.static_range(4):
            s = (selector >> (4 * i)) & 7
            source = tl.where(s < 4, a, b)
            result = result | (((source >> ((s & 3) * 8)) & 0xFF) << (8 * i))
        return result
    else:
        return tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, selector], dtype=tl.int32, is_pure=True, pack=1
        )


@triton.jit
def _bit(plane, s: tl.constexpr, at: tl.constexpr):
    """Bits s, s + 4, … of each word, moved to bit `at` of every nibble."""
    mask: tl.constexpr = ((0x11111111 << at) + 2**31) % 2**32 - 2**31  # as a signed number
    if s >= at:
        return (plane >> (s - at)) & mask
    else:
        return (plane << (at - s)) & mask


@triton.jit
def _upper(p0, p1, p2, p3, s: tl.constexpr, count: tl.constexpr):
    """The code made of the first `count` planes (at most 4), one in each nibble."""
    code = _bit(p0, s, count - 1)
    if count > 1:
        code = code | _bit(p1, s, count - 2)
    if count > 2:
        code = code | _bit(p2, s, count - 3)
    if count > 3:
        code = code | _bit(p3, s, count - 4)
    return code


@triton.jit
def _split_table(table32):
    """The first four entries of tables of 16-bit entries: their low bytes and their high bytes, (rows, 1) each."""
    w0 = tl.load(table32)
    w1 = tl.load(table32 + 1)
    return _permute(w0, w1, 0x6420), _permute(w0, w1, 0x7531)


@triton.jit
def _look_up_eight(selector, low0, low1, high0, high1):
    """Low and high bytes of four entries of a table of eight, by the low four nibbles of the selector."""
    return _permute(low0, low1, selector), _permute(high0, high1, selector)


@triton.jit
def _look_up_sixteen(selector, fourth, l0, l1, l2, l3, h0, h1, h2, h3):
    """As above in a table of sixteen; `fourth` has 4 in each nibble whose code is 8 or more."""
    mask = _permute(0, 0xFF, fourth)
    low = (_permute(l0, l1, selector) & ~mask) | (_permute(l2, l3, selector) & mask)
    high = (_permute(h0, h1, selector) & ~mask) | (_permute(h2, h3, selector) & mask)
    return low, high


@triton.jit
def _code_bytes(p0, p1, p2, p3, p4, p5, p6, p7, s: tl.constexpr, width: tl.constexpr):
    """Codes of more than 4 bits, one a byte: those of even nibbles (e = 0) and those of odd ones (e = 1)."""
    upper = _upper(p0, p1, p2, p3, s, 4)
    lower = _upper(p4, p5, p6, p7, s, width - 4)
    rest: tl.constexpr = width - 4
    even = ((upper & 0x0F0F0F0F) << rest) | (lower & 0x0F0F0F0F)
    odd = (((upper >> 4) & 0x0F0F0F0F) << rest) | ((lower >> 4) & 0x0F0F0F0F)
    return even, odd


@triton.jit
def _tables(table32, width: tl.constexpr):
    """Byte tables of a narrow width, eight of them; those a table of eight does not need repeat the first."""
    l0, h0 = _split_table(table32 + 0)
    l1, h1 = _split_table(table32 + 2)
    if width == 4:
        l2, h2 = _split_table(table32 + 4)
        l3, h3 = _split_table(table32 + 6)
    else:
        l2, h2, l3, h3 = l0, h0, l1, h1
    return l0, l1, l2, l3, h0, h1, h2, h3


@triton.jit
def _looked_up(
    p0, p1, p2, p3, s: tl.constexpr, half: tl.constexpr, width: tl.constexpr, l0, l1, l2, l3, h0, h1, h2, h3
):
    """Low and high bytes of the four weights in half a word's nibbles, for widths up to 4."""
    if width == 4:
        selector = _upper(p1, p2, p3, p3, s, 3) >> (16 * half)
        fourth = _bit(p0, s, 2) >> (16 * half)
        return _look_up_sixteen(selector, fourth, l0, l1, l2, l3, h0, h1, h2, h3)
    else:
        selector = _upper(p0, p1, p2, p3, s, width) >> (16 * half)
        return _look_up_eight(selector, l0, l1, h0, h1)


@triton.jit
def _entry(table, code):
    """The 16 bits of an entry of each row's table (rows, 1), as an integer.

    Written in PTX because Triton would give a gather lanes of its own and move every index and value through shared
    memory.
    """
    if INTERPRETED:
        return tl.load(table.to(tl.pointer_type(tl.int16)) + code).to(tl.int32) & 0xFFFF
    else:
        return tl.inline_asm_elementwise(
            "{ .reg .u64 at; mad.wide.u32 at, $2, 2, $1; ld.global.nc.u16 $0, [at]; }", "=r,l,r",
            [table.to(tl.int64), code], dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip


@triton.jit
def _planes_at(planes, where, mask, stride: tl.constexpr, WIDTH: tl.constexpr):
    """The first WIDTH planes' words at `where`; the rest repeat plane 0 and are not used."""
    p0 = tl.load(planes + where, mask=mask, other=0)
    p1, p2, p3, p4, p5, p6, p7 = p0, p0, p0, p0, p0, p0, p0
    if WIDTH > 1:
        p1 = tl.load(planes + stride + where, mask=mask, other=0)
    if WIDTH > 2:
        p2 = tl.load(planes + 2 * stride + where, mask=mask, other=0)
    if WIDTH > 3:
        p3 = tl.load(planes + 3 * stride + where, mask=mask, other=0)
    if WIDTH > 4:
        p4 = tl.load(planes + 4 * stride + where, mask=mask, other=0)
    if WIDTH > 5:
        p5 = tl.load(planes + 5 * stride + where, mask=mask, other=0)
    if WIDTH > 6:
        p6 = tl.load(planes + 6 * stride + where, mask=mask, other=0)
    if WIDTH > 7:
        p7 = tl.load(planes + 7 * stride + where, mask=mask, other=0)
    return p0, p1, p2, p3, p4, p5, p6, p7


@triton.jit
def _pairs(
    p0, p1, p2, p3, p4, p5, p6, p7, s: tl.constexpr, WIDTH: tl.constexpr, table,
    l0, l1, l2, l3, h0, h1, h2, h3,
):  # fmt: skip
    """The eight weights of step s in each word, as four words of two bfloat16 (q = 0 … 3)."""
    if WIDTH <= 4:
        low, high = _looked_up(p0, p1, p2, p3, s, 0, WIDTH, l0, l1, l2, l3, h0, h1, h2, h3)
        pair0 = _permute(low, high, 0x5140)
        pair1 = _permute(low, high, 0x7362)
        low, high = _looked_up(p0, p1, p2, p3, s, 1, WIDTH, l0, l1, l2, l3, h0, h1, h2, h3)
        pair2 = _permute(low, high, 0x5140)
        pair3 = _permute(low, high, 0x7362)
    else:
        even, odd = _code_bytes(p0, p1, p2, p3, p4, p5, p6, p7, s, WIDTH)
        pair0 = _entry(table, even & 0xFF) | (_entry(table, odd & 0xFF) << 16)
        pair1 = _entry(table, (even >> 8) & 0xFF) | (_entry(table, (odd >> 8) & 0xFF) << 16)
        pair2 = _entry(table, (even >> 16) & 0xFF) | (_entry(table, (odd >> 16) & 0xFF) << 16)
        pair3 = _entry(table, (even >> 24) & 0xFF) | (_entry(table, (odd >> 24) & 0xFF) << 16)
    return pair0, pair1, pair2, pair3


@triton.jit
def _first(pair):
    """The first bfloat16 of a pair, as float32."""
    return (pair << 16).to(tl.float32, bitcast=True)


@triton.jit
def _second(pair):
    """The second bfloat16 of a pair, as float32."""
    return (pair & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _four_products(sums, low, high, x0, x1):
    """Adds four weights, looked up as bytes of doubled patterns, times two pairs of x."""
    sums += _permute(low, high, 0x4040).to(tl.float32, bitcast=True) * _first(x0)[None, :]
    sums += _permute(low, high, 0x5151).to(tl.float32, bitcast=True) * _second(x0)[None, :]
    sums += _permute(low, high, 0x6262).to(tl.float32, bitcast=True) * _first(x1)[None, :]
    sums += _permute(low, high, 0x7373).to(tl.float32, bitcast=True) * _second(x1)[None, :]
    return sums


@triton.jit
def _two_products(sums, table, even, odd, x):
    """Adds two weights, looked up in memory, times one pair of x."""
    sums += _first(_entry(table, even & 0xFF)) * _first(x)[None, :]
    sums += _first(_entry(table, odd & 0xFF)) * _second(x)[None, :]
    return sums


@triton.jit
def _vector_at(
    x32, planes, tables, rows, zero, K: tl.constexpr, KW: tl.constexpr, N: tl.constexpr, GROUP: tl.constexpr,
    STRIDE: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Products of one row of x with BN rows of the layer at one width: (BN,) float32."""
    table = tables + tl.minimum(rows, N - 1)[:, None] // GROUP * STRIDE + FIRST
    sums = tl.zeros((BN, BW), tl.float32)
    if WIDTH <= 4:
        l0, l1, l2, l3, h0, h1, h2, h3 = _tables(table.to(tl.pointer_type(tl.int32)), WIDTH)
    for start in tl.range(0, KW, BW):
        words = start + tl.arange(0, BW)
        # `zero` hides the alignment: with one word a lane, words and x lie in the same lanes and nothing moves.
        where = rows[:, None] * KW + words[None, :] + zero
        mask = (rows < N)[:, None] & (words < KW)[None, :]
        p0, p1, p2, p3, p4, p5, p6, p7 = _planes_at(planes, where, mask, N * KW, WIDTH)
        pair = ((words // 8) * 128 + (words % 8) * 4)[:, None] + tl.arange(0, 4)[None, :]
        for s in tl.static_range(4):
            x = tl.load(x32 + pair + 32 * s, mask=pair + 32 * s < K // 2, other=0)
            x02, x13 = tl.split(x.reshape(BW, 2, 2))
            x0, x2 = tl.split(x02)
            x1, x3 = tl.split(x13)
            if WIDTH <= 4:
                low, high = _looked_up(p0, p1, p2, p3, s, 0, WIDTH, l0, l1, l2, l3, h0, h1, h2, h3)
                sums = _four_products(sums, low, high, x0, x1)
                low, high = _looked_up(p0, p1, p2, p3, s, 1, WIDTH, l0, l1, l2, l3, h0, h1, h2, h3)
                sums = _four_products(sums, low, high, x2, x3)
            else:
                even, odd = _code_bytes(p0, p1, p2, p3, p4, p5, p6, p7, s, WIDTH)
                sums = _two_products(sums, table, even, odd, x0)
                sums = _two_products(sums, table, even >> 8, odd >> 8, x1)
                sums = _two_products(sums, table, even >> 16, odd >> 16, x2)
                sums = _two_products(sums, table, even >> 24, odd >> 24, x3)
    return tl.sum(sums, 1)


@triton.jit(do_not_specialize=["zero"])
def _vector(
    x32, planes, tables, widths, out, zero, K: tl.constexpr, KW: tl.constexpr, N: tl.constexpr, GROUP: tl.constexpr,
    STRIDE: tl.constexpr, BITS: tl.constexpr, FIRSTS: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """One row of x (K,) bfloat16, read as pairs, to out (N,)."""
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    width = tl.load(widths)
    sums = tl.zeros((BN,), tl.float32)
    for i in tl.static_range(len(BITS)):
        if width == BITS[i]:
            sums = _vector_at(x32, planes, tables, rows, zero, K, KW, N, GROUP, STRIDE, FIRSTS[i], BITS[i], BN, BW)
    tl.store(out + rows, sums.to(out.dtype.element_ty), mask=rows < N)


@triton.jit
def _multiply(weights, part, sums):
    """sums + weights @ part; the interpreter's own dot does not know bfloat16, whose values float32 holds exactly."""
    if INTERPRETED:
        return tl.dot(weights.to(tl.float32), part.to(tl.float32), sums)
    else:
        return tl.dot(weights, part, sums)


@triton.jit
def _joined(pair0, pair1, pair2, pair3):
    """Four words (BN, BW) of two 16-bit values each to (BN, 8 BW) bfloat16, the eight of a word side by side."""
    e0 = tl.join(tl.join(pair0, pair2), tl.join(pair1, pair3))
    both = tl.join(e0 & 0xFFFF, e0 >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return both.reshape(pair0.shape[0], 8 * pair0.shape[1])


@triton.jit
def _tile_at(
    sums, x, planes, tables, rows, tokens, taken, zero, K: tl.constexpr, KW: tl.constexpr, N: tl.constexpr,
    GROUP: tl.constexpr, STRIDE: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr, STAGES: tl.constexpr, begin, end,
):  # fmt: skip
    """Adds to sums (BN, BM) the products of the taken rows of x, words begin to end, with BN rows at one width."""
    table = tables + tl.minimum(rows, N - 1)[:, None] // GROUP * STRIDE + FIRST
    if WIDTH <= 4:
        l0, l1, l2, l3, h0, h1, h2, h3 = _tables(table.to(tl.pointer_type(tl.int32)), WIDTH)
    else:
        l0, l1, l2, l3, h0, h1, h2, h3 = 0, 0, 0, 0, 0, 0, 0, 0
    k = tl.arange(0, 8 * BW)
    stages: tl.constexpr = STAGES if WIDTH <= 4 else 1  # look-ups in memory wait for themselves, not for planes
    for start in tl.range(begin, end, BW, num_stages=stages):
        words = start + tl.arange(0, BW)
        where = rows[:, None] * KW + words[None, :]
        if WIDTH > 4:
            where += zero  # one word a lane: a warp then looks up in few rows' tables at a time
        mask = (rows < N)[:, None] & (words < KW)[None, :]
        p0, p1, p2, p3, p4, p5, p6, p7 = _planes_at(planes, where, mask, N * KW, WIDTH)
        for s in tl.static_range(4):
            column = start * 32 + (k // 64) * 256 + 64 * s + k % 64
            part = tl.load(
                x + tokens[None, :] * K + column[:, None], mask=taken[None, :] & (column < K)[:, None], other=0.0
            )
            pair0, pair1, pair2, pair3 = _pairs(
                p0, p1, p2, p3, p4, p5, p6, p7, s, WIDTH, table, l0, l1, l2, l3, h0, h1, h2, h3
            )
            sums = _multiply(_joined(pair0, pair1, pair2, pair3), part, sums)
    return sums


@triton.jit
def _last_to_arrive(sums, scratch, arrived, SPLITS: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr):
    """Leaves this part of the sums (BN, BM) in scratch; the last program of a tile adds all parts, in order.

    Returns the total and whether this program has it. The counter is left at 0 for the next launch.
    """
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    inner = tl.arange(0, BN)[:, None] * BM + tl.arange(0, BM)[None, :]
    parts = scratch + tile * SPLITS * BN * BM + inner
    tl.store(parts + tl.program_id(2) * BN * BM, sums)
    tl.debug_barrier()
    last = tl.atomic_add(arrived + tile, 1, sem="acq_rel") == SPLITS - 1
    if last:
        sums = tl.zeros((BN, BM), tl.float32)
        for part in tl.static_range(SPLITS):
            sums += tl.load(parts + part * BN * BM, cache_modifier=".cg")
        tl.store(arrived + tile, 0)
    return sums, last


@triton.jit(do_not_specialize=["M", "zero"])
def _tile(
    x, planes, tables, widths, out, scratch, arrived, M, zero, K: tl.constexpr, KW: tl.constexpr, N: tl.constexpr,
    GROUP: tl.constexpr, STRIDE: tl.constexpr, BITS: tl.constexpr, FIRSTS: tl.constexpr, BN: tl.constexpr,
    BM: tl.constexpr, BW: tl.constexpr, STAGES: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """x (M, K) to out (M, N), a tile of BM rows of x and BN of the layer; widths absent from the tile cost nothing."""
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    tokens = tl.program_id(1) * BM + tl.arange(0, BM)
    asked = tl.load(widths + tokens, mask=tokens < M, other=0)
    share: tl.constexpr = (KW + SPLITS * BW - 1) // (SPLITS * BW) * BW
    begin = tl.program_id(2) * share
    end = tl.minimum(begin + share, KW)
    sums = tl.zeros((BN, BM), tl.float32)
    for i in tl.static_range(len(BITS)):
        taken = asked == BITS[i]
        if tl.max(taken.to(tl.int32), 0) > 0:
            sums = _tile_at(
                sums, x, planes, tables, rows, tokens, taken, zero, K, KW, N, GROUP, STRIDE, FIRSTS[i], BITS[i],
                BN, BM, BW, STAGES, begin, end,
            )  # fmt: skip
    mine = True
    if SPLITS > 1:
        sums, mine = _last_to_arrive(sums, scratch, arrived, SPLITS, BN, BM)
    where = tokens[None, :] * N + rows[:, None]
    tl.store(out + where, sums.to(out.dtype.element_ty), mask=((tokens < M)[None, :] & (rows < N)[:, None]) & mine)


@triton.jit(do_not_specialize=["first_row", "zero"])
def _dequantize(
    planes, tables, out32, first_row, zero, K: tl.constexpr, KW: tl.constexpr, N: tl.constexpr, GROUP: tl.constexpr,
    STRIDE: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Rows first_row … of the layer at one width as bfloat16 pairs (rows, K / 2), a tile of BN rows and BW words."""
    local = tl.program_id(0) * BN + tl.arange(0, BN)
    rows = first_row + local
    words = tl.program_id(1) * BW + tl.arange(0, BW)
    table = tables + tl.minimum(rows, N - 1)[:, None] // GROUP * STRIDE + FIRST
    mask = (rows < N)[:, None] & (words < KW)[None, :]
    if WIDTH <= 4:
        l0, l1, l2, l3, h0, h1, h2, h3 = _tables(table.to(tl.pointer_type(tl.int32)), WIDTH)
    else:
        l0, l1, l2, l3, h0, h1, h2, h3 = 0, 0, 0, 0, 0, 0, 0, 0
    where = rows[:, None] * KW + words[None, :] + zero
    p0, p1, p2, p3, p4, p5, p6, p7 = _planes_at(planes, where, mask, N * KW, WIDTH)
    inner = tl.arange(0, 4 * BW)
    for s in tl.static_range(4):
        pair0, pair1, pair2, pair3 = _pairs(
            p0, p1, p2, p3, p4, p5, p6, p7, s, WIDTH, table, l0, l1, l2, l3, h0, h1, h2, h3
        )
        pairs = tl.join(tl.join(pair0, pair2), tl.join(pair1, pair3)).reshape(BN, 4 * BW)
        at = (tl.program_id(1) * (BW // 8) + inner // 32) * 128 + 32 * s + inner % 32
        inside = (rows < N)[:, None] & (at < K // 2)[None, :]
        tl.store(out32 + local[:, None] * (K // 2) + at[None, :], pairs, mask=inside)


@dataclass(frozen=True, slots=True)
class Launch:
    """Sizes of one launch: BN rows of the layer, BM rows of x and BW words of 32 columns a program."""

    bn: int
    bm: int
    bw: int
    warps: int
    stages: int = 1
    splits: int = 1  # programs that share one tile's columns
    registers: int | None = None  # at most, a thread


def choose(rows: int, *, layer_rows: int, words: int) -> Launch:
    """What was fastest on an H200 for this many rows of x; docs/gpu.md has the figures."""
    if rows == 1:
        tall = layer_rows > 4096 and words <= 128
        return Launch(4, 1, 32, 1, registers=80) if tall else Launch(2, 1, 64, 1)
    few = 4 if layer_rows <= 8192 else 1
    wanted = few if rows <= 16 else 256 // triton.cdiv(layer_rows, 64)
    splits = max(1, min(4, wanted, words // 32))
    return Launch(64, 16 if rows <= 16 else 64, 8, 4, 2, splits)


_arrived: dict[torch.device, torch.Tensor] = {}  # counters of the split tiles, all 0 between launches
MOST_TILES = 65536


def _counters(device: torch.device) -> torch.Tensor:
    if device not in _arrived:
        _arrived[device] = torch.zeros(MOST_TILES, dtype=torch.int32, device=device)
    return _arrived[device]


_present: dict[int, tuple[int, ...]] = {}  # by the address of a widths buffer: the widths the host wrote there
LARGE = 65  # rows of x from which dequantizing some rows at a time and cuBLAS is faster than the fused tiles
CHUNK_ROWS = 8192


def announce(widths: torch.Tensor, present: tuple[int, ...]) -> None:
    """Tell which widths this buffer now holds, so that a large batch outside a graph need not ask the device."""
    _present[widths.data_ptr()] = present


def linear(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor, bits: list[int]
) -> torch.Tensor:
    """x (m, K) bfloat16 to (m, N), row t at width widths[t]."""
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


def _shape(x_columns: int, codes: torch.Tensor, tables: torch.Tensor) -> dict[str, int]:
    rows, words = codes.shape[1:]
    return {"K": x_columns, "KW": words, "N": rows, "GROUP": rows // tables.shape[0], "STRIDE": tables.shape[1]}


def launch(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor, bits: list[int], how: Launch
) -> torch.Tensor:
    """As `linear`, with the launch's sizes given."""
    x, m, n = x.contiguous(), x.shape[0], codes.shape[1]
    out = torch.empty(m, n, dtype=x.dtype, device=x.device)
    layer = {**_shape(x.shape[1], codes, tables), "BITS": tuple(bits), "BN": how.bn, "BW": how.bw}
    if how.bm == 1:
        firsts = tuple(doubled_offset(bits, b) if b <= PERMUTED_BITS else offsets(bits)[b] for b in bits)
        _vector[(triton.cdiv(n, how.bn),)](
            x.view(torch.int32),
            codes,
            tables,
            widths,
            out,
            0,
            FIRSTS=firsts,
            num_warps=how.warps,
            maxnreg=how.registers,
            **layer,
        )
        return out
    firsts = tuple(offsets(bits)[b] for b in bits)
    grid = (triton.cdiv(n, how.bn), triton.cdiv(m, how.bm), how.splits)
    parts = grid[0] * grid[1] * how.splits * how.bn * how.bm if how.splits > 1 else 1
    scratch = torch.empty(parts, dtype=torch.float32, device=x.device)
    _tile[grid](
        x, codes, tables, widths, out, scratch, _counters(x.device), m, 0, FIRSTS=firsts, BM=how.bm, STAGES=how.stages,
        SPLITS=how.splits, num_warps=how.warps, num_stages=how.stages, **layer,
    )  # fmt: skip
    return out


def dequantize_rows(
    codes: torch.Tensor, tables: torch.Tensor, bits: list[int], *, width: int, first: int, out: torch.Tensor
) -> None:
    """Rows first … first + len(out) of the layer at `width` into out (rows, K) bfloat16."""
    bn, bw = 4, 32
    grid = (triton.cdiv(out.shape[0], bn), triton.cdiv(codes.shape[2], bw))
    _dequantize[grid](
        codes, tables, out.view(torch.int32), first, 0, **_shape(out.shape[1], codes, tables),
        FIRST=offsets(bits)[width], WIDTH=width, BN=bn, BW=bw, num_warps=1,
    )  # fmt: skip


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
