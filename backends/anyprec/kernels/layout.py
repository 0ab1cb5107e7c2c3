"""How one layer's bits lie on a device.

On a CPU: one byte a weight, its widest code, because a CPU has no cheap way to gather single bits. On a GPU: the
store's planes, so that a narrow width reads only its own planes; inside each word of 32 columns the bits are permuted
so that one shift and one mask yield the bits of eight neighbouring columns, one in each nibble.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

WORD_BITS = 32
NIBBLES = 8


@dataclass(frozen=True, slots=True)
class Laid:
    """A layer as the operator wants it."""

    codes: torch.Tensor  # CPU: uint8 (N, K), the widest code; GPU: int32 (P, N, ceil(K/32)), permuted planes
    tables: torch.Tensor  # (N/g, sum of 2^k over the widths, ascending), in the activations' type


def lay_out(planes: torch.Tensor, tables: Mapping[int, torch.Tensor], *, columns: int, dtype: torch.dtype) -> Laid:
    """The store's planes uint32 (P, N, ceil(K/32)) and tables {k: (N/g, 2^k)} to the layout of their device."""
    joined = torch.cat([tables[k] for k in sorted(tables)], dim=1).to(dtype).contiguous()
    signed = planes.view(torch.int32)
    codes = widest_codes(signed, columns=columns) if planes.device.type == "cpu" else permute_planes(signed)
    return Laid(codes, joined)


def widest_codes(planes: torch.Tensor, *, columns: int) -> torch.Tensor:
    """Planes int32 (P, N, W) to codes uint8 (N, columns)."""
    bits = torch.arange(WORD_BITS, dtype=torch.int32, device=planes.device)
    codes = torch.zeros(planes.shape[1], planes.shape[2] * WORD_BITS, dtype=torch.uint8, device=planes.device)
    for plane in planes:
        bit = (plane[:, :, None] >> bits) & 1
        codes = (codes << 1) | bit.reshape(codes.shape).to(torch.uint8)
    return codes[:, :columns].contiguous()


def permute_planes(planes: torch.Tensor) -> torch.Tensor:
    """Planes int32 (P, N, W): bit s + 4 i of each word becomes column 8 s + i, for s < 4 and i < 8."""
    permuted = torch.zeros_like(planes)
    for column in range(WORD_BITS):
        s, i = divmod(column, NIBBLES)
        permuted |= ((planes >> column) & 1) << (s + 4 * i)
    return permuted
