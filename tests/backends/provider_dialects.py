"""Providers on real sockets whose protocol is not OpenAI's: Bedrock, DeepSeek, Gemini, and Vertex and Azure for Claude.

Each thinks, says a sentence and calls a tool; each read 180 tokens from its cache and wrote 20 where it says so.
"""

from __future__ import annotations

import binascii
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

Tree = dict[str, Any]
CALL: Tree = {"name": "weather", "arguments": '{"city": "Oslo"}'}
BEDROCK_USAGE: Tree = {"inputTokens": 9, "outputTokens": 7, "totalTokens": 216}
BEDROCK_USAGE |= {"cacheReadInputTokens": 180, "cacheWriteInputTokens": 20}
DEEPSEEK_USAGE: Tree = {"prompt_tokens": 209, "completion_tokens": 10, "total_tokens": 219}
DEEPSEEK_USAGE |= {"prompt_cache_hit_tokens": 180, "completion_tokens_details": {"reasoning_tokens": 3}}
GEMINI: Tree = {
    "candidates": [
        {
            "content": {
                "role": "model",
                "parts": [
                    {"text": "Let me think.", "thought": True},
                    {"text": "It is sunny."},
                    {"functionCall": {"name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "U0lH"},
                ],
            },
            "finishReason": "STOP",
            "index": 0,
        }
    ],
    "usageMetadata": {
        **{"promptTokenCount": 209, "candidatesTokenCount": 7, "thoughtsTokenCount": 3, "totalTokenCount": 219},
        "cachedContentTokenCount": 180,
    },
}


CLAUDE_USAGE: Tree = {"input_tokens": 9, "output_tokens": 7}
CLAUDE_USAGE |= {"cache_read_input_tokens": 180, "cache_creation_input_tokens": 20}
CLAUDE_SAYS: list[Tree] = [
    {"type": "thinking", "thinking": "Let me think.", "signature": "SIG"},
    {"type": "text", "text": "It is sunny."},
    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
]
CLAUDE: Tree = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": CLAUDE_SAYS}
CLAUDE |= {"stop_reason": "tool_use", "stop_sequence": None, "usage": CLAUDE_USAGE}


def claude_events() -> Iterator[bytes]:
    """The same in Anthropic's events."""

    def event(kind: str, **more: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()

    yield event("message_start", message={**CLAUDE, "content": [], "stop_reason": None})
    deltas: list[list[Tree]] = [
        [
            {"type": "thinking_delta", "thinking": "Let me think."},
            {"type": "signature_delta", "signature": "SIG"},
        ],
        [{"type": "text_delta", "text": "It is "}, {"type": "text_delta", "text": "sunny."}],
        [{"type": "input_json_delta", "partial_json": '{"city": "Oslo"}'}],
    ]
    empty: tuple[Tree, ...] = ({"thinking": "", "signature": ""}, {"text": ""}, {"input": {}})
    for index, (block, blank, each) in enumerate(zip(CLAUDE_SAYS, empty, deltas, strict=True)):
        yield event("content_block_start", index=index, content_block={**block, **blank})
        yield b"".join(event("content_block_delta", index=index, delta=delta) for delta in each)
        yield event("content_block_stop", index=index)
    yield event("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage=CLAUDE_USAGE)
    yield event("message_stop")


def bedrock_whole() -> Tree:
    """Of Converse."""
    thought = {"reasoningContent": {"reasoningText": {"text": "Let me think.", "signature": "SIG"}}}
    call = {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Oslo"}}}
    message = {"role": "assistant", "content": [thought, {"text": "It is sunny."}, call]}
    return {
        "output": {"message": message},
        "stopReason": "tool_use",
        "usage": BEDROCK_USAGE,
        "metrics": {"latencyMs": 5},
    }


def bedrock_events() -> Iterator[bytes]:
    """The same in frames of Amazon's event stream."""

    def delta(index: int, **what: Any) -> bytes:
        return frame("contentBlockDelta", {"contentBlockIndex": index, "delta": what})

    yield frame("messageStart", {"role": "assistant"})
    yield delta(0, reasoningContent={"text": "Let me think."}) + delta(0, reasoningContent={"signature": "SIG"})
    yield frame("contentBlockStop", {"contentBlockIndex": 0}) + delta(1, text="It is ") + delta(1, text="sunny.")
    yield frame("contentBlockStop", {"contentBlockIndex": 1})
    begun = {"toolUse": {"toolUseId": "t1", "name": "weather"}}
    yield frame("contentBlockStart", {"contentBlockIndex": 2, "start": begun})
    yield delta(2, toolUse={"input": '{"city": '}) + delta(2, toolUse={"input": '"Oslo"}'})
    yield frame("contentBlockStop", {"contentBlockIndex": 2}) + frame("messageStop", {"stopReason": "tool_use"})
    yield frame("metadata", {"usage": BEDROCK_USAGE, "metrics": {"latencyMs": 5}})


def frame(kind: str, payload: Tree) -> bytes:
    """A message of application/vnd.amazon.eventstream, with both its checksums."""
    named = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        struct.pack(">B", len(name)) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in named.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    told = prelude + struct.pack(">I", binascii.crc32(prelude)) + headers + body
    return told + struct.pack(">I", binascii.crc32(told))


def deepseek_whole() -> Tree:
    """Of its chat."""
    message: Tree = {"role": "assistant", "content": "It is sunny.", "reasoning_content": "Let me think."}
    message |= {"tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": CALL}]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    head = {"id": "x", "object": "chat.completion", "created": 1, "model": "deepseek-reasoner"}
    return {**head, "choices": [choice], "usage": DEEPSEEK_USAGE}


def deepseek_events() -> Iterator[bytes]:
    """The same in chunks."""
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "deepseek-reasoner"}
    call: list[Tree] = [{"index": 0, "id": "t1", "type": "function", "function": CALL}]
    deltas: list[Tree] = [{"role": "assistant", "content": None, "reasoning_content": "Let me think."}]
    deltas += [{"content": "It is sunny.", "reasoning_content": None}, {"tool_calls": call}, {"content": ""}]
    for number, each in enumerate(deltas):
        last = number == len(deltas) - 1
        choice = {"index": 0, "delta": each, "finish_reason": "tool_calls" if last else None}
        chunk = {**head, "choices": [choice], "usage": DEEPSEEK_USAGE if last else None}
        yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


class _Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    heard: ClassVar[list[Tree]] = []

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/token":
            token = {"access_token": "tok", "expires_in": 3600, "token_type": "Bearer"}
            return self._send(json.dumps(token).encode(), "application/json")
        asked = json.loads(sent)
        self.heard.append(asked)
        if "converse-stream" in self.path:
            return self._send(b"".join(bedrock_events()), "application/vnd.amazon.eventstream")
        if "rawpredict" in self.path.lower() or "/anthropic/" in self.path:
            if asked.get("stream"):
                return self._send(b"".join(claude_events()), "text/event-stream")
            return self._send(json.dumps(CLAUDE).encode(), "application/json")
        if "converse" in self.path:
            return self._send(json.dumps(bedrock_whole()).encode(), "application/json")
        if "streamGenerateContent" in self.path:
            return self._send(b"data: " + json.dumps(GEMINI).encode() + b"\r\n\r\n", "text/event-stream")
        if "generateContent" in self.path:
            return self._send(json.dumps(GEMINI).encode(), "application/json")
        if asked.get("stream"):
            return self._send(b"".join(deepseek_events()), "text/event-stream")
        return self._send(json.dumps(deepseek_whole()).encode(), "application/json")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@contextmanager
def provider() -> Iterator[tuple[str, list[Tree]]]:
    """(its address, the bodies it hears)"""
    heard: list[Tree] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Provider", (_Provider,), {"heard": heard}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()
    server.server_close()
