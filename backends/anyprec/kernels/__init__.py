"""The any-precision linear layer on a device: torch on a CPU, CUDA kernels on a GPU, one operator for both.

`to_device_layout` turns a layer of the store into the device's own arrangement of the same bits. The operator
`anyprec::linear(x, codes, tables, widths, bits, rows)` multiplies row t of x by the layer at width widths[t].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from backends.anyprec.kernels import portable
from backends.anyprec.kernels.layout import DeviceLayout, to_device_layout

__all__ = ["DeviceLayout", "linear", "set_row_widths", "to_device_layout"]

_library = torch.library.Library("anyprec", "DEF")
_library.define("linear(Tensor x, Tensor codes, Tensor tables, Tensor widths, int[] bits, int rows) -> Tensor")


def _on_gpu(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor, bits: list[int], rows: int
) -> torch.Tensor:
    from backends.anyprec.kernels import fused  # noqa: PLC0415  CUDA's compiler is there only where a GPU is

    return fused.linear(x, codes, tables, widths, bits, rows)


def _shape(
    x: torch.Tensor, codes: torch.Tensor, tables: torch.Tensor, widths: torch.Tensor, bits: list[int], rows: int
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], rows))


_library.impl("linear", portable.linear, "CPU")
_library.impl("linear", _on_gpu, "CUDA")
torch.library.register_fake("anyprec::linear", _shape, lib=_library)


def linear(x: torch.Tensor, layout: DeviceLayout, widths: torch.Tensor, *, bits: list[int]) -> torch.Tensor:
    """x (m, K) to (m, N), row t at width widths[t] of `bits`; a row of width 0 gives zeros and reads nothing."""
    out: torch.Tensor = torch.ops.anyprec.linear(x, layout.codes, layout.tables, widths, bits, layout.rows)
    return out


def set_row_widths(widths: torch.Tensor, counts: Mapping[int, int]) -> None:
    """Tell the operator how many rows of each width, 0 for padding, the host has just written into `widths`."""
    if widths.device.type == "cuda":
        from backends.anyprec.kernels import fused  # noqa: PLC0415  CUDA's compiler is there only where a GPU is

        fused.set_row_widths(widths, counts)
