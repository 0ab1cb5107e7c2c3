"""Engines on real sockets, and requests as the gateway makes them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from backends.types import Reply, Request, Stream, Whole


def asked(*, stream: bool = False, path: str = "/v1/chat/completions", **changes: Any) -> Request:
    """A request for model `small`, known to the engine as `org/small-7b`."""
    said = "Say something kind."
    asks = {"/v1/completions": {"prompt": said}, "/v1/embeddings": {"input": said}}
    body: dict[str, Any] = {"model": "auto", **asks.get(path, {"messages": [{"role": "user", "content": said}]})}
    body |= {"stream": True} if stream else {}
    body |= changes.pop("body", {})
    fields = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in body.items()}
    settings: dict[str, Any] = {"model": "org/small-7b", "answers_as": "small", **changes}
    return Request(path=path, fields=fields, stream=stream, **settings)


def streamed(reply: Reply) -> Stream:
    """A reply that is a stream."""
    assert not isinstance(reply, Whole)
    return reply


def contents(stream: bytes) -> str:
    """The text of a chat stream's events."""
    return "".join(
        choice["delta"].get("content", "") for event in parsed(stream) for choice in event.get("choices", ())
    )


def parsed(stream: bytes) -> list[Any]:
    """The JSON of a stream's events, [DONE] left out."""
    assert stream.endswith(b"\n\n"), "a stream is whole events"
    datas = [event.removeprefix(b"data: ") for event in stream.split(b"\n\n")[:-1]]
    return [msgspec.json.decode(data) for data in datas if data != b"[DONE]"]


@pytest.fixture
def anyio_backend() -> Any:
    """One event loop, the one the gateway runs on."""
    return ("asyncio", {"use_uvloop": True})
