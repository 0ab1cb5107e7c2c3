"""What the gateway costs: CPU, latency and memory under load, beside the mock alone and beside peers.

    python -m benchmarks.gateway                 the table of docs/performance.md
    python -m benchmarks.gateway --only full     one part, of those that --help lists
    python -m benchmarks.gateway --only inprocess --json     CPU at best, without sockets, as one JSON object

Peers are measured where they are installed: python -m venv .venv-peers && .venv-peers/bin/pip install vllm-router
'litellm[proxy]'. CPU is that of the gateway's process tree, a figure that survives a noisy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks import in_process
from benchmarks.rig import (
    HEAD,
    RigRun,
    Tree,
    free_port,
    load,
    nginx,
    nginx_relay,
    prompts,
    require_programs,
    running,
    stream_load,
    write_script,
)
from benchmarks.seeding import seed_keys, seed_snapshot
from benchmarks.settings import KEY, full_settings, pass_settings
from research.provenance import provenance, put

PEERS = Path(".venv-peers/bin")
ROUNDS = 5


@contextmanager
def gateway(folder: Path, settings: Mapping[str, Any]) -> Iterator[tuple[str, Tree]]:
    """`pointsman serve` with these settings: its URL and process tree."""
    config = folder / "pointsman.yaml"
    config.write_text(yaml.safe_dump(dict(settings)))
    url = f"http://127.0.0.1:{settings['server']['port']}"
    command = [sys.executable, "-m", "pointsman", "serve", "--config", str(config)]
    with running(command, ready=f"{url}/health", log=folder / "pointsman.log", wait_s=900) as tree:
        yield url, tree


class GatewayBench:
    """The parts of the table, measured one after another against one mock."""

    def __init__(self, mock: str, mock_tree: Tree, folder: Path, *, seconds: float, connections: Sequence[int]) -> None:
        self._mock = mock
        self._mock_tree = mock_tree
        self._folder = folder
        self._seconds = seconds
        self._connections = connections
        self._script = write_script(_made(folder / "script"), prompts(400), [KEY])

    def mock(self) -> None:
        """nginx alone: what wrk and the machine can do."""
        self._measure("nginx mock alone", self._mock, self._mock_tree)

    def passes(self) -> None:
        """The gateway as a pass-through."""
        folder = _made(self._folder / "pass")
        with gateway(folder, pass_settings(self._mock, folder, free_port())) as (url, tree):
            self._measure("pointsman, pass-through", url, tree)

    def full(self) -> None:
        """Everything on, with 10,000 vectors; then the same without a prompt twice."""
        with self._seeded("full", vectors=10_000) as (url, tree):
            self._measure("pointsman, everything on", url, tree)
            fresh = write_script(_made(self._folder / "fresh"), prompts(200_000, seed=11), [KEY])
            self._measure("  … and no prompt twice", url, tree, script=fresh, connections=self._connections[1:2])

    def vectors(self) -> None:
        """The same with a hundred times the vectors."""
        count = int(os.environ.get("BENCH_VECTORS", "1000000"))
        with self._seeded("vectors", vectors=count) as (url, tree):
            self._measure(f"  … with {count:,} vectors", url, tree, connections=self._connections[1:2])

    def tenants(self) -> None:
        """The same with ten and with a hundred thousand tenants, each with a key and a budget of its own.

        The first requests of so many, and then, once all have asked, again.
        """
        connections = self._connections[1:2]
        for count in (10, 100_000):
            folder = _made(self._folder / f"tenants-{count}")
            settings = full_settings(self._mock, folder, free_port())
            seed_snapshot(settings, vectors=10_000)
            keys = asyncio.run(seed_keys(settings, count))
            script = write_script(folder, prompts(400), keys)
            with gateway(folder, settings) as (url, tree):
                half = count // 2  # nobody beyond it has asked in the warm-up
                self._measure(
                    f"  … with {count:,} tenants", url, tree, script=script, connections=connections, first=half
                )
                asked = 0
                while asked < count:
                    asked += load("", url, script, tree, connections=64, seconds=4.0, first=asked).requests
                self._measure(
                    "    … once all have asked", url, tree, script=script, connections=connections, first=half
                )

    def streams(self) -> None:
        """CPU of each relayed chunk: 32 streams of 200 chunks, 5 ms apart, each chunk in a read of its own.

        Then by an nginx that only relays, which is what a read and a write of a chunk cost on this machine.
        """
        self._stream("pointsman, 32 streams", connections=32, chunks=200, gap_ms=5)

    def open(self) -> None:
        """Two thousand streams open at once, a chunk a second in each."""
        self._stream("pointsman, 2,000 open streams", connections=2_000, chunks=20, gap_ms=1_000)

    def _stream(self, name: str, *, connections: int, chunks: int, gap_ms: int) -> None:
        folder = _made(self._folder / f"stream-{connections}")
        port = free_port()
        engine = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "benchmarks.streaming", str(port), str(chunks), str(gap_ms)]
        settings = full_settings(engine, folder, free_port())
        seed_snapshot(settings, vectors=10_000)
        script = write_script(folder, [{**body, "stream": True} for body in prompts(400)], [KEY])
        with (
            running(command, ready=engine, log=folder / "engine.log"),
            gateway(folder, settings) as (url, tree),
            nginx_relay(_made(folder / "relay"), engine) as (bare_url, bare),
        ):
            stream_load(name, url, engine, script, tree, connections=connections, seconds=self._seconds * 2)
            stream_load(
                "  … by an nginx that only relays",
                bare_url,
                engine,
                script,
                bare,
                connections=connections,
                seconds=self._seconds * 2,
            )

    def peers(self) -> None:
        """Other gateways in front of the same mock."""
        self._vllm_router()
        self._litellm()

    def ratios(self) -> None:
        """Pass-through, everything on and vllm-router in turn, so that all meet the same moods of the machine."""
        with ExitStack() as stack:
            router = stack.enter_context(self._router())
            if router is None:
                return
            folder = _made(self._folder / "ratios")
            passing = stack.enter_context(gateway(folder, pass_settings(self._mock, folder, free_port())))
            full = stack.enter_context(self._seeded("ratios-full", vectors=10_000))
            for count in self._connections:
                rounds = [
                    [self._cpu_us(*each, connections=count) for each in (router, passing, full)] for _ in range(ROUNDS)
                ]
                _print_ratios(count, rounds)

    def _cpu_us(self, url: str, tree: Tree, script: Path | None = None, *, connections: int) -> float:
        run = load("", url, script or self._script, tree, connections=connections, seconds=self._seconds / 4)
        if run.errors:
            raise SystemExit(f"{url} answered {run.errors} requests with errors")
        return run.cpu_us

    def _vllm_router(self) -> None:
        with self._router() as router:
            if router is not None:
                url, tree, script = router
                self._measure("vllm-router (Rust)", url, tree, script=script)

    @contextmanager
    def _router(self) -> Iterator[tuple[str, Tree, Path] | None]:
        """vllm-router before the mock, with a script that names the mock's model; None where it is not installed."""
        program = PEERS / "vllm-router"
        if not program.exists():
            print("vllm-router is not installed in .venv-peers")
            yield None
            return
        port, other = free_port(), free_port()
        command = [str(program), "--worker-urls", self._mock, "--port", str(port), "--policy", "round_robin"]
        command += ["--log-level", "error", "--prometheus-port", str(other)]
        script = write_script(_made(self._folder / "peer"), [{**b, "model": "mock"} for b in prompts(400)], [KEY])
        url = f"http://127.0.0.1:{port}"
        with running(command, ready=f"{url}/health", log=self._folder / "vllm-router.log") as tree:
            yield url, tree, script

    def _litellm(self) -> None:
        program = PEERS / "litellm"
        if not program.exists():
            print("litellm is not installed in .venv-peers")
            return
        port = free_port()
        params = {"model": "openai/mock", "api_base": f"{self._mock}/v1", "api_key": "sk-mock"}
        config = self._folder / "litellm.yaml"
        config.write_text(yaml.safe_dump({"model_list": [{"model_name": "auto", "litellm_params": params}]}))
        command = [str(program), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
        url = f"http://127.0.0.1:{port}"
        env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": KEY}
        with running(command, ready=f"{url}/health/liveliness", log=self._folder / "litellm.log", env=env) as tree:
            self._measure("LiteLLM proxy", url, tree)

    @contextmanager
    def _seeded(self, name: str, *, vectors: int) -> Iterator[tuple[str, Tree]]:
        folder = _made(self._folder / name)
        settings = full_settings(self._mock, folder, free_port())
        seed_snapshot(settings, vectors=vectors)
        with gateway(folder, settings) as running_gateway:
            yield running_gateway

    def _measure(
        self,
        name: str,
        url: str,
        tree: Tree,
        *,
        script: Path | None = None,
        connections: Sequence[int] | None = None,
        first: int = 0,
    ) -> list[RigRun]:
        runs = []
        for count in connections or self._connections:
            seconds = self._seconds
            run = load(name, url, script or self._script, tree, connections=count, seconds=seconds, first=first)
            print(run.row(), flush=True)
            runs.append(run)
        return runs


def _print_ratios(connections: int, rounds: Sequence[Sequence[float]]) -> None:
    """One line: medians over rounds of each CPU time, and of each gateway's over vllm-router's in the same round."""
    router, passing, full = (median(each) for each in zip(*rounds, strict=True))
    ratios = [median(row[i] / row[0] for row in rounds) for i in (1, 2)]
    print(
        f"in turn, {len(rounds)} rounds, {connections} connections: vllm-router {router:.0f} µs, "
        f"pass-through {passing:.0f} µs ({ratios[0]:.1f}x), everything on {full:.0f} µs ({ratios[1]:.1f}x)",
        flush=True,
    )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("inprocess", "traces", "mock", "pass", "full", "peers", "ratios", "streams", "open", "tenants", "vectors")
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))  # the slowest last
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--connections", type=int, nargs=3, default=[1, 16, 64])
    parser.add_argument("--write", type=Path, help="with --only traces: a page with marks for the table")
    parser.add_argument("--json", action="store_true", help="with --only inprocess: one JSON object and nothing else")
    arguments = parser.parse_args(given)
    if arguments.json and arguments.only != ["inprocess"]:
        parser.error("--json goes with --only inprocess")
    if arguments.write is not None and arguments.only != ["traces"]:
        parser.error("--write goes with --only traces")
    with tempfile.TemporaryDirectory() as made:
        if "inprocess" in arguments.only:
            _print_in_process(in_process.measure(Path(made)), as_json=arguments.json)
        if "traces" in arguments.only:
            _print_traces(in_process.sampled_out_table(in_process.sampled_out(Path(made))), arguments.write)
        if rest := [part for part in arguments.only if part not in ("inprocess", "traces")]:
            _over_sockets(rest, Path(made), seconds=arguments.seconds, connections=arguments.connections)
    if not arguments.json:
        print(f"\n{provenance()}")


def _print_in_process(figures: Mapping[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"in process, {name.removesuffix('_us').replace('_', ' ')}: {figure:,.1f} µs")


def _print_traces(table: Sequence[str], page: Path | None) -> None:
    print(*table, sep="\n")
    if page is not None:
        put(page, "traces", table)


def _over_sockets(parts: Sequence[str], folder: Path, *, seconds: float, connections: Sequence[int]) -> None:
    require_programs("nginx", "wrk")
    with nginx(_made(folder / "nginx")) as (mock, tree):
        bench = GatewayBench(mock, tree, folder, seconds=seconds, connections=connections)
        measure: dict[str, Callable[[], None]] = {
            "mock": bench.mock,
            "pass": bench.passes,
            "full": bench.full,
            "tenants": bench.tenants,
            "vectors": bench.vectors,
            "streams": bench.streams,
            "open": bench.open,
            "peers": bench.peers,
            "ratios": bench.ratios,
        }
        print(HEAD)
        for part in parts:
            measure[part]()


if __name__ == "__main__":
    main()
