"""Arrays on memory pages of their own, which go back to the system as soon as the array does.

The allocator keeps what it is given back between what is still in use; with widths coming and going that doubled what
the process held.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros of a shape, on fresh pages; writable."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), dtype, count=int(np.prod(shape))).reshape(shape)


def copied(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """An array on pages of its own, converted to `dtype`."""
    pages = empty(array.shape, dtype)
    pages[...] = array
    return pages
