"""Stands between a client and the gateway, passes everything on as it comes, and holds answers to what is published.

How it fails: an answer that is cut is passed on cut, and held to nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.published import complaint, route_of

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "http2-settings"})
PATIENCE_S = 300


class Between(ThreadingHTTPServer):
    """Says nothing of a client that hangs up."""

    def handle_error(self, *_: object) -> None:
        """Nothing."""


class Heard:
    """What went by: how many answers of a published kind, and what was wrong with them."""

    def __init__(self) -> None:
        self.answers = 0
        self.complaints: list[str] = []
        self._lock = threading.Lock()

    def take(self, method: str, path: str, status: int, kind: str, body: bytes) -> None:
        """Hold one whole answer to its schema."""
        said = complaint(method, path, status, kind, body)
        with self._lock:
            self.answers += any(part in route_of(method, path) for part in ("completions", "responses", "messages"))
            self.complaints += [said] if said else []


@contextlib.contextmanager
def listening(gateway: str) -> Iterator[tuple[str, Heard]]:
    """(the address to give to a client, what went by)"""
    heard, host = Heard(), urlsplit(gateway).netloc

    class Passing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing."""

        def _pass(self) -> None:
            sent = self.rfile.read(int(self.headers.get("content-length") or 0))
            upstream = http.client.HTTPConnection(host, timeout=PATIENCE_S)
            kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            upstream.request(self.command, self.path, body=sent or None, headers=kept)
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            body = bytearray()
            while block := answer.read1(65536):
                body += block
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            self.wfile.write(b"0\r\n\r\n")
            upstream.close()
            kind = answer.getheader("content-type") or ""
            heard.take(self.command, urlsplit(self.path).path, answer.status, kind, bytes(body))

        do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = do_OPTIONS = _pass  # noqa: N815  (the library's names)

    server = Between(("127.0.0.1", 0), Passing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", heard
    finally:
        server.shutdown()
        server.server_close()
