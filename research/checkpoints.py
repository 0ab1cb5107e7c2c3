"""Writes and reads the family's checkpoints in Hugging Face's format."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from backends.family.sizes import CONTEXT_TOKENS, SIZES
from backends.family.tokens import write_tokenizer
from research.model import TrainedLlama


def save(model: TrainedLlama, folder: Path) -> None:
    """Write a Hugging Face checkpoint in fp16: weights, config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": weight.detach().half().cpu().contiguous() for name, weight in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.size.hf_config(), indent=1) + "\n")
    generation = {"eos_token_id": 260, "pad_token_id": 256, "do_sample": False, "max_new_tokens": 160}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    write_tokenizer(folder, context_tokens=CONTEXT_TOKENS)


def load(folder: Path) -> TrainedLlama:
    """A checkpoint of the family, by its folder's name."""
    model = TrainedLlama(SIZES[folder.name])
    tensors = {
        name.removeprefix("model."): tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    model.load_state_dict(tensors)
    model.eval()
    return model
