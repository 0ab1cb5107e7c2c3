"""Low-rank compensation of one width (EoRA, arXiv 2410.21271), written as a LoRA adapter in PEFT's format.

Σ = mean x xᵀ = Q Λ Qᵀ over a layer's inputs, and ΔW = W − Ŵ. From SVD_r(ΔW Q Λ^½) = U S Vᵀ come B = U S^½ and A = S^½
Vᵀ Λ^-½ Qᵀ, the rank-r term that minimises ‖(ΔW − BA) Σ^½‖. Layers are taken in sequence, and a layer's inputs come from
the layers before it as they are already compensated: one forward pass of the calibration text. Memory holds that pass:
its activations, keys and values, and one Σ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress as BarProgress
from safetensors.numpy import save_file

from backends.anyprec.adapter_budget import adapter_bytes, within_bytes
from backends.anyprec.calibration import MOST_TOKENS, read_texts
from backends.anyprec.checkpoint import open_checkpoint
from backends.anyprec.engine import adapters as format_
from backends.anyprec.engine.llama import Cache, Llama, NewTokens
from backends.anyprec.engine.tokenizer import Tokenizer
from backends.anyprec.engine.weights import PARTS, Matrix, Variant, Weights
from backends.anyprec.errors import Corrupt, Unsupported
from backends.anyprec.names import WIDTH_KEY
from backends.anyprec.store import Store
from backends.anyprec.tensors import TensorFolder

DAMPING = 0.01  # of the mean eigenvalue, added to every one: Λ^-½ of a rank-deficient Σ would blow up
Square = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LayerReport:
    """Relative output error ‖(ΔW − BA) X‖ / ‖W X‖ of one linear layer on the calibration inputs."""

    layer: str
    uncompensated: float
    plain_svd: float  # the same rank without looking at the inputs
    compensated: float


@dataclass(frozen=True, slots=True)
class Compensation:
    """Factors of every linear layer, A (r, K) and B (N, r), and how well they do."""

    bits: int
    rank: int
    factors: dict[str, tuple[Matrix, Matrix]]
    reports: tuple[LayerReport, ...]


def low_rank(delta: Matrix, covariance: Square, *, rank: int, damping: float = DAMPING) -> tuple[Matrix, Matrix]:
    """EoRA's A (r, K) and B (N, r) for ΔW (N, K) and Σ (K, K)."""
    values, Q = np.linalg.eigh(covariance)
    positive = values[values > 0]
    values = np.maximum(values, positive.min() if len(positive) else 1.0)
    values = values + damping * values.mean()
    U, S, Vt = np.linalg.svd((delta.astype(np.float64) @ Q) * np.sqrt(values), full_matrices=False)
    root = np.sqrt(S[:rank])
    A = root[:, None] * Vt[:rank] / np.sqrt(values) @ Q.T
    return A.astype(np.float32), (U[:, :rank] * root).astype(np.float32)


def plain_low_rank(delta: Matrix, *, rank: int) -> tuple[Matrix, Matrix]:
    """The best A (r, K) and B (N, r) for ΔW itself."""
    U, S, Vt = np.linalg.svd(delta.astype(np.float64), full_matrices=False)
    root = np.sqrt(S[:rank])
    return (root[:, None] * Vt[:rank]).astype(np.float32), (U[:, :rank] * root).astype(np.float32)


def output_norm(weights: Matrix, covariance: Square) -> float:
    """‖W X‖ per input, from Σ."""
    wide = weights.astype(np.float64)
    return float(np.sqrt(max(0.0, np.sum((wide @ covariance) * wide))))


class _Calibrating(Llama):
    """A forward pass that compensates every layer just before it uses it."""

    def __init__(
        self, weights: Weights, original: TensorFolder, *, rank: int, damping: float, on_progress: Callable[[str], None]
    ) -> None:
        super().__init__(weights)
        self._original, self._rank, self._damping, self._on_progress = original, rank, damping, on_progress
        self.factors: dict[str, tuple[Matrix, Matrix]] = {}
        self.reports: list[LayerReport] = []

    def linear(self, x: Matrix, layer: int, part: str, spans: Sequence[tuple[Variant, int, int]]) -> Matrix:
        wide = x.astype(np.float64)
        covariance = wide.T @ wide / len(wide)
        names = [f"model.layers.{layer}.{name}" for name in PARTS[part]]
        pieces = [self._compensated(name, int(spans[0][0].bits), covariance) for name in names]
        y = x @ np.concatenate(pieces).T
        bias = self.weights.bias(layer, part)
        return y if bias is None else y + bias

    def _compensated(self, name: str, bits: int, covariance: Square) -> Matrix:
        exact, rough = self._original.read(f"{name}.weight"), self.weights.store.dequantize(name, bits)
        delta = exact - rough
        a, b = low_rank(delta, covariance, rank=self._rank, damping=self._damping)
        plain_a, plain_b = plain_low_rank(delta, rank=self._rank)
        whole = output_norm(exact, covariance) or 1.0
        errors = [output_norm(left, covariance) / whole for left in (delta, delta - plain_b @ plain_a, delta - b @ a)]
        self.factors[name] = (a, b)
        self.reports.append(LayerReport(name, *errors))
        self._on_progress(name)
        fixed: Matrix = rough + b @ a
        return fixed


def compensate(
    store: Store,
    checkpoint: Path,
    texts: Sequence[Sequence[int]],
    *,
    bits: int,
    rank: int,
    damping: float = DAMPING,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Compensation:
    """Factors that bring width `bits` of `store` closer to `checkpoint` on the token sequences `texts`.

    Raises: Unsupported for a width or rank that is not there, Corrupt for a checkpoint of another shape.
    """
    original = open_checkpoint(checkpoint)
    for layer in store.layers:
        if original.tensors.entry(f"{layer}.weight").shape != store.shape(layer):
            raise Corrupt(f"{checkpoint}: {layer} has another shape than in {store.folder}")
    least = min(min(store.shape(layer)) for layer in store.layers)
    if bits not in store.bits or not 1 <= rank <= least:
        raise Unsupported(f"{bits} bits at rank {rank}; the store has {list(store.bits)}, ranks go from 1 to {least}")
    if not texts or not all(texts):
        raise Unsupported("the calibration text is empty")
    model = _Calibrating(Weights(store), original.tensors, rank=rank, damping=damping, on_progress=on_progress)
    model.forward([NewTokens(text, Cache(model.shape, len(text)), Variant(bits)) for text in texts])
    return Compensation(bits, rank, model.factors, tuple(model.reports))


def write_adapter(found: Compensation, folder: Path, *, base: str) -> None:
    """Write `found` as PEFT does; vLLM and the numpy engine both read it. Overwrites what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for layer, (a, b) in found.factors.items():
        tensors[f"{format_.PREFIX}{layer}.lora_A.weight"] = np.ascontiguousarray(a)
        tensors[f"{format_.PREFIX}{layer}.lora_B.weight"] = np.ascontiguousarray(b)
    metadata = {"format": "pt", WIDTH_KEY: str(found.bits)}
    save_file(tensors, folder / format_.WEIGHTS_NAME, metadata=metadata)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": found.rank,
        "lora_alpha": found.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted({layer.rpartition(".")[2] for layer in found.factors}),
    }
    (folder / format_.CONFIG_NAME).write_text(json.dumps(config, indent=1))


def run(
    store: Path,
    *,
    checkpoint: Path,
    text: Path,
    bits: int,
    rank: int = 16,
    name: str = "eora",
    damping: float = DAMPING,
    most_tokens: int = MOST_TOKENS,
    most_bytes: int | None = None,
) -> Compensation:
    """What `pointsman compensate` does: write the adapter into the store's `adapters` folder and say what it won.

    Raises: AnyprecError.
    """
    opened, console = Store.open(store), Console(stderr=True)
    model_context = int(opened.config.get("max_position_embeddings", 2048))
    texts = read_texts(text, Tokenizer(opened.folder), window=model_context, most_tokens=most_tokens)
    with BarProgress(console=console) as bar:
        task = bar.add_task("compensating", total=len(opened.layers))
        found = compensate(
            opened,
            checkpoint,
            texts,
            bits=bits,
            rank=rank,
            damping=damping,
            on_progress=lambda _: bar.advance(task),
        )
    if most_bytes is not None:
        console.print(f"choosing layers within {most_bytes:,} of {adapter_bytes(found.factors):,} bytes")
        found = replace(found, factors=within_bytes(opened, found.factors, texts, bits=bits, most_bytes=most_bytes))
    folder = opened.folder / format_.FOLDER / name
    write_adapter(found, folder, base=str(opened.folder))
    before = np.mean([report.uncompensated for report in found.reports])
    plain, after = (np.mean([getattr(r, key) for r in found.reports]) for key in ("plain_svd", "compensated"))
    console.print(f"{folder}: mean output error {before:.4f}, plain SVD {plain:.4f}, compensated {after:.4f}")
    return found
