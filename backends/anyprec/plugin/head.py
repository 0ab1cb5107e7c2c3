"""The unquantized head, told apart from its neighbours in a batch as the quantized layers are."""

from __future__ import annotations

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from backends.anyprec.kernels.portable import BLOCK


class WholeBlocksHead(UnquantizedEmbeddingMethod):  # type: ignore[misc]  # vLLM is untyped here
    """vLLM's own, with rows filled up to whole blocks on a CPU.

    One logit in ten thousand of a single row differs from the same row's among others there, by a bit of bfloat16
    (kernels/portable.py has the same for the layers).
    """

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (rows, vocabulary) of x (rows, K)."""
        missing = -x.shape[0] % BLOCK if x.device.type == "cpu" else 0
        if not missing:
            logits: torch.Tensor = super().apply(layer, x, bias)
            return logits
        filled: torch.Tensor = super().apply(layer, torch.nn.functional.pad(x, (0, 0, 0, missing)), bias)
        return filled[: x.shape[0]]
