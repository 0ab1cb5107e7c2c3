"""The tokenizer: one token a byte, the same in Hugging Face's files, in plain Python and in the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.anyprec.engine.tokenizer import Tokenizer
from backends.family.packed import STORES
from research.tokens import decode, encode_answer, encode_chat, write_tokenizer

TEXTS = ["What is 3 + 4?", "naïve café, 東京 🙂", " spaced\n\tout ", "<|nothing special|>", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_its_bytes_and_comes_back(text: str) -> None:
    assert encode_answer(text) == [*text.encode(), 260]
    assert decode(encode_answer(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_hugging_face_reads_the_written_file_the_same_way(text: str, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    write_tokenizer(tmp_path, context_tokens=512)
    fast = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = fast.encode(f"<|user|>{text}<|end|><|assistant|>").ids
    assert ids == encode_chat(text)
    assert fast.decode(ids) == text


@pytest.mark.parametrize("name", STORES)
def test_the_engine_renders_a_chat_as_the_models_were_trained(name: str) -> None:
    tokenizer = Tokenizer(STORES[name])
    asked = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "naïve?"}]
    rendered = tokenizer.encode(tokenizer.prompt(asked))
    assert rendered == encode_chat("naïve?", system="Answer briefly.")
