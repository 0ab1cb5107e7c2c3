"""Small random checkpoints in Hugging Face's format, written without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIALS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")


def byte_symbols() -> list[str]:
    """GPT-2's printable symbol of every byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    odd = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(odd)) for byte in range(256)]


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer: ids 0 … 255 are bytes, then the special tokens."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    added = [
        {"id": 256 + i, "content": text, "special": True, "normalized": False, "lstrip": False, "rstrip": False,
         "single_word": False}
        for i, text in enumerate(SPECIALS)
    ]  # fmt: skip
    model = {"type": "BPE", "vocab": {symbol: byte for byte, symbol in enumerate(byte_symbols())}, "merges": []}
    content = {
        "version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": level, "post_processor": None,
        "decoder": level, "model": model,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|pad|>",
        "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def config_of(**changes: object) -> dict[str, object]:
    """A Llama of some 50,000 parameters."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 261,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 128, "tie_word_embeddings": True,
        "hidden_act": "silu", "eos_token_id": 260, "bos_token_id": None, "pad_token_id": 256, "torch_dtype": "float32",
    } | changes  # fmt: skip


def random_tensors(config: dict[str, object], *, seed: int, scale: float = 0.15) -> dict[str, np.ndarray]:
    """Every tensor of the checkpoint, float32."""
    rng = np.random.default_rng(seed)
    size = {key: int(value) for key, value in config.items() if isinstance(value, int)}
    hidden, inner = size["hidden_size"], size["intermediate_size"]
    dim = size.get("head_dim", hidden // size["num_attention_heads"])
    q, kv = size["num_attention_heads"] * dim, size["num_key_value_heads"] * dim
    draw = lambda *shape: rng.normal(0, scale, shape).astype(np.float32)  # noqa: E731  # one line, used below
    tensors = {"model.embed_tokens.weight": draw(size["vocab_size"], hidden) * 4,
               "model.norm.weight": 1 + draw(hidden)}  # fmt: skip
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = draw(size["vocab_size"], hidden)
    for i in range(size["num_hidden_layers"]):
        at = f"model.layers.{i}"
        tensors |= {
            f"{at}.self_attn.q_proj.weight": draw(q, hidden), f"{at}.self_attn.k_proj.weight": draw(kv, hidden),
            f"{at}.self_attn.v_proj.weight": draw(kv, hidden), f"{at}.self_attn.o_proj.weight": draw(hidden, q),
            f"{at}.mlp.gate_proj.weight": draw(inner, hidden), f"{at}.mlp.up_proj.weight": draw(inner, hidden),
            f"{at}.mlp.down_proj.weight": draw(hidden, inner), f"{at}.input_layernorm.weight": 1 + draw(hidden),
            f"{at}.post_attention_layernorm.weight": 1 + draw(hidden),
        }  # fmt: skip
        if config["architectures"] == ["Qwen2ForCausalLM"]:
            tensors |= {f"{at}.self_attn.{p}_proj.bias": draw(n) for p, n in (("q", q), ("k", kv), ("v", kv))}
    return tensors


def write_llama(folder: Path, *, seed: int = 0, scale: float = 0.15, shards: int = 1, **changes: object) -> Path:
    """A random checkpoint with a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(**changes)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    tensors = random_tensors(config, seed=seed, scale=scale)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    where = {name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in tensors if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder
