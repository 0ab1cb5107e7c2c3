"""Engines that come back while others say nothing: nobody waits for another's silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.http.conftest import Running, chat, engine, serving, settings_for, until

pytestmark = pytest.mark.anyio
LIST = b'{"object": "list", "data": [{"id": "mute", "object": "model"}]}'


class FallingSilent:
    """An engine that lists its model until it is told to say nothing more; how often its list is asked for then."""

    def __init__(self) -> None:
        self.is_silent = False
        self.waiting = 0  # connections on which a list was asked for in vain, open now
        self.given_up = 0  # those that the gateway has closed

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if self.is_silent:
                    await self._say_nothing(head, reader)
                status, body = (b"200 OK", LIST) if b"/v1/models" in head else (b"404 Not Found", b"{}")
                writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _say_nothing(self, head: bytes, reader: asyncio.StreamReader) -> None:
        asked = b"/v1/models" in head
        self.waiting += asked
        await reader.read()
        self.waiting -= asked
        self.given_up += asked


@asynccontextmanager
async def falling_silent() -> AsyncIterator[tuple[FallingSilent, str]]:
    engine = FallingSilent()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    async with server:
        yield engine, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_engine_that_is_back_serves_while_another_is_still_being_waited_for(tmp_path: Path) -> None:
    async with engine(text="fine") as one, falling_silent() as (mute, url):
        settings = settings_for(tmp_path, {"one": one, "mute": url})
        async with serving(tmp_path, settings) as gateway:
            await one.stop()
            await until(lambda: status_of(gateway, "one", 503))
            mute.is_silent = True
            await until(lambda: mute.waiting == 1)
            given_up = mute.given_up
            await one.start()
            await until(lambda: status_of(gateway, "one", 200))
            assert mute.given_up == given_up


async def test_settings_are_taken_in_while_an_engine_that_they_leave_as_it_is_says_nothing(tmp_path: Path) -> None:
    async with engine(text="fine") as one, engine(text="new") as new, falling_silent() as (mute, url):
        async with serving(tmp_path, settings_for(tmp_path, {"one": one, "mute": url})) as gateway:
            mute.is_silent = True
            await until(lambda: mute.waiting == 1)
            given_up = mute.given_up
            gateway.rewrite(settings_for(tmp_path, {"one": one, "mute": url, "new": new}))
            await until(lambda: status_of(gateway, "new", 200))
            assert mute.given_up == given_up


async def status_of(gateway: Running, model: str, status: int) -> bool:
    async with gateway.client() as client:
        return (await client.post("/v1/chat/completions", json=chat() | {"model": model})).status_code == status
