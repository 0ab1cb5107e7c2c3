"""The operator in torch's own operations: what a CPU runs, and what the CUDA kernels must agree with."""

from __future__ import annotations

import torch

from backends.anyprec.kernels.layout import offsets

PADDING = 0
BLOCK = 16  # rows of one product: libraries choose how to sum by the number of rows, so it is always the same


def dequantize(codes: torch.Tensor, tables: torch.Tensor, *, width: int, bits: list[int]) -> torch.Tensor:
    """Codes uint8 (N, K) at their widest to weights (N, K) at `width`."""
    group = codes.shape[0] // tables.shape[0]
    first = offsets(bits)[width]
    table = tables[:, first : first + 2**width]
    row = torch.arange(codes.shape[0], dtype=torch.int32, device=codes.device) // group * 2**width
    index = (codes >> (max(bits) - width)).to(torch.int32) + row[:, None]
    return table.reshape(-1).index_select(0, index.view(-1)).view(codes.shape)


def linear(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor, bits: list[int], rows: int
) -> torch.Tensor:
    """x (m, K) to (m, N), row t at width widths[t]; each width present is dequantized once.

    Rows of one width are multiplied in blocks of one size, so that a row comes out to the last bit as it would alone.
    Libraries sum a single row, the last few of many, or many rows at once in orders of their own.
    """
    asked = widths[: x.shape[0]]
    out = x.new_zeros(x.shape[0], rows)
    for width in asked.unique().tolist():
        if width == PADDING:
            continue
        asking = (asked == width).nonzero().view(-1)
        weights = dequantize(codes, tables, width=width, bits=bits)
        whole = torch.nn.functional.pad(x[asking], (0, 0, 0, -len(asking) % BLOCK))
        blocks = [torch.nn.functional.linear(block, weights) for block in whole.split(BLOCK)]
        out[asking] = torch.cat(blocks)[: len(asking)]
    return out
