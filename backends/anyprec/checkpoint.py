"""A Hugging Face checkpoint of a Llama-like model: what it is, and which of its tensors are linear layers.

Fails with Unsupported for any other architecture, and with Corrupt where a tensor is missing or of the wrong shape.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.anyprec.errors import Corrupt, Unsupported
from backends.anyprec.tensors import TensorFolder

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "MistralForCausalLM")
SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "LICENSE",
)  # copied beside the weights as they are


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a Llama-like model that its forward pass needs."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """From config.json. Raises: Unsupported, naming the key that is missing."""
        try:
            heads = config["num_attention_heads"]
            return cls(
                layers=config["num_hidden_layers"],
                hidden=config["hidden_size"],
                intermediate=config["intermediate_size"],
                heads=heads,
                kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or config["hidden_size"] // heads,
                vocabulary=config["vocab_size"],
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except KeyError as error:
            raise Unsupported(f"config.json has no {error}") from error

    def linears(self, layer: int) -> dict[str, tuple[int, int]]:
        """(N, K) of every linear layer of one decoder layer, by name."""
        at = f"model.layers.{layer}"
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            f"{at}.self_attn.q_proj": (q, self.hidden),
            f"{at}.self_attn.k_proj": (kv, self.hidden),
            f"{at}.self_attn.v_proj": (kv, self.hidden),
            f"{at}.self_attn.o_proj": (self.hidden, q),
            f"{at}.mlp.gate_proj": (self.intermediate, self.hidden),
            f"{at}.mlp.up_proj": (self.intermediate, self.hidden),
            f"{at}.mlp.down_proj": (self.hidden, self.intermediate),
        }

    def parameters(self) -> int:
        """Weights of the whole model, norms and biases left out."""
        inner = sum(rows * columns for rows, columns in self.linears(0).values())
        return self.layers * inner + self.vocabulary * self.hidden * (1 if self.tied else 2)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint; tensors are read only when asked for."""

    folder: Path
    config: dict[str, Any]
    shape: Shape
    tensors: TensorFolder

    def plain(self) -> list[str]:
        """Names of the tensors that stay float16, buffers and a repeated tied head left out."""
        linear = {f"{name}.weight" for layer in range(self.shape.layers) for name in self.shape.linears(layer)}
        skipped = {"lm_head.weight"} if self.shape.tied else set()
        return [name for name in self.tensors.names if name not in linear | skipped and "rotary_emb" not in name]


def read_json(file: Path) -> dict[str, Any]:
    """Raises: Corrupt."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Corrupt(f"{file}: {error}") from error
    return content


def open_checkpoint(folder: Path) -> Checkpoint:
    """Raises: Unsupported for an architecture or a format that cannot be quantized, Corrupt for missing tensors."""
    config = read_json(folder / "config.json")
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        raise Unsupported(f"{folder}: architecture {architecture}; expected one of {', '.join(ARCHITECTURES)}")
    if config.get("quantization_config"):
        raise Unsupported(f"{folder} is quantized already ({config['quantization_config'].get('quant_method')})")
    checkpoint = Checkpoint(folder, config, Shape.of(config), TensorFolder(folder))
    for layer in range(checkpoint.shape.layers):
        for name, shape in checkpoint.shape.linears(layer).items():
            found = checkpoint.tensors.entry(f"{name}.weight").shape
            if found != shape:
                raise Corrupt(f"{folder}: {name}.weight is {found}, config.json says {shape}")
    return checkpoint
