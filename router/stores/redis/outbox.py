"""Settlements on this machine's disk until Redis cannot lose them, so that a gateway that is killed owes nothing.

Each process appends to a file of its own and keeps it locked. A file whose lock is free belongs to a dead process, and
whoever finds it first takes over what is in it. Writes go to the operating system, not to the platter: a kill loses
nothing, a power cut what was not yet written back. Fails with StoreUnavailable where the folder cannot be written.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from router.errors import StoreUnavailable

Words = tuple[bytes | str | int, ...]
LOG = logging.getLogger("pointsman.ledger")
LARGEST_BYTES = 1_000_000  # of one settlement
LIMIT_BYTES = 4_000_000  # beyond which, and four times what is still open, a file is begun anew with that

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, tuple[Any, ...] | None]).decode


class Outbox:
    """What this process must still tell Redis: for each decision the arguments of its settlement."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, bytes] = {}
        self._open_size = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._begin()
        except OSError as error:
            raise StoreUnavailable(f"cannot write {folder}: {error}") from error

    def add(self, decision_id: str, words: Words) -> None:
        """These arguments must reach Redis; they replace earlier ones of the decision."""
        frame = _frame(decision_id, words)
        if self._open.get(decision_id) == frame:
            return
        self._open_size += len(frame) - len(self._open.get(decision_id, b""))
        self._open[decision_id] = frame
        self._write(frame)

    def acknowledge(self, decision_ids: Iterable[str]) -> None:
        """They have, and Redis will not forget it."""
        known = {decision_id for decision_id in decision_ids if decision_id in self._open}  # one settled twice is one
        if not known:
            return
        self._open_size -= sum(len(self._open.pop(decision_id)) for decision_id in known)
        self._write(b"".join(_frame(decision_id, None) for decision_id in known))
        if self._size > max(LIMIT_BYTES, 4 * self._open_size):
            self._renew()

    def close(self) -> None:
        """Leave the file to others if something is still owed, else remove it."""
        if not self._open:
            self._path.unlink(missing_ok=True)
        os.close(self._file)

    def orphans(self) -> Iterator[dict[str, Words]]:
        """What dead processes promised, file by file; a file is removed once that has been dealt with.

        One that is damaged is dealt with up to there, and put aside.
        """
        for path in sorted(self._folder.glob("*.owed")):
            if path == self._path:
                continue
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    promised, is_sound = _read(file.read())
                    yield promised
                    if is_sound:
                        path.unlink(missing_ok=True)
                    else:
                        aside = path.rename(path.with_suffix(".damaged"))
                        LOG.error("%s is damaged: settlements of a killed gateway may be lost with it.", aside)
            except OSError:
                continue  # its process lives, or another one was quicker

    def _begin(self) -> None:
        # not by the process's number alone: in a container the next process has the same
        self._path = self._folder / f"{os.getpid()}-{secrets.token_hex(8)}.owed"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._size = 0

    def _renew(self) -> None:
        old, path = self._file, self._path
        self._begin()
        self._write(b"".join(self._open.values()))
        path.unlink(missing_ok=True)
        os.close(old)

    def _write(self, data: bytes) -> None:
        try:
            self._size += os.write(self._file, data)
        except OSError as error:
            raise StoreUnavailable(f"cannot write {self._path}: {error}") from error


def _frame(decision_id: str, words: Words | None) -> bytes:
    body = _encode((decision_id, words))
    return struct.pack("<I", len(body)) + body


def _read(data: bytes) -> tuple[dict[str, Words], bool]:
    """What is still promised after these frames, and whether all can be read; one cut short at the end is none."""
    promised: dict[str, Words] = {}
    at = 0
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if at + 4 + size > len(data):
            return promised, size < LARGEST_BYTES
        try:
            decision_id, words = _decode(data[at + 4 : at + 4 + size])
        except msgspec.DecodeError:
            return promised, False
        promised.pop(decision_id, None)
        if words is not None:
            promised[decision_id] = words
        at += 4 + size
    return promised, True
