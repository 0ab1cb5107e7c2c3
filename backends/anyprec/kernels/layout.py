"""How one layer's bits lie on a device.

On a CPU: one byte a weight, its widest code, because a CPU has no cheap way to gather single bits.

On a GPU a weight is a whole number from -128 to 127 times its row's scale, at every width; what is stored makes that
number. Up to 4 bits it is an entry of the row's table, rounded. Above, it is the entry of 4 bits and a rest of 2 bits
(for 5 and 6) or 4 (for 7 and 8). Those bring it near the widest entry. Bits lie in tiles of 16 rows by 256 columns,
planes of 2, 1, 1, 2 and 2 bits one after another, so that a width reads a prefix. The file decode.cuh says which
lane of a warp reads what. A row's tables and its scale are a record of 32 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

WORD_BITS = 32
UNIT = 256  # columns of a tile
TILE_ROWS = 16
PLANE_BYTES = TILE_ROWS * UNIT // 8  # of one bit of a tile
RECORD_BYTES = 32
CHUNK_ROWS = 2048  # arranged at a time: a layer's weights as 32-bit numbers do not fit everywhere
MOST_OF_FOUR, MOST = 120, 127  # the largest number of a table of up to 4 bits, and of any weight
BIAS, BIAS_OF_FOUR = 128, 120  # what the stored bytes of the tables are too large by
REST_SHIFTS = (6, 2, 4, 0)  # in a byte of the planes of the rest, for four registers in turn


@dataclass(frozen=True, slots=True)
class DeviceLayout:
    """A layer as the operator wants it; `rows` is N."""

    codes: torch.Tensor  # CPU: uint8 (N, K), the widest code; GPU: uint8 (ceil(N/16), ceil(K/256), tile bytes)
    tables: torch.Tensor  # CPU: (N/g, tables of all widths, ascending), in the activations' type; GPU: uint8 records
    rows: int


def to_device_layout(
    planes: torch.Tensor, tables: Mapping[int, torch.Tensor], *, columns: int, dtype: torch.dtype
) -> DeviceLayout:
    """The store's planes uint32 (P, N, ceil(K/32)) and tables {k: (N/g, 2^k)} to the layout of their device."""
    if planes.device.type == "cpu":
        joined = torch.cat([tables[k] for k in sorted(tables)], dim=1)
        codes = widest_codes(planes.view(torch.int32), columns=columns)
        return DeviceLayout(codes, joined.to(dtype).contiguous(), len(codes))
    return to_gpu_layout(planes, tables, columns=columns)


def to_gpu_layout(planes: torch.Tensor, tables: Mapping[int, torch.Tensor], *, columns: int) -> DeviceLayout:
    """As the module says, some rows at a time. Raises: ValueError: columns are no multiple of 16."""
    if columns % 16:
        raise ValueError(f"{columns} columns: the kernels take multiples of 16")
    rows, group = planes.shape[1], planes.shape[1] // len(tables[max(tables)])
    packed, records = [], []
    for first in range(0, rows, CHUNK_ROWS):
        codes = widest_codes(planes[:, first : first + CHUNK_ROWS].view(torch.int32), columns=columns)
        row = torch.arange(first, first + len(codes), device=planes.device) // group
        numbers = Numbers.of({k: table[row].float() for k, table in tables.items()})
        packed.append(pack_tiles(codes, numbers, bits=max(tables)))
        records.append(numbers.records())
    return DeviceLayout(torch.cat(packed), torch.cat(records), rows)


def step_of(width: int) -> int:
    """How many planes a width reads: those of 5 and 7 bits are those of 6 and 8."""
    return width if width <= 4 else 6 if width <= 6 else 8


def steps_of(bits: Sequence[int]) -> tuple[int, ...]:
    """The distinct steps of a store's widths, ascending."""
    return tuple(sorted({step_of(width) for width in bits}))


@dataclass(frozen=True, slots=True)
class Numbers:
    """The tables of some rows as whole numbers."""

    small: dict[int, torch.Tensor]  # int32 (R, 2^k) for k of 2, 3, 4
    wide: torch.Tensor  # float32 (R, 2^P), the widest table in units of the scale
    scale: torch.Tensor  # float32 (R,)

    @classmethod
    def of(cls, tables: Mapping[int, torch.Tensor]) -> Numbers:
        """From tables {k: float32 (R, 2^k)}; a missing table of 4 bits is the mean of what is below its entries."""
        widest = tables[max(tables)]
        small = {k: tables[k] for k in (2, 3, 4) if k in tables}
        if 4 not in small and max(tables) > 4:
            small[4] = widest.view(len(widest), 16, -1).mean(2)
        largest = torch.stack([table.abs().amax(1) for table in small.values()]).amax(0) / MOST_OF_FOUR
        scale = torch.maximum(largest, widest.abs().amax(1) / MOST).clamp_min(1e-30)
        rounded = {k: (table / scale[:, None]).round().to(torch.int32) for k, table in small.items()}
        return cls(rounded, widest / scale[:, None], scale)

    def records(self) -> torch.Tensor:
        """uint8 (16 ceil(R/16), RECORD_BYTES): see decode.cuh."""
        order = torch.tensor([(i & 3) << 1 | i >> 2 for i in range(8)], device=self.scale.device)
        rows = len(self.scale)
        size = (-(-rows // TILE_ROWS) * TILE_ROWS, RECORD_BYTES)
        found = torch.zeros(size, dtype=torch.uint8, device=self.scale.device)
        if 3 in self.small:
            found[:rows, :8] = (self.small[3][:, order] + BIAS).to(torch.uint8)
        if 4 in self.small:
            for low in (0, 1):
                entries = self.small[4][:, 2 * order + low] + BIAS_OF_FOUR
                found[:rows, 8 + 8 * low : 16 + 8 * low] = entries.to(torch.uint8)
        found[:rows, 24:28] = self.scale[:, None].contiguous().view(torch.uint8)
        if 2 in self.small:
            found[:rows, 28:] = (self.small[2] + BIAS).to(torch.uint8)
        return found

    def rest(self, codes: torch.Tensor, *, bits: int) -> torch.Tensor:
        """uint8 (R, K), below 16: 4 d + e, where 4 d - 6 is nearest for 6 bits, and then e for 8."""
        base = self.small[4].gather(1, (codes >> (bits - 4)).long())
        missing = self.wide.gather(1, codes.long()) - base
        d = ((missing + 8) / 4).floor().clamp(0, 3)
        e = (missing + 8 - 4 * d).round().clamp(0, 3)
        return (4 * d + e).to(torch.uint8)


def pack_tiles(codes: torch.Tensor, numbers: Numbers, *, bits: int) -> torch.Tensor:
    """Codes uint8 (R, K) to tiles uint8 (ceil(R/16), ceil(K/256), planes)."""
    rows, columns = codes.shape
    rest = numbers.rest(codes, bits=bits) if bits > 4 else None

    def registers(field: torch.Tensor) -> torch.Tensor:
        """(tiles, units, 32 lanes, 32 registers, 4 bytes)."""
        padded = torch.nn.functional.pad(field, (0, -columns % UNIT, 0, -rows % TILE_ROWS))
        view = padded.view(-(-rows // TILE_ROWS), 2, 8, -(-columns // UNIT), 8, 2, 4, 4)
        return view.permute(0, 3, 2, 6, 4, 5, 1, 7).flatten(2, 3).flatten(3, 5)

    def words(field: torch.Tensor, shifts: list[list[int]]) -> torch.Tensor:
        """Bytes (tiles, units, planes) of a field of each weight, at shifts[register][byte] of its word."""
        taken = registers(field).unflatten(3, (-1, len(shifts))).to(torch.int32)
        placed = (taken << torch.tensor(shifts, dtype=torch.int32, device=field.device)).sum((-1, -2)).to(torch.int32)
        halves = placed.unflatten(3, (-1, 4)).transpose(2, 3)  # 4 words of a lane are 16 bytes
        return halves.contiguous().flatten(2).view(torch.uint8)

    pairs = [[4 * (4 * (i % 2) + b) + 2 * (i // 2) for b in range(4)] for i in range(4)]
    nibbles = [[4 * (4 * (i % 2) + b) + i // 2 for b in range(4)] for i in range(8)]
    signs = [[8 * b + 7 - i for b in range(4)] for i in range(8)]
    rests = [[8 * b + REST_SHIFTS[i] for b in range(4)] for i in range(4)]
    planes = [words(codes >> (bits - 2), pairs)]
    if bits >= 3:
        planes.append(words(codes >> (bits - 3) & 1, nibbles))
    if bits >= 4:
        planes.append(words(codes >> (bits - 4) & 1, signs))
    if rest is not None:
        planes.append(words(rest >> 2, rests))
        if bits > 6:
            planes.append(words(rest & 3, rests))
    return torch.cat(planes, dim=2)


def offsets(bits: Sequence[int]) -> dict[int, int]:
    """Where each width's table begins in a joined table row."""
    found, at = {}, 0
    for k in bits:
        found[k], at = at, at + 2**k
    return found


def widest_codes(planes: torch.Tensor, *, columns: int) -> torch.Tensor:
    """Planes int32 (P, N, W) to codes uint8 (N, columns)."""
    bits = torch.arange(WORD_BITS, dtype=torch.int32, device=planes.device)
    codes = torch.zeros(planes.shape[1], planes.shape[2] * WORD_BITS, dtype=torch.uint8, device=planes.device)
    for plane in planes:
        bit = (plane[:, :, None] >> bits) & 1
        codes = (codes << 1) | bit.reshape(codes.shape).to(torch.uint8)
    return codes[:, :columns].contiguous()
