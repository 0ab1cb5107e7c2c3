"""Reads tensors lazily out of a folder of safetensors files, bfloat16 included.

Fails with Corrupt when a header cannot be read or a file is shorter than its header says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.anyprec.errors import Corrupt

INDEX_NAME = "model.safetensors.index.json"
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "U32": "<u4",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "u1",
    "I8": "i1",
    "BOOL": "?",
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies."""

    file: Path
    dtype: str  # as safetensors names it
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    size_bytes: int


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file and the byte at which its data begins. Raises: Corrupt."""
    try:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > file.stat().st_size:
                raise Corrupt(f"{file}: header of {length} bytes in a file of {file.stat().st_size}")
            header = json.loads(handle.read(length))
    except (OSError, ValueError) as error:
        raise Corrupt(f"{file}: no readable safetensors header ({error})") from error
    return header, 8 + length


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The tensors a header lists, and the byte at which their data begins. Raises: Corrupt."""
    header, start = _header(file)
    header.pop("__metadata__", None)
    return header, start


def read_metadata(file: Path) -> dict[str, str]:
    """The free-form strings in a safetensors header. Raises: Corrupt."""
    header, _ = _header(file)
    found: dict[str, str] = header.get("__metadata__", {})
    return found


def entries_of(file: Path) -> dict[str, TensorEntry]:
    """Every tensor of one file. Raises: Corrupt, also for a truncated file."""
    header, start = read_header(file)
    found = {}
    for name, facts in header.items():
        begin, end = facts["data_offsets"]
        if start + end > file.stat().st_size:
            raise Corrupt(f"{file}: {name} ends at byte {start + end}, the file at {file.stat().st_size}")
        found[name] = TensorEntry(file, facts["dtype"], tuple(facts["shape"]), start + begin, end - begin)
    return found


class TensorFolder:
    """All tensors of a folder (or of one file), read only when asked for. Raises: Corrupt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, TensorEntry] = {}
        for file in shard_files(path) if path.is_dir() else [path]:
            self._entries.update(entries_of(file))

    @property
    def names(self) -> list[str]:
        """Every tensor name, in file order."""
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def entry(self, name: str) -> TensorEntry:
        """Raises: Corrupt for an unknown name."""
        if name not in self._entries:
            raise Corrupt(f"{self.path}: no tensor {name}")
        return self._entries[name]

    def mapped(self, name: str) -> NDArray[Any]:
        """The tensor as it lies on disk, memory-mapped and read-only; bfloat16 as its uint16 bits."""
        entry = self.entry(name)
        if entry.dtype not in _DTYPES:
            raise Corrupt(f"{entry.file}: {name} has dtype {entry.dtype}, which is not understood")
        return np.memmap(entry.file, _DTYPES[entry.dtype], "r", entry.offset, entry.shape)

    def read(self, name: str, *, rows: slice = slice(None)) -> NDArray[np.float32]:
        """A float tensor, or some of its rows, as float32."""
        raw = self.mapped(name)[rows]
        if self.entry(name).dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder. Raises: Corrupt when there is none, or one the index names is gone."""
    index = folder / INDEX_NAME
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError) as error:
            raise Corrupt(f"{index}: not an index of safetensors files ({error})") from error
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.exists()]
    if missing or not files:
        raise Corrupt(f"{folder}: missing {missing or 'any .safetensors file'}")
    return files
