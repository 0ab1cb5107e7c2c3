"""The counts of all workers of one gateway as one page, whichever of them is asked.

Each worker answers on a socket of its own in a folder that they share, and keeps its counts in a file beside it. So
the counts of a worker that was killed are not lost but for their last second. A worker that does not answer in time is
counted by its file. No folder: there is one worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from router.telemetry.counts import MetricCounts, sum_of

SAVE_EVERY_S = 1.0
PATIENCE_S = 1.0  # with another worker
_SOCKET, _FILE = ".sock", ".counts"
_READ = msgspec.msgpack.Decoder(MetricCounts)


class Workers:
    """Those that share a folder, seen from one of them."""

    def __init__(self, folder: Path | None, own: Callable[[], MetricCounts]) -> None:
        self._folder = folder
        self._own = own
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"  # the system gives its numbers again

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Answer the others while the context is open."""
        if self._folder is None:
            yield
            return
        socket = self._folder / f"{self._name}{_SOCKET}"
        async with await asyncio.start_unix_server(self._answer, socket):
            saving = asyncio.ensure_future(self._keep_saved())
            try:
                yield
            finally:
                saving.cancel()
                socket.unlink(missing_ok=True)
                self._save()

    async def total(self) -> MetricCounts:
        """What all have counted."""
        if self._folder is None:
            return self._own()
        found_files = [path for path in self._folder.iterdir() if path.suffix in (_SOCKET, _FILE)]
        names = {path.stem for path in found_files} - {self._name}
        found = await asyncio.gather(*(self._of(self._folder / name) for name in names))
        total = sum_of([self._own(), *(tally for tally in found if isinstance(tally, MetricCounts))])
        for gone in found:
            if isinstance(gone, Path):
                with contextlib.suppress(OSError, msgspec.DecodeError):
                    total.add(_READ.decode(gone.read_bytes()), lives=False)
        return total

    async def _of(self, place: Path) -> MetricCounts | Path:
        """What a worker says; the file of one that says nothing."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_unix_connection(place.with_suffix(_SOCKET))
                try:
                    return _READ.decode(await reader.read())
                finally:
                    writer.close()
        except (OSError, TimeoutError, msgspec.DecodeError):
            return place.with_suffix(_FILE)

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # whoever asked has gone
            writer.write(self._plain())
            await writer.drain()
        writer.close()

    async def _keep_saved(self) -> None:
        before = b""
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            plain = self._plain()
            if plain != before:
                self._save()
                before = plain

    def _save(self) -> None:
        """Whole or not at all."""
        if self._folder is not None:
            fresh = self._folder / f".{self._name}.new"
            with contextlib.suppress(OSError):  # a full disk: the next one may fit
                fresh.write_bytes(self._plain())
                fresh.replace(self._folder / f"{self._name}{_FILE}")

    def _plain(self) -> bytes:
        return msgspec.msgpack.encode(self._own())
