"""A TrainedLlama-architecture model in plain torch, for training and judging; weights carry Hugging Face's names."""
# mypy: allow-subclassing-any

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor, nn

from backends.family.sizes import CONTEXT_TOKENS, HEAD_DIM, VOCABULARY, Size

Cache = list[tuple[Tensor, Tensor]]  # per layer: keys and values, (rows, heads, positions, HEAD_DIM)


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


class Attention(nn.Module):
    """Causal attention with rotary positions."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads, inner = size.heads, size.heads * HEAD_DIM
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(size.hidden, inner, bias=False) for _ in range(3))
        self.o_proj = nn.Linear(inner, size.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self._heads(x)
        q, k = rotated(q, cos, sin).to(v.dtype), rotated(k, cos, sin).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def extend(
        self, x: Tensor, cos: Tensor, sin: Tensor, *, cache: tuple[Tensor, Tensor], at: Tensor, mask: Tensor
    ) -> Tensor:
        """Attend with a cache; `at` (rows, new) says where each new position is written, `mask` what it may see."""
        q, k, v = self._heads(x)
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        cache[0].transpose(1, 2)[rows, at] = rotated(k, cos, sin).transpose(1, 2)
        cache[1].transpose(1, 2)[rows, at] = v.transpose(1, 2)
        mixed = F.scaled_dot_product_attention(rotated(q, cos, sin), cache[0], cache[1], attn_mask=mask)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            projection(x).unflatten(-1, (self.heads, HEAD_DIM)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(size.hidden, size.mlp, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(size.mlp, size.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TrainedLayer(nn.Module):
    """One decoder layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(size), Mlp(size)
        self.input_layernorm, self.post_attention_layernorm = Norm(size.hidden), Norm(size.hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class TrainedLlama(nn.Module):
    """The whole model with tied embeddings; parameters are named as in transformers, without the leading "model."."""

    cos: Tensor
    sin: Tensor

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.embed_tokens = nn.Embedding(VOCABULARY, size.hidden)
        self.layers = nn.ModuleList(TrainedLayer(size) for _ in range(size.layers))
        self.norm = Norm(size.hidden)
        frequency = 10000.0 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angle = torch.arange(CONTEXT_TOKENS)[:, None] * torch.cat((frequency, frequency))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = (
                    0.02
                    if "embed" in name
                    else weight.shape[1] ** -0.5 / ((2 * self.size.layers) ** 0.5 if deep else 1)
                )
                nn.init.normal_(weight, std=std)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (rows, positions, vocabulary) of ids (rows, positions)."""
        x = self.embed_tokens(ids)
        cos, sin = (table[: ids.shape[1]].to(x.dtype) for table in (self.cos, self.sin))
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embed_tokens.weight)

    def extend(self, ids: Tensor, *, cache: Cache, at: Tensor) -> Tensor:
        """Logits of new ids (rows, new) written at positions `at` (rows, new) of the cache."""
        x = self.embed_tokens(ids)
        cos, sin = self.cos[at][:, None], self.sin[at][:, None]
        mask = torch.arange(cache[0][0].shape[2], device=ids.device) <= at[:, None, :, None]
        for layer, kept in zip(self.layers, cache, strict=True):
            x = x + layer.self_attn.extend(layer.input_layernorm(x), cos, sin, cache=kept, at=at, mask=mask)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return F.linear(self.norm(x), self.embed_tokens.weight)

    def empty_cache(self, rows: int, positions: int) -> Cache:
        """A cache of zeros for that many rows and positions."""
        shape = (rows, self.size.heads, positions, HEAD_DIM)
        return [(self.cos.new_zeros(shape), self.cos.new_zeros(shape)) for _ in self.layers]


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (half-split, as in transformers)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
