"""A process that is killed and started again on the same port."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Child:
    """A process that is killed and started again on the same port."""

    name: str
    port: int
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    async def listening(self, *, within_s: float = 120, again: bool = False) -> None:
        """Wait until it accepts connections; started `again` when it has stopped by itself."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if again and self.process is not None and self.process.poll() is not None:
                self.start()
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.name} does not listen:\n{self.log.read_text()[-3000:]}")
