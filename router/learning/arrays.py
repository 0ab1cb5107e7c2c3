"""Arrays in a file of numpy's, by name; never Python's own objects, which could run code when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def save_arrays(place: Path | BinaryIO, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz file. Raises: ValueError for an array of objects."""
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:  # numpy before 2.1 cannot be told to refuse them
        raise ValueError(f"{', '.join(objects)}: an array of objects is not written")
    by_name: dict[str, Any] = dict(arrays)
    np.savez(place, **by_name)


def load_arrays(place: Path) -> dict[str, NDArray[Any]]:
    """What `save_arrays` wrote. Raises: ValueError, OSError or KeyError for a file that is none."""
    with np.load(place) as stored:
        return {key: stored[key] for key in stored.files}
