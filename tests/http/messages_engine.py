"""An engine that speaks Anthropic's messages API on a real socket, as vLLM does at /v1/messages."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ("It is ", "sunny.")
HEAD = {"id": "msg_1", "type": "message", "role": "assistant", "stop_sequence": None}


def message(model: str) -> dict[str, Any]:
    """A whole answer."""
    content = [{"type": "text", "text": "".join(WORDS)}]
    usage = {"input_tokens": 9, "output_tokens": 3}
    return {**HEAD, "model": model, "content": content, "stop_reason": "end_turn", "usage": usage}


def events(model: str) -> Iterator[dict[str, Any]]:
    """The same answer as a stream's events."""
    begun = {"input_tokens": 9, "output_tokens": 0}
    yield {
        "type": "message_start",
        "message": {**HEAD, "model": model, "content": [], "stop_reason": None, "usage": begun},
    }
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for word in WORDS:
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
    yield {"type": "content_block_stop", "index": 0}
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": ended, "usage": {"input_tokens": 9, "output_tokens": 3}}
    yield {"type": "message_stop"}


class _Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(b'{"object": "list", "data": [{"id": "small", "object": "model"}]}', "application/json")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not asked.get("stream"):
            return self._send(json.dumps(message(asked["model"])).encode(), "application/json")
        lines = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events(asked["model"])]
        return self._send("".join(lines).encode(), "text/event-stream")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@contextmanager
def messages_engine() -> Iterator[str]:
    """Its base URL, while it listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Engine) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
