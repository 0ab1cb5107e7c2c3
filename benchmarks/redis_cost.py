"""What a request costs Redis and a gateway that only follows.

    python -m benchmarks.redis_cost [--requests 4000] [--write docs/scale.md]

Two gateways with everything on share one Redis; one of them gets all requests, the other learns from their outcomes.
Needs redis-server. Fails with RuntimeError where a process does not come up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml
from redis import asyncio as aioredis

from backends.scripted import Line, always
from benchmarks.child import Child, free_port
from benchmarks.redis_pair import redis_server
from benchmarks.rig import prompts
from benchmarks.scripted_server import ScriptedServer
from benchmarks.settings import KEY, full_settings
from research.provenance import put

WARM, AT_ONCE, SETTLE_S = 200, 16, 2.0


def children(folder: Path, engine: str) -> Iterator[Child]:
    """Redis and two gateways on it."""
    port = free_port()
    command = [redis_server(), "--port", str(port), "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    yield Child("redis", port, command, folder / "redis.log")
    for name in ("asked", "following"):
        own, listens = folder / name, free_port()
        own.mkdir()
        settings: dict[str, Any] = full_settings(engine, own, listens)
        settings["store"] = {"redis": f"redis://127.0.0.1:{port}/0"}
        (own / "pointsman.yaml").write_text(yaml.safe_dump(settings))
        serve = [sys.executable, "-m", "pointsman", "serve", "--config", str(own / "pointsman.yaml")]
        yield Child(name, listens, serve, folder / f"{name}.log")


@contextlib.asynccontextmanager
async def started(each: Child) -> AsyncIterator[psutil.Process]:
    """The process, once it listens, until the context ends."""
    each.start()
    try:
        await each.listening()
        assert each.process is not None
        yield psutil.Process(each.process.pid)
    finally:
        each.kill()


async def ask(url: str, bodies: Sequence[Mapping[str, Any]]) -> None:
    """All of them. Raises: aiohttp.ClientResponseError where one is not answered."""
    rest = iter(bodies)

    async def one(client: aiohttp.ClientSession) -> None:
        for body in rest:
            async with client.post(url, json={**body, "model": "auto"}) as answer:
                answer.raise_for_status()

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as client:
        await asyncio.gather(*(one(client) for _ in range(AT_ONCE)))


async def measured(requests: int, folder: Path) -> list[str]:
    """Rows of the table."""
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(ScriptedServer(always(Line("It opens at six.", prompt_tokens=60))))
        redis, asked, following = children(folder, engine.url)
        processes = [await stack.enter_async_context(started(each)) for each in (redis, asked, following)]
        client = await stack.enter_async_context(aioredis.Redis(port=redis.port))
        url, bodies = f"http://127.0.0.1:{asked.port}/v1/chat/completions", prompts(WARM + requests, seed=5)
        await ask(url, bodies[:WARM])
        await asyncio.sleep(SETTLE_S)
        idle = await _used(client, processes, SETTLE_S)
        await client.config_resetstat()
        before = await _now(client, processes)
        await ask(url, bodies[WARM:])
        await asyncio.sleep(SETTLE_S)
        after = await _now(client, processes)
        calls = await client.info("commandstats")
    spent = {name: after[name] - before[name] for name in before}
    scripts = sum(each["calls"] for name, each in calls.items() if name == "cmdstat_evalsha") / requests
    cpu = {name: 1e6 * spent[name] / requests for name in ("redis", "asked", "following")}
    rows = [(f"CPU of {name}, µs", f"{us:.0f}", idle[name]) for name, us in cpu.items()]
    rows += [("scripts in Redis", f"{scripts:.2f}", ""), *_bytes(spent, requests)]
    return [
        "| a request costs | | idle, CPU µs a second |",
        "|---|---|---|",
        *(f"| {a} | {b} | {c} |" for a, b, c in rows),
    ]


def _bytes(spent: Mapping[str, float], requests: int) -> Iterator[tuple[str, str, str]]:
    names = {"memory": "memory of Redis", "file": "append-only file", "sent": "sent to Redis", "got": "sent by Redis"}
    for name, said in names.items():
        yield f"{said}, bytes", f"{spent[name] / requests:,.0f}", ""


async def _used(client: aioredis.Redis, processes: Sequence[psutil.Process], seconds: float) -> dict[str, str]:
    before = await _now(client, processes)
    await asyncio.sleep(seconds)
    after = await _now(client, processes)
    return {name: f"{1e6 * (after[name] - before[name]) / seconds:,.0f}" for name in ("redis", "asked", "following")}


async def _now(client: aioredis.Redis, processes: Sequence[psutil.Process]) -> dict[str, float]:
    """Seconds of CPU so far of each process, and bytes."""
    info = await client.info("everything")
    times = [sum(each.cpu_times()[:2]) for each in processes]
    return dict(zip(("redis", "asked", "following"), times, strict=True)) | {
        "memory": info["used_memory"],
        "file": info["aof_current_size"],
        "sent": info["total_net_input_bytes"],
        "got": info["total_net_output_bytes"],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--write", type=Path, help="a page with marks for the table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = asyncio.run(measured(arguments.requests, Path(folder)))
    print(*lines, sep="\n")
    if arguments.write is not None:
        put(arguments.write, "units", lines)


if __name__ == "__main__":
    main()
