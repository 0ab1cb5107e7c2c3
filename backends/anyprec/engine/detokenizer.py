"""Turns drawn tokens into text as it may be shown: whole characters, and nothing a stop string may still claim."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from backends.anyprec.engine.sampling import Sampling, Token
from backends.anyprec.engine.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """What became visible with one or more tokens; `finish` on the last piece of an answer."""

    text: str
    tokens: tuple[Token, ...]
    finish: str | None = None  # "stop" or "length"
    stop_reason: str | int | None = None  # the stop string or stop token that ended it


class Detokenizer:
    """One choice's text so far."""

    def __init__(self, sampling: Sampling, tokenizer: Tokenizer, *, eos: frozenset[int]) -> None:
        self._sampling, self._tokenizer, self._eos = sampling, tokenizer, eos
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # text that may be the beginning of a stop string
        self._waiting: list[Token] = []  # tokens whose text is held
        self.count = 0
        self.finished = False

    def banned(self) -> frozenset[int]:
        """Tokens that may not come yet."""
        early = self.count < self._sampling.min_tokens or self._sampling.ignore_eos
        return self._eos if early else frozenset()

    def add(self, token: Token) -> Piece | None:
        """The next visible piece, or None while everything is held."""
        self.count += 1
        self._waiting.append(token)
        if token.id in self._eos or token.id in self._sampling.stop_tokens:
            return self._finish("stop", None if token.id in self._eos else token.id)
        if token.id not in self._tokenizer.special_ids:
            self._held += self._decoder.decode(self._tokenizer.bytes_of(token.id))
        if (found := self._first_stop()) is not None:
            at, text = found
            self._held = self._held[: at + len(text) if self._sampling.include_stop else at]
            return self._emit("", finish="stop", reason=text)
        if self.count >= self._sampling.max_tokens:
            return self._finish("length", None)
        return self._release()

    def _first_stop(self) -> tuple[int, str] | None:
        if self.count <= self._sampling.min_tokens:
            return None
        found = [(self._held.find(text), text) for text in self._sampling.stop if text in self._held]
        return min(found, default=None)

    def _finish(self, finish: str, reason: int | None) -> Piece:
        return self._emit(self._decoder.decode(b"", final=True), finish=finish, reason=reason)

    def _emit(self, tail: str, *, finish: str, reason: str | int | None) -> Piece:
        self.finished = True
        return Piece(self._held + tail, tuple(self._waiting), finish, reason)

    def _release(self) -> Piece | None:
        """Everything but the longest end that begins a stop string."""
        keep = max((_overlap(self._held, text) for text in self._sampling.stop), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        if not text:
            return None
        tokens, self._waiting = tuple(self._waiting), []
        return Piece(text, tokens)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
