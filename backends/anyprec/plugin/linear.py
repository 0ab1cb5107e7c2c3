"""A linear layer read at another width for every row of its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import Parameter
from vllm.model_executor.layers.linear import LinearMethodBase
from vllm.model_executor.utils import set_weight_attrs

from backends.anyprec import kernels
from backends.anyprec.plugin.widths import RowWidths

WORD_BITS = 32


class AnyprecLinearMethod(LinearMethodBase):  # type: ignore[misc]  # vLLM is untyped here
    """Loads planes and tables as the store holds them, then lays them out for the device.

    `rows_per_table` neighbouring rows share a table; `row_widths(device)` are the buffers of the engine's widths.
    `parts` says at which stored width each of the fused layers is read for every width that can be asked for. Where a
    profile treats them differently, each is laid out and multiplied alone.
    """

    def __init__(
        self,
        bits: Sequence[int],
        *,
        rows_per_table: int,
        row_widths: Callable[[torch.device], RowWidths],
        parts: Sequence[Mapping[float, int]],
    ) -> None:
        self._bits = tuple(bits)
        self._rows_per_table = rows_per_table
        self._row_widths = row_widths
        self._parts = tuple(parts)

    def create_weights(
        self,
        layer: torch.nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """Parameters named as in the store: planes (P, N, ceil(K/32)) and one table (N/g, 2^k) for each width.

        Raises: ValueError when the inputs are split between workers inside a word of 32 columns.
        """
        if input_size_per_partition != input_size and input_size_per_partition % WORD_BITS:
            raise ValueError(
                f"{input_size_per_partition} inputs a worker: tensor parallelism splits words of {WORD_BITS}"
            )
        bits, group, rows = self._bits, self._rows_per_table, sum(output_partition_sizes)
        words = -(-input_size_per_partition // WORD_BITS)
        planes = Parameter(torch.empty(max(bits), rows, words, dtype=torch.uint32), requires_grad=False)
        set_weight_attrs(planes, {"input_dim": 2, "output_dim": 1, **extra_weight_attrs})
        layer.register_parameter("planes", planes)
        for k in bits:
            table = Parameter(torch.empty(rows // group, 2**k, dtype=torch.float16), requires_grad=False)
            set_weight_attrs(table, {"output_dim": 0, "packed_dim": 0, "packed_factor": group, **extra_weight_attrs})
            layer.register_parameter(f"lut{k}", table)
        layer.anyprec_columns = input_size_per_partition
        layer.anyprec_dtype = params_dtype
        layer.anyprec_rows = self._row_widths(planes.device)
        alike = all(part == self._parts[0] for part in self._parts)
        layer.anyprec_sizes = [rows] if alike else list(output_partition_sizes)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Replace planes and tables by the device's own layout of the same bits. Raises: LostWidth."""
        ends = np.cumsum(layer.anyprec_sizes).tolist()
        parts = zip(layer.anyprec_sizes, ends, strict=True)
        layouts = [self._device_layout(layer, slice(end - size, end)) for size, end in parts]
        for name in ("planes", *(f"lut{k}" for k in self._bits)):
            delattr(layer, name)
        layer.anyprec_parts = []
        for i, (part, widths) in enumerate(zip(layouts, self._parts, strict=False)):
            names = ("qweight", "tables") if i == 0 else (f"qweight{i}", f"tables{i}")  # LoRA layers look for qweight
            layer.register_parameter(names[0], Parameter(part.codes, requires_grad=False))
            layer.register_parameter(names[1], Parameter(part.tables, requires_grad=False))
            layer.anyprec_parts.append((*names, layer.anyprec_rows.buffer(widths), part.rows))
        layer.anyprec_rows.read_back()

    def _device_layout(self, layer: torch.nn.Module, rows: slice) -> kernels.DeviceLayout:
        """Some of a layer's rows in the device's layout."""
        group = self._rows_per_table
        shared = slice(rows.start // group, rows.stop // group)
        tables = {k: getattr(layer, f"lut{k}").data[shared] for k in self._bits}
        columns, dtype = layer.anyprec_columns, layer.anyprec_dtype
        return kernels.to_device_layout(layer.planes.data[:, rows], tables, columns=columns, dtype=dtype)

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x (rows, K) to (rows, N), row t at the width told for it."""
        bits = list(self._bits)
        found = [
            torch.ops.anyprec.linear(x, getattr(layer, codes), getattr(layer, tables), widths, bits, rows)
            for codes, tables, widths, rows in layer.anyprec_parts
        ]
        out = found[0] if len(found) == 1 else torch.cat(found, dim=-1)
        return out if bias is None else out + bias
