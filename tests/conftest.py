"""Every answer that a test gets over httpx is held to what OpenAI and Anthropic publish of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import httpx2
import pytest

ROUTES = ("completions", "embeddings", "/responses", "/models", "/messages")
TRANSPORTS = [(module, name) for module in (httpx, httpx2) for name in ("HTTPTransport", "AsyncHTTPTransport")]


@dataclass
class Answer:
    """An answer as a client reads it: its body grows while it is read."""

    method: str
    path: str
    status: int
    kind: str
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False


ANSWERS: list[Answer] = []


class _Listened(httpx.SyncByteStream, httpx.AsyncByteStream, httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A stream of either kind that keeps what it gives."""

    def __init__(self, stream: Any, answer: Answer) -> None:
        self._stream = stream
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        for block in self._stream:
            self._answer.body += block
            yield block
        self._answer.whole = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for block in self._stream:
            self._answer.body += block
            yield block
        self._answer.whole = True

    def close(self) -> None:
        self._stream.close()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _listen(request: Any, response: Any) -> Any:
    if any(route in request.url.path for route in ROUTES):
        kind = response.headers.get("content-type", "")
        ANSWERS.append(Answer(request.method, request.url.path, response.status_code, kind))
        response.stream = _Listened(response.stream, ANSWERS[-1])
    return response


def _patched(transport: Any, name: str) -> None:
    if name.startswith("Async"):
        send_async = transport.handle_async_request

        async def handle_async_request(self: Any, request: Any) -> Any:
            return _listen(request, await send_async(self, request))

        transport.handle_async_request = handle_async_request
    else:
        send = transport.handle_request
        transport.handle_request = lambda self, request: _listen(request, send(self, request))


for module, name in TRANSPORTS:
    _patched(getattr(module, name), name)


def complaints() -> list[str]:
    """What is wrong with the answers since the last call."""
    from tests.published import complaint  # seconds of imports, which most tests do without

    heard, ANSWERS[:] = [each for each in ANSWERS if each.whole or "event-stream" in each.kind], []
    found = (complaint(each.method, each.path, each.status, each.kind, bytes(each.body)) for each in heard)
    by_first_line = {each.partition("\n")[0]: each for each in found if each is not None}
    return list(by_first_line.values())


@pytest.fixture(autouse=True, scope="session")
def state_is_no_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a gateway without a settings file keeps, it keeps where nobody else's is."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before


@pytest.fixture(autouse=True)
def answers_are_as_published(request: pytest.FixtureRequest) -> Iterator[None]:
    """See the module. Not of engines that a test has say odd things, which pass on as they came."""
    ANSWERS.clear()
    yield
    if ANSWERS and request.node.get_closest_marker("unpublished") is None:
        found = complaints()
        assert not found, "not as published:\n" + "\n".join(found)
