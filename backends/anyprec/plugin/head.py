"""The unquantized head, told apart from its neighbours in a batch as the quantized layers are."""

from __future__ import annotations

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from backends.anyprec.kernels.portable import BLOCK


class WholeBlocksHead(UnquantizedEmbeddingMethod):  # type: ignore[misc]  # vLLM is untyped here
    """vLLM's own, in blocks of one number of rows on a CPU.

    One logit in ten thousand of a single row differs from the same row's among others there, by a bit of bfloat16
    (kernels/portable.py has the same for the layers).
    """

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (rows, vocabulary) of x (rows, K)."""
        if x.device.type != "cpu":
            logits: torch.Tensor = super().apply(layer, x, bias)
            return logits
        filled = torch.nn.functional.pad(x, (0, 0, 0, -x.shape[0] % BLOCK))
        return torch.cat([super(WholeBlocksHead, self).apply(layer, each, bias) for each in filled.split(BLOCK)])[
            : len(x)
        ]
