"""An address that leads elsewhere from one moment to the next: `python -m benchmarks.relay PORT FILE`.

FILE names where it leads: a port, or a port and "held" where what comes must wait. When that changes, or the process is
killed, everybody is hung up on. It stands for the name of a managed Redis, and for the link to a replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

Address = Path | int  # a unix socket, or a port here


class Relay:
    """Everything between whoever comes and a target that may change; it can stop handing on, and hang up."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self.flows = asyncio.Event()
        self.flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, at: Address) -> None:
        """From now on, until `aclose`."""
        if isinstance(at, Path):
            self._server = await asyncio.start_unix_server(self._serve, at)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", at)

    async def hang_up(self) -> None:
        """On everybody; what was not handed on is gone."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Hang up, and listen no more."""
        if self._server is not None:
            self._server.close()
        await self.hang_up()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = self.target
        try:
            if isinstance(there, Path):
                from_target, to_target = await asyncio.open_unix_connection(there)
            else:
                from_target, to_target = await asyncio.open_connection("127.0.0.1", there)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, to_target}
        for source, sink in ((reader, to_target), (from_target, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(262_144):
                await self.flows.wait()
                sink.write(data)
                await sink.drain()
        sink.close()
        self._writers.discard(sink)


async def follow(port: int, file: Path) -> None:
    """Lead where the file says, until killed."""
    said = await asyncio.to_thread(file.read_text)
    relay = Relay(int(said.split()[0]))
    await relay.listen(port)
    while True:
        await asyncio.sleep(0.02)
        now = await asyncio.to_thread(file.read_text)
        if now == said or not now.strip():
            continue
        target, held = int(now.split()[0]), now.endswith("held")
        (relay.flows.clear if held else relay.flows.set)()
        if target != relay.target:
            relay.target = target
            await relay.hang_up()
        said = now


if __name__ == "__main__":
    import uvloop

    uvloop.run(follow(int(sys.argv[1]), Path(sys.argv[2])))
