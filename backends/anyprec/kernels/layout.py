"""How one layer's bits lie on a device.

On a CPU: one byte a weight, its widest code, because a CPU has no cheap way to gather single bits.

On a GPU: planes still, so that a narrow width reads only its own, in blocks of 128 columns, which are 4 words. Column
128 B + 16 s + 4 t + r lies in word t of block B, at bit 16 (s % 2) + 4 r + s // 2. Word t holds what lane t of four
gives to the tensor cores in eight steps of 16 columns; four by four bits, transposed, are codes in neighbouring
nibbles. Four blocks at a time lie word by word, so that a lane reads its words of all four at once: word t of block B
is at 16 (B // 4) + t n + B % 4, where n is 4, or what is left in the last such group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

WORD_BITS = 32
BLOCK_WORDS = 4
BLOCK_COLUMNS = BLOCK_WORDS * WORD_BITS
GROUP_BLOCKS = 4
ALIGNED = 8  # entries: each table on a GPU begins at a multiple of these, 16 bytes


@dataclass(frozen=True, slots=True)
class Laid:
    """A layer as the operator wants it."""

    codes: torch.Tensor  # CPU: uint8 (N, K), the widest code; GPU: int32 (P, N, 4 ceil(K/128)), permuted planes
    tables: torch.Tensor  # (N/g, tables of all widths, ascending), in the activations' type; GPU: bfloat16, aligned


def lay_out(planes: torch.Tensor, tables: Mapping[int, torch.Tensor], *, columns: int, dtype: torch.dtype) -> Laid:
    """The store's planes uint32 (P, N, ceil(K/32)) and tables {k: (N/g, 2^k)} to the layout of their device."""
    if planes.device.type == "cpu":
        joined = torch.cat([tables[k] for k in sorted(tables)], dim=1)
        return Laid(widest_codes(planes.view(torch.int32), columns=columns), joined.to(dtype).contiguous())
    return lay_out_for_gpu(planes, tables)


def lay_out_for_gpu(planes: torch.Tensor, tables: Mapping[int, torch.Tensor]) -> Laid:
    """Permuted planes; tables in bfloat16, each at its place of `aligned_offsets`."""
    places, entries = aligned_offsets(sorted(tables))
    joined = torch.zeros(len(tables[max(tables)]), entries, dtype=torch.bfloat16, device=planes.device)
    for k, first in places.items():
        joined[:, first : first + 2**k] = tables[k].to(torch.bfloat16)
    return Laid(permute_planes(planes.view(torch.int32)), joined)


def offsets(bits: Sequence[int]) -> dict[int, int]:
    """Where each width's table begins in a joined table row."""
    found, at = {}, 0
    for k in bits:
        found[k], at = at, at + 2**k
    return found


def aligned_offsets(bits: Sequence[int]) -> tuple[dict[int, int], int]:
    """Where each width's table begins in a joined table row on a GPU, and the entries of the whole row."""
    found, at = {}, 0
    for k in bits:
        found[k], at = at, at + max(2**k, ALIGNED)
    return found, at


def widest_codes(planes: torch.Tensor, *, columns: int) -> torch.Tensor:
    """Planes int32 (P, N, W) to codes uint8 (N, columns)."""
    bits = torch.arange(WORD_BITS, dtype=torch.int32, device=planes.device)
    codes = torch.zeros(planes.shape[1], planes.shape[2] * WORD_BITS, dtype=torch.uint8, device=planes.device)
    for plane in planes:
        bit = (plane[:, :, None] >> bits) & 1
        codes = (codes << 1) | bit.reshape(codes.shape).to(torch.uint8)
    return codes[:, :columns].contiguous()


def permute_planes(planes: torch.Tensor) -> torch.Tensor:
    """Planes int32 (P, N, W) in the store's order to (P, N, 4 ceil(W/4)) in the order this module describes."""
    missing = -planes.shape[2] % BLOCK_WORDS
    source = torch.nn.functional.pad(planes, (0, missing)).unflatten(2, (-1, BLOCK_WORDS))
    permuted = torch.zeros_like(source)
    for word in range(BLOCK_WORDS):
        for bit in range(WORD_BITS):
            step, r = 2 * (bit % 4) + bit // 16, bit // 4 % 4
            column = 16 * step + 4 * word + r
            permuted[..., word] |= ((source[..., column // WORD_BITS] >> (column % WORD_BITS)) & 1) << bit
    groups = permuted.split(GROUP_BLOCKS, dim=2)
    return torch.cat([group.transpose(2, 3).flatten(2) for group in groups], dim=2)
