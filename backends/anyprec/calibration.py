"""Calibration texts as token sequences."""

from __future__ import annotations

import json
from pathlib import Path

from backends.anyprec.engine.tokenizer import Tokenizer

MOST_TOKENS = 16384


def read_texts(file: Path, tokenizer: Tokenizer, *, window: int, most_tokens: int = MOST_TOKENS) -> list[list[int]]:
    """Token sequences of a calibration file: chats of a .jsonl ({"messages": […]} a line), or windows of plain text."""
    text = file.read_text()
    if file.suffix == ".jsonl":
        chats = [json.loads(line)["messages"] for line in text.splitlines() if line.strip()]
        every = [tokenizer.encode(tokenizer.prompt(chat, answering=False))[:window] for chat in chats]
    else:
        tokens = tokenizer.encode(text)
        every = [tokens[at : at + window] for at in range(0, len(tokens), window)]
    kept, total = [], 0
    for each in every:
        if each and total + len(each) <= most_tokens:
            kept.append(each)
            total += len(each)
    return kept
