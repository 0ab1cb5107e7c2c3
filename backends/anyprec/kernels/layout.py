"""How one layer's bits lie on a device.

On a CPU: one byte a weight, its widest code, because a CPU has no cheap way to gather single bits.

On a GPU: planes still, so that a narrow width reads only its own, but in blocks of 256 columns, which are 8 words.
Column 256 B + 64 s + 8 l + 2 q + e lies in word 8 B + l, at bit s + 8 q + 4 e. So one shift by s and one mask give the
bits of eight neighbouring columns, one in each nibble, where a byte permutation can use them as indices; and the eight
words of a block hold 64 neighbouring columns for one s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

WORD_BITS = 32
BLOCK_WORDS = 8
PERMUTED_BITS = 4  # widths up to this are looked up by byte permutation, wider ones in memory


@dataclass(frozen=True, slots=True)
class Laid:
    """A layer as the operator wants it."""

    codes: torch.Tensor  # CPU: uint8 (N, K), the widest code; GPU: int32 (P, N, 8 ceil(K/256)), permuted planes
    tables: torch.Tensor  # (N/g, sum of 2^k over the widths, ascending), in the activations' type; GPU: see below


def lay_out(planes: torch.Tensor, tables: Mapping[int, torch.Tensor], *, columns: int, dtype: torch.dtype) -> Laid:
    """The store's planes uint32 (P, N, ceil(K/32)) and tables {k: (N/g, 2^k)} to the layout of their device."""
    if planes.device.type == "cpu":
        joined = torch.cat([tables[k] for k in sorted(tables)], dim=1)
        return Laid(widest_codes(planes.view(torch.int32), columns=columns), joined.to(dtype).contiguous())
    return lay_out_for_gpu(planes, tables)


def lay_out_for_gpu(planes: torch.Tensor, tables: Mapping[int, torch.Tensor]) -> Laid:
    """Permuted planes; tables in bfloat16, and behind them those of narrow widths once more as `doubled` patterns."""
    plain = [tables[k].to(torch.bfloat16) for k in sorted(tables)]
    twice = [doubled(tables[k]) for k in sorted(tables) if k <= PERMUTED_BITS]
    return Laid(permute_planes(planes.view(torch.int32)), torch.cat(plain + twice, dim=1).contiguous())


def offsets(bits: Sequence[int]) -> dict[int, int]:
    """Where each width's table begins in a joined table row."""
    found, at = {}, 0
    for k in bits:
        found[k], at = at, at + 2**k
    return found


def doubled_offset(bits: Sequence[int], width: int) -> int:
    """Where the doubled table of a narrow width begins in a joined table row on a GPU."""
    return sum(1 << k for k in bits) + sum(1 << k for k in bits if k < width)


def doubled(table: torch.Tensor) -> torch.Tensor:
    """Patterns t of 16 bits such that the float32 with bits t, t is nearest to the wanted value; as bfloat16 bits.

    One byte permutation then makes a float32 out of two looked-up bytes, with no shift and no mask.
    """
    wanted = table.to(torch.float32)
    near = (wanted.view(torch.int32) >> 16)[..., None] + torch.arange(-1, 2, dtype=torch.int32, device=table.device)
    near = near & 0xFFFF
    value = ((near << 16) | near).view(torch.float32)
    error = (value - wanted[..., None]).abs().nan_to_num(torch.inf, torch.inf, torch.inf)
    best = near.gather(-1, error.argmin(-1, keepdim=True)).squeeze(-1)
    return torch.where(best >= 2**15, best - 2**16, best).to(torch.int16).view(torch.bfloat16)


def widest_codes(planes: torch.Tensor, *, columns: int) -> torch.Tensor:
    """Planes int32 (P, N, W) to codes uint8 (N, columns)."""
    bits = torch.arange(WORD_BITS, dtype=torch.int32, device=planes.device)
    codes = torch.zeros(planes.shape[1], planes.shape[2] * WORD_BITS, dtype=torch.uint8, device=planes.device)
    for plane in planes:
        bit = (plane[:, :, None] >> bits) & 1
        codes = (codes << 1) | bit.reshape(codes.shape).to(torch.uint8)
    return codes[:, :columns].contiguous()


def permute_planes(planes: torch.Tensor) -> torch.Tensor:
    """Planes int32 (P, N, W) in the store's order to (P, N, 8 ceil(W/8)) in the order this module describes."""
    missing = -planes.shape[2] % BLOCK_WORDS
    source = torch.nn.functional.pad(planes, (0, missing)).unflatten(2, (-1, BLOCK_WORDS))
    permuted = torch.zeros_like(source)
    for word in range(BLOCK_WORDS):
        for bit in range(WORD_BITS):
            column = 64 * (bit % 4) + 8 * word + 2 * (bit // 8) + bit // 4 % 2
            permuted[..., word] |= ((source[..., column // WORD_BITS] >> (column % WORD_BITS)) & 1) << bit
    return permuted.flatten(2)
