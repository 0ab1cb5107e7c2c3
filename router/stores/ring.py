"""The newest entries of the journal, in a file that all processes of a machine share and write without a transaction.

What is written here survives a process that is killed, since the operating system has it, but perhaps not a power cut;
the database takes it over from time to time, a few hundred entries in one row, and the ring is begun anew. A lock that
ends with the process that holds it is held while an entry is decided and written, and through each transaction of the
database. While the ring is in doubt, only the database knows what is newest.
A file that does not belong to the database is StoreUnavailable.

Layout: 64 bytes with the boot of the machine, the generation (a random number), the position of the last entry before
the first one here, and the doubt; then entries, each with its position, length and a checksum that begins with the
generation; then a zero. An entry counts if it is of this generation and follows the one before.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from pathlib import Path

from router.errors import StoreUnavailable

SIZE = 4 << 20
SPINS = 30  # more tries for the lock, about a microsecond each
START = 64
MARK = b"\xc1"  # begins a row of many entries; no MessagePack value begins so

_HEAD = struct.Struct("<36s8sQB11xQ")
_GENERATION, _BASE, _DOUBT, _STATE_END = 36, 44, 52, 53
_FRAME = struct.Struct("<QII")
_END = bytes(8)
_NOW = LOCK_EX | LOCK_NB
_number_at = struct.Struct("<Q").unpack_from


class Ring:
    """Everything but `in_doubt`, `is_read` and `has_entries` needs the lock."""

    def __init__(self, path: Path, *, mode: int) -> None:
        self._path, self._boot = path, boot_id()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
            if os.fstat(self._file).st_size < SIZE:
                os.ftruncate(self._file, SIZE)  # what it was is kept; zeros are in doubt
            self._map = mmap.mmap(self._file, SIZE, prot=mmap.PROT_READ)
        except OSError as error:
            raise StoreUnavailable(f"cannot open {path}: {error}") from error
        self._salt = 0  # low half of the generation
        self._followed = b""  # generation, base and no doubt, as this process reads it
        self.last, self._end = 0, START  # the position it has read to, and where that is
        flock(self._file, LOCK_EX)
        if self._map[:36] != self._boot:
            self.doubt()
        self.unlock()

    def close(self) -> None:
        """The lock goes with it; there is none to be had any more."""
        self._map.close()
        os.close(self._file)
        self._file = -1

    def lock(self) -> bool:
        """Whether this process may write entries now. Others hold it for microseconds, or through a transaction."""
        if self._try_lock():
            return True
        for _ in range(SPINS):
            os.sched_yield()
            if self._try_lock():
                return True
        return False

    def _try_lock(self) -> bool:
        try:
            flock(self._file, _NOW)
        except (OSError, ValueError):  # another has it, or the ring is closed
            return False
        return True

    def unlock(self) -> None:
        """Let others."""
        flock(self._file, LOCK_UN)

    @property
    def in_doubt(self) -> bool:
        """Whether a transaction that wrote entries has not ended, or its process died in it, or the ring is new."""
        return bool(self._map[_DOUBT] != 1)

    @property
    def has_entries(self) -> bool:
        """Whether there is something for the database to take over."""
        return self.in_doubt or self._seq_at(START) == self.base + 1

    def is_read(self, position: int) -> bool:
        """Whether nothing was written after this position, up to which this process knows everything."""
        known = self._map[_GENERATION:_STATE_END] == self._followed and self.last == position
        return known and bool(_number_at(self._map, self._end)[0] <= position)

    @property
    def is_followed(self) -> bool:
        """Whether this process reads what others write now; else `follow`, after the database has been read."""
        return self._map[_GENERATION:_DOUBT] == self._followed[:-1]

    def follow(self) -> None:
        """Read from the beginning."""
        self._followed = self._map[_GENERATION:_DOUBT] + b"\x01"
        self._salt = _number_at(self._map, _GENERATION)[0] & 0xFFFFFFFF
        self.last, self._end = self.base, START

    @property
    def base(self) -> int:
        """Position of the last entry before those here."""
        return int(_number_at(self._map, _BASE)[0])

    def unread(self) -> Iterator[tuple[int, bytes]]:
        """Entries this process has not read yet, with their positions."""
        while self._seq_at(self._end) == self.last + 1:
            seq, length, checksum = _FRAME.unpack_from(self._map, self._end)
            begin = self._end + _FRAME.size
            body = self._map[begin : begin + length]
            if len(body) < length or zlib.crc32(body, self._salt) != checksum:
                return  # of another generation, or its process died while it wrote
            self.last, self._end = seq, begin + length
            yield seq, body

    def append(self, seq: int, body: bytes) -> bool:
        """Write the next entry, after all have been read; False, and nothing was written, where that cannot be."""
        frame = _FRAME.pack(seq, len(body), zlib.crc32(body, self._salt)) + body + _END
        if self._end + len(frame) > SIZE - _FRAME.size:
            return False
        try:
            if os.pwrite(self._file, frame, self._end) < len(frame):
                return False
        except OSError:
            return False
        self.last, self._end = seq, self._end + len(frame) - len(_END)
        return True

    def run(self) -> tuple[int, bytes]:
        """Position of the last entry, and all entries as one row keeps them (see `entries_in`); none: an empty row."""
        if not self.is_followed:
            self.follow()
        for _ in self.unread():
            pass
        return self.last, MARK + self._map[START : self._end] if self._end > START else b""

    def must_fit(self, newest: int) -> None:
        """Empty it where the database lost entries with the machine. Raises: StoreUnavailable: it is not of this file.

        `newest`: the position of the last entry in the database.
        """
        if self.base > newest:
            if self._map[:36] == self._boot:
                raise StoreUnavailable(f"{self._path} is not of the database beside it: remove it if that was restored")
            self.begin(newest)

    def doubt(self) -> None:
        """From now on only the database knows. Raises: OSError."""
        os.pwrite(self._file, b"\x00", _DOUBT)

    def begin(self, base: int) -> None:
        """The database has everything up to this position: begin anew. Raises: OSError."""
        os.pwrite(self._file, _HEAD.pack(self._boot, os.urandom(8), base, 1, 0), 0)
        self.follow()

    def _seq_at(self, offset: int) -> int:
        return int(_number_at(self._map, offset)[0])


def entries_in(seq: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    """The entries of a row: one, or those of a ring."""
    if not body.startswith(MARK):
        yield seq, body
        return
    at = len(MARK)
    while at < len(body):
        seq, length, _ = _FRAME.unpack_from(body, at)
        at += _FRAME.size + length
        yield seq, body[at - length : at]


def boot_id() -> bytes:
    """36 bytes that change when the machine starts; all the same where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()[:36].ljust(36)
    except OSError:
        return b"?" * 36
