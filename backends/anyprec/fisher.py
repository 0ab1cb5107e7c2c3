"""Measures the diagonal Fisher information of every linear weight from calibration text, with torch.

h = mean over windows of the squared gradient of the window's mean negative log-likelihood (arXiv 2402.10517 takes 100
samples of 512 tokens). Needs the `compensate` extra; without it Unsupported says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from backends.anyprec.checkpoint import open_checkpoint
from backends.anyprec.errors import Unsupported

WINDOWS = 100
WINDOW_TOKENS = 512


def _torch() -> tuple[Any, Any]:
    try:
        import torch  # noqa: PLC0415  # optional
        import transformers  # noqa: PLC0415  # optional
    except ImportError as error:
        raise Unsupported(f"sensitivities from text need the extra pointsman[compensate] ({error})") from error
    return torch, transformers


def windows_of(tokens: list[int], *, length: int, most: int) -> list[list[int]]:
    """Equal windows spread evenly over the text. Raises: Unsupported when it is shorter than two tokens."""
    if len(tokens) < 2:
        raise Unsupported("the calibration text has fewer than two tokens")
    starts = list(range(0, max(1, len(tokens) - length + 1), length))
    step = max(1, len(starts) // most)
    return [tokens[start : start + length] for start in starts[::step][:most]]


def measure(
    checkpoint: Path, text: Path, *, out: Path, windows: int = WINDOWS, window_tokens: int = WINDOW_TOKENS
) -> None:
    """Write sensitivities of `checkpoint` on a text file to `out`, a safetensors file. Raises: Unsupported, Corrupt."""
    torch, transformers = _torch()
    opened = open_checkpoint(checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    length = min(window_tokens, int(opened.config.get("max_position_embeddings", window_tokens)))
    pieces = windows_of(tokenizer(text.read_text())["input_ids"], length=length, most=windows)
    wanted = {f"{name}.weight" for layer in range(opened.shape.layers) for name in opened.shape.linears(layer)}
    sums: dict[str, Any] = {}
    for piece in pieces:
        ids = torch.tensor([piece])
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        for name, parameter in model.named_parameters():
            if name in wanted:
                sums[name] = sums.get(name, 0.0) + parameter.grad.double() ** 2
    save_file({name: (total / len(pieces)).float().numpy() for name, total in sums.items()}, out)
