"""Writes and reads the family's checkpoints in Hugging Face's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from backends.family.sizes import CONTEXT_TOKENS, HEAD_DIM, SIZES, VOCABULARY, Size
from research.model import TrainedLlama
from research.tokens import write_tokenizer


def save(model: TrainedLlama, folder: Path) -> None:
    """Write a Hugging Face checkpoint in fp16: weights, config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": weight.detach().half().cpu().contiguous() for name, weight in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hf_config(model.size), indent=1) + "\n")
    generation = {"eos_token_id": 260, "pad_token_id": 256, "do_sample": False, "max_new_tokens": 160}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    write_tokenizer(folder, context_tokens=CONTEXT_TOKENS)


def hf_config(size: Size) -> dict[str, Any]:
    """The keys of Hugging Face's config.json."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY,
        "hidden_size": size.hidden, "intermediate_size": size.mlp, "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads, "num_key_value_heads": size.heads, "head_dim": HEAD_DIM,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "attention_bias": False, "mlp_bias": False,
        "max_position_embeddings": CONTEXT_TOKENS, "tie_word_embeddings": True, "torch_dtype": "float16",
        "bos_token_id": None, "eos_token_id": 260, "pad_token_id": 256, "use_cache": True,
    }  # fmt: skip


def load(folder: Path) -> TrainedLlama:
    """A checkpoint of the family, by its folder's name."""
    model = TrainedLlama(SIZES[folder.name])
    tensors = {
        name.removeprefix("model."): tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    model.load_state_dict(tensors)
    model.eval()
    return model
