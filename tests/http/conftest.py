"""Gateways as users run them: `pointsman serve` in a process of its own, in front of engines on real sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from backends.scripted import Line, always
from benchmarks.scripted_server import ScriptedServer
from policies.records import LogEntry, SettlementRecord
from router.stores.open import open_stores


@dataclass
class Running:
    """A gateway that is up."""

    url: str
    key: str
    config: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def client(self, **more: Any) -> httpx.AsyncClient:
        """A client of this gateway, with its key."""
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=30, **more)

    def rewrite(self, settings: Mapping[str, Any]) -> None:
        """Change the settings file under the running gateway."""
        write(self.config, settings)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


def write(path: Path, settings: Mapping[str, Any]) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(yaml.safe_dump(dict(settings)))
    fresh.replace(path)


def settings_for(folder: Path, engines: Mapping[str, ScriptedServer | str], **more: Any) -> dict[str, Any]:
    """One vllm backend and one model a name; the first name is the cheapest."""
    backends = {
        name: {"kind": "vllm", "url": engine if isinstance(engine, str) else engine.url}
        for name, engine in engines.items()
    }
    models = [
        {"name": name, "backend": name, "price": {"prompt": 10.0**i, "completion": 10.0**i}}
        for i, name in enumerate(engines)
    ]
    base = {"state_dir": str(folder / "state"), "backends": backends, "models": models, "policy": {"name": "cheapest"}}
    return base | {"reload": {"every_s": 0.1}} | more


@asynccontextmanager
async def serving(folder: Path, settings: Mapping[str, Any], *options: str) -> AsyncIterator[Running]:
    """`pointsman serve` on a free port until the context ends."""
    config, log = folder / "pointsman.yaml", folder / "gateway.log"
    server = {"grace_s": 0, **settings.get("server", {})}
    write(config, {**settings, "server": server})
    command = [sys.executable, "-m", "pointsman", "serve", "--config", str(config), "--port", "0", *options]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        url = await _url(process, log)
        key = Path(str(settings["state_dir"])) / "first-key"
        yield Running(url, key.read_text() if key.exists() else "", config, process, log)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 40)


async def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        _, up, rest = log.read_text().partition("Pointsman is up at ")
        if up and "\n" in rest:
            return rest.split()[0]
        await asyncio.sleep(0.05)
    raise AssertionError(f"the gateway did not start:\n{log.read_text()}")


async def until(is_so: Any, *, within_s: float = 20.0) -> None:
    """Wait for a condition, plain or awaitable; fails when it does not come true in time."""
    async with asyncio.timeout(within_s):
        while True:
            found = is_so()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def engine(**line: Any) -> AsyncIterator[ScriptedServer]:
    """An engine on a socket that answers one line."""
    async with ScriptedServer(always(Line(**line)), models=[{"id": "any", "object": "model"}]) as server:
        yield server


def chat(text: str = "What is 17 + 25?", **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


async def logged(folder: Path) -> AsyncIterator[tuple[str, LogEntry]]:
    """The entries of the outcome log, each with its position."""
    url = f"sqlite:///{folder}/state/pointsman.db"
    async with open_stores(url, clock=lambda: time.time_ns() // 1_000_000) as stores:
        async for position, entry in stores.log.tail("", follow=False):
            yield position, entry


async def followed(client: httpx.AsyncClient, folder: Path, *, answers: int) -> bool:
    """Whether it knows what so many answers cost: that is logged a moment after an answer, and followed later."""
    entries = [found async for found in logged(folder)]
    settled = sum(isinstance(entry, SettlementRecord) for _, entry in entries)
    version = (await client.post("/v1/route", json=chat("zyx wvu"))).json()["policy_version"]
    return settled >= answers and bool(version.startswith(f"{entries[-1][0]}+"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
