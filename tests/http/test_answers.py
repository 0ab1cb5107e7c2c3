"""An answer never lets a value end its header's line, whatever server it leaves by."""

from __future__ import annotations

import pytest
from starlette.types import Message

from router.http.inference import HttpExchange

pytestmark = pytest.mark.anyio
SCOPE = {"type": "http", "path": "/v1/chat/completions", "headers": []}


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\x00", b"\x7f"])
async def test_a_value_that_would_end_its_line_is_never_sent(value: bytes) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asked = HttpExchange(SCOPE, send)
    with pytest.raises(ValueError, match="control character"):
        await asked.answer(200, [(b"x-pointsman-budget-warning", value)], b"{}")
    assert sent == []
    await asked.answer(200, [(b"x-request-id", b"r-1")], b"{}")
    assert sent[0]["headers"] == [(b"x-request-id", b"r-1"), (b"content-length", b"2")]
    assert sent[1]["body"] == b"{}"
