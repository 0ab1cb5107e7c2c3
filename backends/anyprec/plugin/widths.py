"""The width of every row of the running batch, in a buffer on the device that layers share.

A step of the engine is one flat matrix of tokens; row t belongs to one request and is multiplied at that request's
width. A buffer keeps its address, so a CUDA graph replays with new widths. Width 0 marks a padding row: no plane is
read for it. A fractional width is another stored width in each layer: layers that read every width alike share a
buffer, so without profiles there is one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backends.anyprec import kernels
from backends.anyprec.names import FLOOR_KEY, WIDTH_KEY, width_of
from backends.anyprec.plugin.served import ServedRows

PADDING = 0


class InvalidWidth(ValueError):
    """A request asked for a width that the store does not have."""


class LostWidth(RuntimeError):
    """What the layers read is not what they were told."""


def asked_width(extra: Mapping[str, Any] | None, bits: Collection[float]) -> float:
    """The width a request's extra arguments name, the widest without one. Raises: InvalidWidth."""
    asked = (extra or {}).get(WIDTH_KEY, max(bits))
    width = width_of(asked)
    if width is None or width not in bits:
        raise InvalidWidth(f"{WIDTH_KEY} is {asked!r}; this model has the widths {', '.join(map(str, sorted(bits)))}")
    return width


def asked_floor(extra: Mapping[str, Any] | None, *, default: bool) -> bool:
    """Whether a wider width of the same batch may serve this request. Raises: InvalidWidth for what is no boolean."""
    asked = (extra or {}).get(FLOOR_KEY, default)
    if asked not in (False, True):  # vLLM hands true on as 1
        raise InvalidWidth(f"{FLOOR_KEY} is {asked!r}; it is true or false")
    return bool(asked)


@dataclass(frozen=True, slots=True)
class AskedWidth:
    """A request's width, and whether a wider one may serve it."""

    width: float
    floor: bool = False

    @classmethod
    def of(cls, extra: Mapping[str, Any] | None, bits: Collection[float], *, floor: bool) -> AskedWidth:
        """What slipped past admission becomes the widest, never an error."""
        try:
            return cls(asked_width(extra, bits), asked_floor(extra, default=floor))
        except InvalidWidth:
            return cls(max(bits))


class RowWidths:
    """One int32 a row of the largest batch the engine may run; all rows are the widest until a batch is told.

    `floor` is what a request without a word of its own gets.
    """

    def __init__(
        self,
        bits: Sequence[int],
        *,
        rows: int,
        device: torch.device,
        fractions: Sequence[float] = (),
        floor: bool = False,
    ) -> None:
        self.bits: tuple[float, ...] = (*bits, *fractions)  # what can be asked for
        self._stored, self._rows, self._device = tuple(bits), rows, device
        self._floor = floor
        self._served = ServedRows.of_environment(self.bits)
        self._place = {width: i for i, width in enumerate(self.bits)}
        self._held: dict[
            tuple[int, ...], NDArray[np.int32]
        ] = {}  # what a buffer's first rows hold since the last batch
        self._buffers: dict[tuple[int, ...], torch.Tensor] = {}  # by the stored width of each of `bits`

    def buffer(self, widths: Mapping[float, int] | None = None) -> torch.Tensor:
        """A stored width or PADDING for each row, for layers that read the width k of a request as widths[k]."""
        key = tuple((widths or {}).get(k, int(k)) for k in self.bits)
        if key not in self._buffers:
            self._buffers[key] = torch.full((self._rows,), max(self._stored), dtype=torch.int32, device=self._device)
        return self._buffers[key]

    def asked(self, extra: Mapping[str, Any] | None) -> AskedWidth:
        """What a request's extra arguments ask for."""
        return AskedWidth.of(extra, self.bits, floor=self._floor)

    def set_row_widths(self, asked: Sequence[AskedWidth], counts: NDArray[np.integer[Any]], *, padded: int) -> None:
        """The coming batch: request i has counts[i] rows; rows up to `padded` are padding.

        A request whose width is the least takes, in each layer, the widest that any request of the batch reads there.
        """
        places = np.array([self._place[each.width] for each in asked], np.int64)
        floor, rows = np.array([each.floor for each in asked], bool), int(counts.sum())
        some = bool(floor.any())
        for key, buffer in self._buffers.items():
            stored = np.array(key, np.int32)[places]
            full = np.full(max(padded, rows), PADDING, np.int32)
            full[:rows] = np.repeat(np.where(floor, stored.max(), stored) if some else stored, counts)
            if not np.array_equal(full, self._held.get(key, ())):
                _tell(buffer, full)
                self._held[key] = full
        if self._served is not None:
            served = np.where(floor, self._place[max(each.width for each in asked)], places) if some else places
            self._served.add(places, served, counts)

    def read_back(self) -> None:
        """Write the narrowest width as a batch does and read it from the device; then all rows are the widest again.

        Raises: LostWidth where another one is there.
        """
        self._held.clear()
        for buffer in self._buffers.values():
            wanted = min(self._stored)
            buffer[:1].copy_(torch.tensor([wanted], dtype=torch.int32), non_blocking=True)
            read = int(buffer[0])
            buffer.fill_(max(self._stored))
            if read != wanted:
                said = f"width {wanted} was told and {read} is read"
                raise LostWidth(f"{said}: a request's width would not reach the layers")


def _tell(buffer: torch.Tensor, full: NDArray[np.int32]) -> None:
    """Write the rows' widths, and how many there are of each."""
    buffer[: len(full)].copy_(torch.from_numpy(full), non_blocking=True)
    present, rows_of = np.unique(full, return_counts=True)
    kernels.set_row_widths(buffer, dict(zip(present.tolist(), rows_of.tolist(), strict=True)))
