"""Answers as OpenAI publishes them, with vLLM's own fields beside: whole bodies, and the chunks of a stream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from backends.anyprec.engine.detokenizer import Piece
from backends.anyprec.engine.sampling import Token
from backends.anyprec.engine.tokenizer import Tokenizer

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """What every chunk of one answer repeats."""

    id: str
    created: int  # seconds since 1970
    model: str
    system_fingerprint: str | None = None


def event(content: object) -> bytes:
    """One SSE event."""
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def chunk_event(head: ChunkHead, kind: str, choices: Sequence[dict[str, Any]], usage: object = None) -> bytes:
    """One chunk of a stream; `usage` only in the last."""
    content = {"id": head.id, "object": kind, "created": head.created, "model": head.model, "choices": choices}
    return event(content | ({"usage": usage} if usage is not None else {}))


def whole_body(head: ChunkHead, kind: str, choices: Sequence[dict[str, Any]], usage: object) -> bytes:
    """A plain answer."""
    content = {
        "id": head.id,
        "object": kind,
        "created": head.created,
        "model": head.model,
        "choices": choices,
        "service_tier": None,
        "usage": usage,
        "prompt_logprobs": None,
        "kv_transfer_params": None,
    }
    named = {"system_fingerprint": head.system_fingerprint} if head.system_fingerprint else {}
    return msgspec.json.encode(content | named)


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """vLLM's order of keys."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


def _joined(pieces: Sequence[Piece]) -> Piece:
    tokens = tuple(token for piece in pieces for token in piece.tokens)
    text = "".join(piece.text for piece in pieces)
    return Piece(text, tokens, pieces[-1].finish, pieces[-1].stop_reason)


class ChatShape:
    """/v1/chat/completions."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(
        self, tokenizer: Tokenizer, *, logprobs: bool, tools: Sequence[dict[str, Any]] = (), call_id: str = "call"
    ) -> None:
        self._tokenizer, self._logprobs, self._call_id = tokenizer, logprobs, call_id
        self._tools = {str(tool.get("function", {}).get("name")) for tool in tools}
        self._held: dict[int, list[Piece]] = {}  # with tools nothing is told before it is known to be no call

    def opening(self, index: int) -> dict[str, Any]:
        """The role."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """A delta; with tools, one at the end, when it is known whether it is a call."""
        if self._tools:
            held = self._held.setdefault(index, [])
            held.append(piece)
            if piece.finish is None:
                return []
            piece = _joined(held)
            if (calls := self._calls(index, piece.text)) is not None:
                indexed = [{"index": i, **call} for i, call in enumerate(calls)]
                return [self._delta(index, {"tool_calls": indexed}, piece, finish="tool_calls")]
        return [self._delta(index, {"content": piece.text}, piece, finish=piece.finish)]

    def _delta(self, index: int, delta: dict[str, Any], piece: Piece, *, finish: str | None) -> dict[str, Any]:
        content = {"index": index, "delta": delta, "logprobs": self._logprobs_of(piece), "finish_reason": finish}
        return content | ({"stop_reason": piece.stop_reason} if finish else {})

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """A message."""
        piece = _joined(pieces)
        calls = self._calls(index, piece.text)
        message = {
            "role": "assistant",
            "content": piece.text if calls is None else None,
            "refusal": None,
            "annotations": [],
            "tool_calls": calls or [],
            "reasoning": None,
        }
        finish = piece.finish if calls is None else "tool_calls"
        choice = {"index": index, "message": message, "logprobs": self._logprobs_of(piece), "finish_reason": finish}
        return choice | {"stop_reason": piece.stop_reason, "token_ids": None}

    def _calls(self, index: int, text: str) -> list[dict[str, Any]] | None:
        """The call an answer is, where it is JSON naming one of the tools; None where it is text."""
        if not self._tools:
            return None
        try:
            found = json.loads(text)
        except ValueError:
            return None
        if not isinstance(found, dict) or found.get("name") not in self._tools:
            return None
        arguments = found.get("arguments", {})
        function = {"name": found["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
        return [{"id": f"{self._call_id}-{index}", "type": "function", "function": function}]

    def _logprobs_of(self, piece: Piece) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {"content": [self._entry(token) for token in piece.tokens], "refusal": None}

    def _entry(self, token: Token) -> dict[str, Any]:
        top = [self._one(other, logprob) for other, logprob in token.top]
        return self._one(token.id, token.logprob) | {"top_logprobs": top}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.bytes_of(token)
        return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}


class TextShape:
    """/v1/completions."""

    object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self._tokenizer, self._logprobs = tokenizer, logprobs
        self._sent_characters: dict[int, int] = {}

    def opening(self, index: int) -> None:
        """Text comes at once."""

    def chunk(self, index: int, piece: Piece) -> list[dict[str, Any]]:
        """Text, and why it ended."""
        return [self._choice(index, piece)]

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The whole text."""
        return self._choice(index, _joined(pieces)) | {"token_ids": None, "prompt_logprobs": None}

    def _choice(self, index: int, piece: Piece) -> dict[str, Any]:
        return {
            "index": index,
            "text": piece.text,
            "logprobs": self._logprobs_of(index, piece.tokens) if self._logprobs else None,
            "finish_reason": piece.finish,
            "stop_reason": piece.stop_reason,
        }

    def _logprobs_of(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        texts = [self._text(token.id) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._sent_characters.get(index, 0))
            self._sent_characters[index] = offsets[-1] + len(text)
        return {
            "text_offset": offsets,
            "token_logprobs": [token.logprob for token in tokens],
            "tokens": texts,
            "top_logprobs": [self._top(token) for token in tokens],
        }

    def _top(self, token: Token) -> dict[str, float]:
        """The best alternatives and, as vLLM does, the drawn token beside them."""
        return {self._text(other): logprob for other, logprob in (*token.top, (token.id, token.logprob))}

    def _text(self, token: int) -> str:
        return self._tokenizer.bytes_of(token).decode(errors="replace")


ResponseShape = ChatShape | TextShape  # the shapes of one kind of request
