"""An embedding as the log keeps it, half as wide, which costs something only where a policy reads it."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

HALF = np.dtype("<f2")  # made once, since the name is dear to read


class Float16Embedding(msgspec.Struct):
    """float16 bytes, unpacked when first asked for and then kept."""

    halves: bytes  # (d,), little-endian
    _vector: NDArray[np.float32] | None = None

    @property
    def vector(self) -> NDArray[np.float32]:
        """(d,) of unit length; zeros stay zeros."""
        if self._vector is None:
            self._vector = _unpack(self.halves)
        return self._vector


def _unpack(halves: bytes) -> NDArray[np.float32]:
    vector = np.frombuffer(halves, HALF).astype(np.float32)
    norm = math.sqrt(vector @ vector)
    return vector / norm if norm > 0 else vector
