"""Reads a byte-level tokenizer and its chat template out of a model folder, with no library beyond jinja2.

A tokenizer.json with merges or another scheme needs the `tokenizers` package; Unsupported says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from backends.anyprec.checkpoint import read_json
from backends.anyprec.errors import Unsupported


class BadMessages(Unsupported):
    """The template refused the messages."""


def byte_symbols() -> list[str]:
    """The printable character that stands for every byte in byte-level vocabularies (GPT-2's table)."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    odd = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(odd)) for byte in range(0x100)]


def _token_text(value: object) -> str | None:
    """tokenizer_config.json writes a token as a string or as {"content": …}."""
    if isinstance(value, Mapping):
        return str(value["content"])
    return None if value is None else str(value)


def _refuse(message: str) -> None:
    raise BadMessages(message)


class Tokenizer:
    """Text to ids and back, and messages to a prompt."""

    def __init__(self, folder: Path) -> None:
        """Raises: Corrupt without a tokenizer.json, Unsupported for one that cannot be read."""
        content = read_json(folder / "tokenizer.json")
        settings = read_json(folder / "tokenizer_config.json")
        self._specials = {str(token["content"]): int(token["id"]) for token in content.get("added_tokens", [])}
        pattern = "|".join(re.escape(text) for text in sorted(self._specials, key=len, reverse=True))
        self._split = re.compile(f"({pattern})") if pattern else None
        self._library = None
        model = content["model"]
        symbols = {symbol: bytes([byte]) for byte, symbol in enumerate(byte_symbols())}
        self._bytes_of = {
            int(token): b"".join(symbols.get(c, c.encode()) for c in text) for text, token in model["vocab"].items()
        }
        if model.get("merges") or model.get("type") != "BPE":
            self._library = _library(folder)
        self._ids = [int(model["vocab"].get(symbol, -1)) for symbol in symbols]
        self._bytes_of |= {token: text.encode() for text, token in self._specials.items()}
        self._names = {key: _token_text(settings.get(f"{key}_token")) for key in ("bos", "eos", "pad")}
        self.eos = self._specials.get(self._names["eos"] or "")
        self._template = _template(folder, settings)

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are never shown as text."""
        return frozenset(self._specials.values())

    @property
    def known(self) -> AbstractSet[int]:
        """Every token id there is."""
        return self._bytes_of.keys()

    def encode(self, text: str) -> list[int]:
        """Token ids; a special token's text becomes that token."""
        if self._library is not None:
            found: list[int] = self._library.encode(text, add_special_tokens=False).ids
            return found
        pieces = self._split.split(text) if self._split else [text]
        ids: list[int] = []
        for piece in pieces:
            if piece in self._specials:
                ids.append(self._specials[piece])
            else:
                ids.extend(self._ids[byte] for byte in piece.encode())
        return ids

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for; nothing for an id the tokenizer does not have."""
        return self._bytes_of.get(token, b"")

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without the special tokens; broken UTF-8 is replaced."""
        return b"".join(self.bytes_of(t) for t in tokens if t not in self.special_ids).decode(errors="replace")

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Any] | None = None, answering: bool = True
    ) -> str:
        """Messages through the chat template; if `answering`, up to where the answer begins. Raises: BadMessages."""
        if self._template is None:
            raise BadMessages("this model has no chat template; use /v1/completions")
        try:
            prompt: str = self._template.render(
                messages=[_flat(message) for message in messages],
                tools=tools or None,
                add_generation_prompt=answering,
                bos_token=self._names["bos"] or "",
                eos_token=self._names["eos"] or "",
                pad_token=self._names["pad"] or "",
                raise_exception=_refuse,
            )
            return prompt
        except (TemplateError, TypeError, ValueError) as error:
            raise BadMessages(f"the chat template refused the messages: {error}") from error


def _flat(message: Mapping[str, Any]) -> dict[str, Any]:
    """Content parts of type text joined into one string. Raises: BadMessages for other parts."""
    content = message.get("content")
    if not isinstance(content, list):
        return {**message, "content": "" if content is None else content}
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadMessages("content parts must be of type text")
    return {**message, "content": "".join(part["text"] for part in content)}


def _library(folder: Path) -> Any:
    try:
        from tokenizers import Tokenizer as Library  # noqa: PLC0415  # only where the vocabulary needs it
    except ImportError as error:
        raise Unsupported(f"{folder}: its tokenizer has merges, which need the package tokenizers") from error
    return Library.from_file(str(folder / "tokenizer.json"))


def _template(folder: Path, settings: Mapping[str, Any]) -> Any:
    file = folder / "chat_template.jinja"
    text = file.read_text() if file.exists() else settings.get("chat_template")
    if not isinstance(text, str):
        return None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    return environment.from_string(text)
