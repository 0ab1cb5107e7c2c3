"""Writes a store of random weights in any model's shapes, so that serving can be tried without a trained model.

python -m benchmarks.random_store FOLDER --model qwen2.5-1.5b --bits 3 4 6 8
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from backends.anyprec.store import ACTIVATIONS, METHOD, VERSION, WORD_BITS, config_digest, sha256_of, words

SPECIALS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True)
class StoreShape:
    """A decoder's sizes, under Hugging Face's names."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    architecture: str = "LlamaForCausalLM"
    context: int = 4096
    bias: bool = False  # on q, k and v, as Qwen2 has them

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    def linears(self) -> dict[str, tuple[int, int]]:
        """(N, K) of each linear layer of one decoder layer."""
        h, f, kv = self.hidden, self.intermediate, self.kv_heads * self.head
        return {
            "self_attn.q_proj": (h, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h),
            "self_attn.o_proj": (h, h), "mlp.gate_proj": (f, h), "mlp.up_proj": (f, h), "mlp.down_proj": (h, f),
        }  # fmt: skip

    def config(self) -> dict[str, Any]:
        """config.json without its quantization."""
        return {
            "architectures": [self.architecture],
            "model_type": "qwen2" if self.architecture.startswith("Qwen2") else "llama",
            "hidden_size": self.hidden, "intermediate_size": self.intermediate, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
            "tie_word_embeddings": True, "torch_dtype": ACTIVATIONS, "bos_token_id": 256, "eos_token_id": 260,
        }  # fmt: skip


SHAPES = {
    "tiny": StoreShape(128, 352, 2, 4, 2, 261, context=512),
    "tiny2": StoreShape(256, 720, 2, 8, 4, 261, context=512),
    "llama-3.1-8b": StoreShape(4096, 14336, 32, 32, 8, 128256),
    "qwen2.5-1.5b": StoreShape(1536, 8960, 28, 12, 2, 151936, architecture="Qwen2ForCausalLM", bias=True),
}


def random_tables(
    generator: np.random.Generator, rows: int, *, bits: Sequence[int], scale: float
) -> dict[int, NDArray[np.float16]]:
    """Nested tables {k: (rows, 2^k)}: each entry is the mean of the two below it, as a quantizer's would be."""
    finest = np.sort(generator.standard_normal((rows, 2 ** max(bits)), np.float32), axis=1) * scale
    return {k: finest.reshape(rows, 2**k, -1).mean(2).astype(np.float16) for k in bits}


def quantized_layer(
    generator: np.random.Generator, name: str, shape: tuple[int, int], *, bits: Sequence[int], group: int
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of one linear layer, codes drawn uniformly."""
    rows, columns = shape
    planes = generator.integers(0, 2**32, (max(bits), rows, words(columns)), np.uint32)
    if columns % WORD_BITS:
        planes[:, :, -1] &= np.uint32(2 ** (columns % WORD_BITS) - 1)
    yield f"{name}.planes", planes
    for k, table in random_tables(generator, rows // group, bits=bits, scale=columns**-0.5).items():
        yield f"{name}.lut{k}", table


def _plain(generator: np.random.Generator, shape: StoreShape) -> Iterator[tuple[str, NDArray[np.float16]]]:
    embed = generator.standard_normal((shape.vocabulary, shape.hidden), np.float32) * shape.hidden**-0.5 * 4
    yield "model.embed_tokens.weight", embed.astype(np.float16)
    yield "model.norm.weight", np.ones(shape.hidden, np.float16)
    for i in range(shape.layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{i}.{norm}.weight", np.ones(shape.hidden, np.float16)
        for part in "qkv" if shape.bias else "":
            rows = shape.linears()[f"self_attn.{part}_proj"][0]
            yield f"model.layers.{i}.self_attn.{part}_proj.bias", generator.standard_normal(rows).astype(np.float16)


def write_tokenizer(folder: Path) -> None:
    """Bytes as tokens 0 to 255, then SPECIALS."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # ByteLevel's own alphabet
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    added = [
        {"id": 256 + n, "content": word, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for n, word in enumerate(SPECIALS)
    ]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model: dict[str, object] = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "fuse_unk": False,
        "end_of_word_suffix": None, "byte_fallback": False, "ignore_merges": False, "merges": [],
        "vocab": {symbols[byte]: byte for byte in range(256)},
    }  # fmt: skip
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": added, "pre_tokenizer": level, "decoder": level, "model": model,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|pad|>",
        "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_store(folder: Path, shape: StoreShape, *, bits: Sequence[int], group: int = 1, seed: int = 0) -> None:
    """A whole store: shards, index, tokenizer, config with checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    write_tokenizer(folder)
    of_tensor: dict[str, str] = {}

    def keep(tensors: dict[str, NDArray[Any]], number: int) -> None:
        file = f"model-{number:05d}-of-{shape.layers + 1:05d}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        of_tensor.update(dict.fromkeys(tensors, file))

    for i in range(shape.layers):
        layer: dict[str, NDArray[Any]] = {}
        for name, size in shape.linears().items():
            layer.update(quantized_layer(generator, f"model.layers.{i}.{name}", size, bits=bits, group=group))
        keep(layer, i + 1)
    keep(dict(_plain(generator, shape)), shape.layers + 1)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": of_tensor}))
    ragged = {
        f"model.layers.{i}.{name}": size[1]
        for i in range(shape.layers)
        for name, size in shape.linears().items()
        if size[1] % WORD_BITS
    }
    quantization: dict[str, Any] = {
        "quant_method": METHOD, "version": VERSION, "bits": sorted(bits), "rows_per_table": group,
        "in_features": ragged, "checksums": {file.name: sha256_of(file) for file in sorted(folder.iterdir())},
    }  # fmt: skip
    config = {**shape.config(), "quantization_config": quantization}
    quantization["config_sha256"] = config_digest(config)
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--bits", type=int, nargs="+", default=[3, 4, 6, 8])
    parser.add_argument("--group", type=int, default=1, help="rows that share one table")
    arguments = parser.parse_args()
    write_store(arguments.folder, SHAPES[arguments.model], bits=arguments.bits, group=arguments.group)


if __name__ == "__main__":
    main()
