"""The operator in torch's own operations: what a CPU runs, and what the CUDA kernels must agree with."""

from __future__ import annotations

import torch

from backends.anyprec.kernels.layout import offsets

PADDING = 0
BLOCK = 16  # rows: a product of whole blocks sums every row alike, whatever rows are beside it


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

    Rows of one width are filled up to whole blocks, so that a row comes out to the last bit as it would alone: BLAS
    sums a single row, or the last few of many, in another order than the rest.
    """
    asked = widths[: x.shape[0]]
    out = x.new_zeros(x.shape[0], rows)
    for width in asked.unique().tolist():
        if width == PADDING:
            continue
        asking = (asked == width).nonzero().view(-1)
        weights = dequantize(codes, tables, width=width, bits=bits)
        whole = torch.nn.functional.pad(x[asking], (0, 0, 0, -len(asking) % BLOCK))
        out[asking] = torch.nn.functional.linear(whole, weights)[: len(asking)]
    return out
