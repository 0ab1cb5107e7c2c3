"""The width of every row of the running batch, in a buffer on the device that all layers share.

A step of the engine is one flat matrix of tokens; row t belongs to one request and is multiplied at that request's
width. The buffer keeps its address, so a CUDA graph replays with new widths. Width 0 marks a padding row: no plane is
read for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.anyprec import kernels
from backends.anyprec.names import WIDTH_KEY

PADDING = 0


class InvalidWidth(ValueError):
    """A request asked for a width that the store does not have."""


class LostWidth(RuntimeError):
    """What the layers read is not what they were told."""


def asked_width(extra: Mapping[str, Any] | None, bits: Collection[int]) -> int:
    """The width a request's extra arguments name, the widest without one. Raises: InvalidWidth."""
    asked = (extra or {}).get(WIDTH_KEY, max(bits))
    if isinstance(asked, bool) or not isinstance(asked, int) or asked not in bits:
        raise InvalidWidth(f"{WIDTH_KEY} is {asked!r}; this model has the widths {', '.join(map(str, sorted(bits)))}")
    return asked


def served_width(extra: Mapping[str, Any] | None, bits: Collection[int]) -> int:
    """As `asked_width`, but a width that slipped past admission becomes the widest instead of an error."""
    try:
        return asked_width(extra, bits)
    except InvalidWidth:
        return max(bits)


class RowWidths:
    """One int32 a row of the largest batch the engine may run; all rows are the widest until a batch is told."""

    def __init__(self, bits: Sequence[int], *, rows: int, device: torch.device) -> None:
        self.bits = tuple(bits)
        self.buffer = torch.full((rows,), max(bits), dtype=torch.int32, device=device)  # a width or PADDING each

    def set_row_widths(self, widths: Iterable[int], counts: NDArray[np.integer[Any]], *, padded: int) -> None:
        """The coming batch: request i has counts[i] rows of width widths[i]; rows up to `padded` are padding."""
        rows = np.repeat(np.fromiter(widths, np.int32), counts)
        full = np.full(max(padded, len(rows)), PADDING, np.int32)
        full[: len(rows)] = rows
        self.buffer[: len(full)].copy_(torch.from_numpy(full), non_blocking=True)
        present, rows_of = np.unique(full, return_counts=True)
        kernels.set_row_widths(self.buffer, dict(zip(present.tolist(), rows_of.tolist(), strict=True)))

    def read_back(self) -> None:
        """Write the narrowest width as a batch does and read it from the device; then all rows are the widest again.

        Raises: LostWidth where another one is there.
        """
        told = min(self.bits)
        self.buffer[:1].copy_(torch.tensor([told], dtype=torch.int32), non_blocking=True)
        read = int(self.buffer[0])
        self.buffer.fill_(max(self.bits))
        if read != told:
            raise LostWidth(f"width {told} was told and {read} is read: a request's width would not reach the layers")
