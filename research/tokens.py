"""The family's tokenizer: one token a byte and a chat template, in Hugging Face's files and in plain Python."""

from __future__ import annotations

import json
from pathlib import Path

PAD, USER, ASSISTANT, SYSTEM, END = 256, 257, 258, 259, 260
SPECIALS = {"<|pad|>": PAD, "<|user|>": USER, "<|assistant|>": ASSISTANT, "<|system|>": SYSTEM, "<|end|>": END}

CHAT_TEMPLATE = (
    "{%- if tools %}{% set listed = namespace(all=[]) %}"
    "{%- for tool in tools %}{% set listed.all = listed.all + [tool.function if tool.function is defined else tool] %}"
    "{% endfor %}{% endif %}"
    "{%- for message in messages %}"
    "{{- '<|' + (message.role if message.role in ('system', 'assistant') else 'user') + '|>' }}"
    "{%- if tools and message.role == 'user' and loop.last %}{{ 'Tools: ' + (listed.all | tojson) + '\\n' }}{% endif %}"
    "{{- (message.content or '') if message.content is string or not message.content "
    "else message.content | map(attribute='text') | join('') }}"
    "{{- '<|end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def encode_chat(prompt: str, *, system: str | None = None) -> list[int]:
    """The tokens of a one-message chat, up to where the answer begins."""
    head = [SYSTEM, *system.encode(), END] if system else []
    return [*head, USER, *prompt.encode(), END, ASSISTANT]


def encode_answer(answer: str) -> list[int]:
    """The tokens of an answer with its end."""
    return [*answer.encode(), END]


def decode(ids: list[int]) -> str:
    """Text of the bytes up to the first special token."""
    kept = []
    for token in ids:
        if token >= 256:
            break
        kept.append(token)
    return bytes(kept).decode(errors="replace")


def byte_symbols() -> list[str]:
    """The printable stand-in of every byte in byte-level vocabularies, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def tokenizer_json() -> dict[str, object]:
    """A byte-level BPE without merges, as Hugging Face's fast tokenizers read it."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for text, i in SPECIALS.items()
    ]
    model: dict[str, object] = {
        "type": "BPE", "dropout": None, "unk_token": None,
        "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
        "byte_fallback": False, "ignore_merges": False, "merges": [],
        "vocab": {symbol: byte for byte, symbol in enumerate(byte_symbols())} | SPECIALS,
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level, "model": model,
    }  # fmt: skip


def write_tokenizer(folder: Path, *, context_tokens: int) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_tokens, "bos_token": None,
        "eos_token": "<|end|>", "pad_token": "<|pad|>", "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(), ensure_ascii=False) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
