"""A checkpoint at full precision in the place of a store, so that the same forward pass serves what widths lose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backends.anyprec.checkpoint import open_checkpoint
from backends.anyprec.engine.weights import Variant, Weights
from backends.anyprec.store import Store

FULL = Variant(32)


class Original(Store):
    """Looks like a store of one width, 32 bits; its linear weights are the checkpoint's own."""

    def __init__(self, folder: Path) -> None:
        """Raises: Unsupported, Corrupt."""
        checkpoint = open_checkpoint(folder)
        self.folder, self.config, self.bits = folder, checkpoint.config, (int(FULL.bits),)
        self._tensors = checkpoint.tensors
        self.layers = [name for i in range(checkpoint.shape.layers) for name in checkpoint.shape.linears(i)]

    def shape(self, layer: str) -> tuple[int, int]:
        """(N, K) of a linear layer."""
        rows, columns = self._tensors.entry(f"{layer}.weight").shape
        return rows, columns

    def dequantize(self, layer: str, k: int) -> NDArray[np.float32]:
        """The checkpoint's weights (N, K), whatever the width."""
        return self._tensors.read(f"{layer}.weight")

    def payload_bytes(self) -> int:
        """Bytes of every tensor in the checkpoint."""
        return sum(self._tensors.entry(name).size_bytes for name in self._tensors.names)


def full_precision(folder: Path) -> Weights:
    """Weights of a checkpoint in Hugging Face's format, all kept in memory. Raises: Unsupported, Corrupt."""
    weights = Weights(Original(folder))
    weights.most_bytes = 1 << 62
    return weights
