"""The one table of what is trained: sizes, steps, padded lengths, learning rates."""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT_TOKENS = 512
HEAD_DIM = 64
VOCABULARY = 264  # 256 bytes, 5 special tokens, 3 unused


@dataclass(frozen=True)
class Size:
    """One Llama-architecture model of the family."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    learning_rate: float
    noise: float  # weight noise while training, in standard deviations of the matrix: makes narrow widths bearable
    bits: str  # widths packed
    rows_per_table: int  # rows of a weight matrix that share one quantization table

    @property
    def parameters(self) -> int:
        """Weights in all, the tied embedding once."""
        layer = 4 * self.hidden * self.heads * HEAD_DIM + 3 * self.hidden * self.mlp + 2 * self.hidden
        return self.layers * layer + VOCABULARY * self.hidden + self.hidden


SIZES: dict[str, Size] = {
    "small": Size(hidden=64, layers=4, heads=2, mlp=128, learning_rate=8e-3, noise=0.08, bits="3-6", rows_per_table=1),
    "medium": Size(hidden=128, layers=4, heads=2, mlp=352, learning_rate=5e-3, noise=0.0, bits="3-6", rows_per_table=1),
    "large": Size(
        hidden=256, layers=6, heads=4, mlp=768, learning_rate=2.5e-3, noise=0.0, bits="3-8", rows_per_table=16
    ),
}
STEPS = 52000
BUCKETS = (56, 80, 128, 224, 432)  # padded lengths; an item goes into the first it fits
