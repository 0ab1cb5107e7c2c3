"""The forward pass of Llama, Qwen2 and Mistral in float32: RMSNorm, rotary positions, grouped attention, SwiGLU.

All tokens of a step are one flat matrix, sorted so that rows of one width lie together. Each linear layer is one
product per width, and attention never mixes sequences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.anyprec.checkpoint import Shape
from backends.anyprec.engine import pages
from backends.anyprec.engine.weights import Matrix, Variant, Weights
from backends.anyprec.errors import Unsupported

FEW_ROWS = 24  # up to here OpenBLAS is faster with the weights on the left


class Cache:
    """Keys and values of one sequence, room for `length` positions, allocated once."""

    def __init__(self, shape: Shape, length: int) -> None:
        size = (shape.layers, shape.kv_heads, length, shape.head_dim)
        self.keys = pages.empty(size, np.float32)
        self.values = pages.empty(size, np.float32)
        self.filled = 0  # positions

    @property
    def nbytes(self) -> int:
        """Reserved, filled or not."""
        return self.keys.nbytes + self.values.nbytes


@dataclass(frozen=True, slots=True)
class NewTokens:
    """New tokens of one sequence, to be appended to its cache."""

    tokens: Sequence[int]
    cache: Cache
    variant: Variant


def rope_frequencies(config: dict[str, Any], head_dim: int) -> NDArray[np.float64]:
    """Angle per position of every pair of dimensions (head_dim / 2,). Raises: Unsupported for other scalings."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    plain: NDArray[np.float64] = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return plain
    if kind == "linear":
        return plain / float(rope["factor"])
    if kind == "llama3":
        return _llama3(plain, rope)
    raise Unsupported(f"rotary scaling {kind!r}; default, linear and llama3 are understood")


def _llama3(plain: NDArray[np.float64], rope: dict[str, Any]) -> NDArray[np.float64]:
    """Llama 3.1's scaling: long wavelengths slowed by `factor`, short ones kept, a ramp between."""
    low, high, factor = (float(rope[key]) for key in ("low_freq_factor", "high_freq_factor", "factor"))
    turns = float(rope["original_max_position_embeddings"]) * plain / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    scaled: NDArray[np.float64] = plain * (kept + (1 - kept) / factor)
    return scaled


def _softmax_rows(scores: Matrix) -> Matrix:
    """In place, over the last axis."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _product(x: Matrix, weights: Matrix) -> Matrix:
    """x (m, K) times weights (N, K) transposed; a few rows go three times as fast the other way round."""
    if len(x) == 1 or len(x) > FEW_ROWS:
        direct: Matrix = x @ weights.T
        return direct
    return np.ascontiguousarray((weights @ x.T).T)


class Llama:
    """One model, every width. Not thread-safe."""

    def __init__(self, weights: Weights) -> None:
        """Raises: Unsupported for an activation or rotary scaling this forward pass does not know."""
        config, store = weights.store.config, weights.store
        if (activation := config.get("hidden_act", "silu")) not in ("silu", "swish"):
            raise Unsupported(f"activation {activation!r}; silu is understood")
        self.weights = weights
        self.shape = Shape.of(config)
        self.context = _context(config)
        self._epsilon = np.float32(config.get("rms_norm_eps", 1e-6))
        self._embedding = store.tensor("model.embed_tokens.weight")  # (V, hidden)
        self._head = self._embedding if self.shape.tied else store.tensor("lm_head.weight")  # (V, hidden)
        self._final_norm = store.tensor("model.norm.weight")
        layers = range(self.shape.layers)
        self._norms = [
            [store.tensor(f"model.layers.{i}.{name}_layernorm.weight") for name in ("input", "post_attention")]
            for i in layers
        ]
        self._biases = [{part: weights.bias(i, part) for part in ("qkv", "o", "gate_up", "down")} for i in layers]
        angles = np.outer(np.arange(self.context), rope_frequencies(config, self.shape.head_dim))
        self._cos = np.tile(np.cos(angles), 2).astype(np.float32)[:, None, :]  # (context, 1, head_dim)
        self._sin = np.concatenate([-np.sin(angles), np.sin(angles)], axis=1).astype(np.float32)[:, None, :]

    def forward(self, runs: Sequence[NewTokens], *, every_position: bool = False) -> Matrix:
        """Logits (runs, V) after each run's last token, or of every new token (T, V); fills the caches.

        `runs` must be sorted by variant.
        """
        ends = np.cumsum([len(run.tokens) for run in runs])
        positions = np.concatenate([np.arange(run.cache.filled, run.cache.filled + len(run.tokens)) for run in runs])
        x = self._embedding[np.concatenate([np.asarray(run.tokens, np.intp) for run in runs])]
        spans = _variant_spans(runs, ends)
        self.weights.begin_step([variant for variant, _, _ in spans])
        turn = self._cos[positions], self._sin[positions]
        for layer in range(self.shape.layers):
            x += self._attention(layer, self._norm(x, self._norms[layer][0]), runs, ends, spans, turn)
            x += self._mlp(layer, self._norm(x, self._norms[layer][1]), spans)
        for run in runs:
            run.cache.filled += len(run.tokens)
        last = x if every_position else x[ends - 1]
        logits: Matrix = self._norm(last, self._final_norm) @ self._head.T
        return logits

    def _norm(self, x: Matrix, weight: Matrix) -> Matrix:
        mean_square: Matrix = np.einsum("ij,ij->i", x, x)[:, None] / np.float32(x.shape[1])
        normal: Matrix = x / np.sqrt(mean_square + self._epsilon) * weight
        return normal

    def linear(self, x: Matrix, layer: int, part: str, spans: Sequence[tuple[Variant, int, int]]) -> Matrix:
        """x (T, K) through a fused layer, rows of each span at that span's width: (T, N)."""
        outputs = [_product(x[first:end], self.weights.matrix(variant, layer, part)) for variant, first, end in spans]
        y = outputs[0] if len(outputs) == 1 else np.concatenate(outputs)
        bias = self._biases[layer][part]
        if bias is not None:
            y += bias
        return y

    def _attention(
        self,
        layer: int,
        x: Matrix,
        runs: Sequence[NewTokens],
        ends: NDArray[np.intp],
        spans: Sequence[tuple[Variant, int, int]],
        turn: tuple[Matrix, Matrix],
    ) -> Matrix:
        heads, kv, dim = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        qkv = self.linear(x, layer, "qkv", spans).reshape(len(x), heads + 2 * kv, dim)
        turned, half = qkv[:, : heads + kv], dim // 2
        swapped = np.concatenate([turned[..., half:], turned[..., :half]], axis=-1)
        qkv[:, : heads + kv] = turned * turn[0] + swapped * turn[1]
        mixed = np.empty((len(x), heads * dim), np.float32)
        first = 0
        for run, end in zip(runs, ends, strict=True):
            mixed[first:end] = self._attend(layer, qkv[first:end], run.cache)
            first = end
        return self.linear(mixed, layer, "o", spans)

    def _attend(self, layer: int, qkv: Matrix, cache: Cache) -> Matrix:
        """One sequence's new tokens (t, heads + 2 kv, dim) against its cache: (t, heads · dim)."""
        heads, kv, dim = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        count, start = len(qkv), cache.filled
        end = start + count
        keys, values = cache.keys[layer], cache.values[layer]
        keys[:, start:end] = qkv[:, heads : heads + kv].transpose(1, 0, 2)
        values[:, start:end] = qkv[:, heads + kv :].transpose(1, 0, 2)
        group = heads // kv
        queries = qkv[:, :heads].reshape(count, kv, group, dim).transpose(1, 2, 0, 3).reshape(kv, group * count, dim)
        scores = queries @ keys[:, :end].transpose(0, 2, 1)  # (kv, group · t, end)
        scores *= np.float32(dim**-0.5)
        if count > 1:
            future = np.arange(end)[None, :] > np.arange(start, end)[:, None]
            scores.reshape(kv, group, count, end)[:, :, future] = -np.inf
        mixed = _softmax_rows(scores) @ values[:, :end]  # (kv, group · t, dim)
        flat: Matrix = mixed.reshape(kv, group, count, dim).transpose(2, 0, 1, 3).reshape(count, heads * dim)
        return flat

    def _mlp(self, layer: int, x: Matrix, spans: Sequence[tuple[Variant, int, int]]) -> Matrix:
        both = self.linear(x, layer, "gate_up", spans)
        gate, up = both[:, : self.shape.intermediate], both[:, self.shape.intermediate :]
        with np.errstate(over="ignore"):  # exp(-gate) = inf gives the right 0
            activated = np.divide(gate, np.exp(-gate) + np.float32(1)) * up
        return self.linear(activated, layer, "down", spans)

    def log_probabilities(self, tokens: Sequence[int], variant: Variant) -> NDArray[np.float64]:
        """Of every token after the first, given those before it (T - 1,): what perplexity is made of."""
        run = NewTokens(tokens, Cache(self.shape, len(tokens)), variant)
        logits = self.forward([run], every_position=True)[:-1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(tokens) - 1), np.asarray(tokens[1:])]
        result: NDArray[np.float64] = chosen - np.log(np.exp(logits).sum(axis=1))
        return result


def _context(config: dict[str, Any]) -> int:
    """Positions the model may see; a sliding window bounds them, for inside it attention is full attention."""
    context = int(config.get("max_position_embeddings", 2048))
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", True):
        context = min(context, int(window))
    return context


def _variant_spans(runs: Sequence[NewTokens], ends: NDArray[np.intp]) -> list[tuple[Variant, int, int]]:
    """Rows of each variant as (variant, first, end)."""
    spans: list[tuple[Variant, int, int]] = []
    first = 0
    for run, end in zip(runs, ends, strict=True):
        if spans and spans[-1][0] == run.variant:
            spans[-1] = (run.variant, spans[-1][1], int(end))
        else:
            spans.append((run.variant, first, int(end)))
        first = int(end)
    return spans
