"""An answer never lets a value end its header's line."""

from __future__ import annotations

import pytest

from router.http.exchange import Exchange


class Wire:
    """A connection that keeps what is written."""

    client = None

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> bool:
        self.written += data
        return True

    async def drain(self) -> None: ...

    def read_on(self) -> None: ...

    def completed(self, exchange: Exchange) -> None: ...


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\x00", b"\x7f"])
def test_a_value_that_would_end_its_line_is_never_written(value: bytes) -> None:
    wire = Wire()
    exchange = Exchange(wire, "/v1/chat/completions", {}, keep_alive=True, is_chunked=True)
    with pytest.raises(ValueError, match="control character"):
        exchange.answer(200, [(b"x-pointsman-budget-warning", value)], b"{}")
    assert wire.written == b""
    exchange.answer(200, [(b"x-request-id", b"r-1")], b"{}")
    assert wire.written == b"HTTP/1.1 200 OK\r\nx-request-id: r-1\r\ncontent-length: 2\r\n\r\n{}"
