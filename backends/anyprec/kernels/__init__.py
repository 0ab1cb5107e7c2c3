"""The any-precision linear layer on a device: torch on a CPU, CUDA kernels on a GPU, one operator for both.

`lay_out` turns a layer of the store into the device's own arrangement of the same bits; the operator
`anyprec::linear(x, codes, tables, widths, bits)` multiplies row t of x by the layer at width widths[t].
"""

from __future__ import annotations

import torch

from backends.anyprec.kernels import portable
from backends.anyprec.kernels.layout import Laid, lay_out

__all__ = ["Laid", "announce", "lay_out", "linear"]

_library = torch.library.Library("anyprec", "DEF")
_library.define("linear(Tensor x, Tensor codes, Tensor tables, Tensor widths, int[] bits) -> Tensor")


def _on_gpu(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor, bits: list[int]
) -> torch.Tensor:
    from backends.anyprec.kernels import fused  # noqa: PLC0415  CUDA's compiler is there only where a GPU is

    return fused.linear(x, codes, tables, widths, bits)


def _shape(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor, bits: list[int]
) -> torch.Tensor:
    rows = codes.shape[0] if codes.dim() == 2 else codes.shape[1]
    return x.new_empty((*x.shape[:-1], rows))


_library.impl("linear", portable.linear, "CPU")
_library.impl("linear", _on_gpu, "CUDA")
torch.library.register_fake("anyprec::linear", _shape, lib=_library)


def linear(x: torch.Tensor, laid: Laid, widths: torch.Tensor, *, bits: list[int]) -> torch.Tensor:
    """x (m, K) to (m, N), row t at width widths[t] of `bits`; a row of width 0 gives zeros and reads nothing."""
    out: torch.Tensor = torch.ops.anyprec.linear(x, laid.codes, laid.tables, widths, bits)
    return out


def announce(widths: torch.Tensor, present: tuple[int, ...]) -> None:
    """Tell the operator which widths the host has just written into `widths`."""
    if widths.device.type == "cuda":
        from backends.anyprec.kernels import fused  # noqa: PLC0415  CUDA's compiler is there only where a GPU is

        fused.announce(widths, present)
