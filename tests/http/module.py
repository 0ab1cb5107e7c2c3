"""One gateway for a whole test module, on a loop of its own, so that plain (synchronous) clients can be used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal

from backends.scripted import Script
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, serving


@asynccontextmanager
async def _opened(folder: Path, script: Script, settings: Any) -> AsyncIterator[tuple[Running, ScriptedServer]]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(ScriptedServer(script))
        running = await stack.enter_async_context(serving(folder, settings(engine)))
        yield running, engine


@contextmanager
def gateway_over(folder: Path, script: Script, settings: Any) -> Iterator[tuple[Running, ScriptedServer]]:
    """A running gateway before one engine that speaks `script`; `settings` makes its settings from that engine."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_opened(folder, script, settings)) as both,
    ):
        yield both


def candidates(folder: Path, engine: ScriptedServer, names: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Settings with a backend and a model a name, all at one engine, which tells them apart by the model's name."""
    model = {"price": {"prompt": 1, "completion": 1}, "context_tokens": 100_000}
    return {
        "state_dir": str(folder / "state"),
        "policy": {"name": "cheapest"},
        "backends": {name: {"kind": "vllm", "url": engine.url, "timeouts": {"first_byte_s": 0.5}} for name in names},
        "models": [{**model, "name": name, "backend": name, **more} for name, more in names.items()],
    }
