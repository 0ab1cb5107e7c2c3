"""What a load test needs: an nginx that answers like an engine, processes whose CPU is counted, and wrk.

Everything listens on 127.0.0.1 and ends with its context. Debian and Ubuntu: apt-get install nginx-light wrk.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

ANSWER = {
    "id": "chatcmpl-mock",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "mock",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "The harbour opens at six and the ferry leaves soon after."},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 60, "total_tokens": 74, "completion_tokens": 14},
}

_VOCABULARY = """harbour ferry invoice theorem kernel basil gradient tenant visa refund orbit vaccine river syntax lathe
glacier mortgage pixel sonata tariff enzyme bridge saddle comet ledger recipe turbine grammar canal protein"""

_NGINX = """worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; client_body_buffer_size 1m;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen 127.0.0.1:{port} backlog=4096; default_type application/json;
    {locations}
  }}
}}
"""
_ANSWERING = """location = /v1/models {{ return 200 '{models}'; }}
    location = /health {{ return 200 '{{}}'; }}
    location = /metrics {{ return 404; }}
    location / {{ return 200 '{answer}'; }}"""
_RELAYING = "location / {{ proxy_pass {engine}; proxy_http_version 1.1; proxy_buffering off; }}"

_LUA = """local bodies = {{}}
for line in io.lines("{bodies}") do bodies[#bodies + 1] = line end
local keys = {{}}
for line in io.lines("{keys}") do keys[#keys + 1] = line end
local n = 0
function init(arguments) n = tonumber(arguments[1] or 0) end
function request()
  n = n + 1
  local headers = {{["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. keys[n % #keys + 1]}}
  return wrk.format("POST", "/v1/chat/completions", headers, bodies[n % #bodies + 1])
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def prompts(count: int, *, seed: int = 7) -> list[dict[str, object]]:
    """`count` different chat requests of about 235 characters."""
    rng, words = random.Random(seed), _VOCABULARY.split()
    texts = [f"Question {number}: {' '.join(rng.choices(words, k=33))}?"[:235] for number in range(count)]
    return [
        {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 64, "temperature": 0.0}
        for text in texts
    ]


@dataclass(frozen=True, slots=True)
class RigRun:
    """One measured load: latencies in milliseconds, CPU of the gateway's processes in microseconds a request.

    Processes that fit or refit come and go. What they took meanwhile is told apart, and their memory is at its end.
    """

    name: str
    connections: int
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us: float
    rss_mb: float
    aside_cpu_s: float
    aside_rss_mb: float

    def row(self) -> str:
        """One line of the table."""
        return (
            f"{self.name:<34}{self.connections:>6}{self.requests / self.seconds:>10,.0f}{self.p50_ms:>9.2f}"
            f"{self.p99_ms:>9.2f}{self.cpu_us:>10.0f}{self.rss_mb:>8.0f}{self.aside_cpu_s:>9.1f}{self.aside_rss_mb:>9.0f}"
            f"{self.errors:>8}"
        )


HEAD = (
    f"{'':<34}{'conn':>6}{'req/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>10}{'RSS MB':>8}{'fits: s':>9}{'MB':>9}"
    f"{'errors':>8}"
)
NO_TIMES = SimpleNamespace(user=0.0, system=0.0)
PASSING = "router.learning."  # modules of processes that come and go


class Tree:
    """A process and its children; those that fit beside them are told apart."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._root = psutil.Process(process.pid)

    def cpu_s(self) -> float:
        """CPU seconds used so far by those that serve, user and system."""
        return sum(times.user + times.system for times in (each.cpu_times() for each in self._parts()[0]))

    def aside_cpu_s(self) -> float:
        """CPU seconds used so far by those beside them, ended ones too."""
        serving, aside = self._parts()
        ended = sum(times.children_user + times.children_system for times in (each.cpu_times() for each in serving))
        return float(ended + sum(times.user + times.system for times in map(_times, aside)))

    def rss_mb(self) -> float:
        """Resident memory now of those that serve."""
        return sum(each.memory_info().rss for each in self._parts()[0]) / 2**20

    def aside_rss_mb(self) -> float:
        """Resident memory now of those beside them."""
        return sum(map(_resident, self._parts()[1])) / 2**20

    def _parts(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """(those that serve, those that fit)."""
        processes = self._all()
        aside = [each for each in processes if any(PASSING in word for word in _words(each))]
        return [each for each in processes if each not in aside], aside

    def stop(self) -> None:
        """End all of it."""
        if self._process.poll() is not None:
            return
        processes = self._all()
        for each in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        _, alive = psutil.wait_procs(processes, timeout=10)
        for each in alive:
            each.kill()
        self._process.wait()

    def _all(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]


def _words(process: psutil.Process) -> list[str]:
    """Of its command; none of one that has ended meanwhile."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return [PASSING]


def _times(process: psutil.Process) -> Any:
    try:
        return process.cpu_times()
    except psutil.Error:  # it has just ended: the next look finds it among its parent's
        return NO_TIMES


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def require_programs(*programs: str) -> None:
    """Stop with what to install where a program is missing."""
    missing = [program for program in programs if find(program) is None]
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)}. On Debian or Ubuntu: apt-get install nginx-light wrk")


def find(program: str) -> str | None:
    """A program on the path or where Debian puts servers."""
    return shutil.which(program, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], *, ready: str, log: Path, env: Mapping[str, str] | None = None, wait_s: float = 120.0
) -> Iterator[Tree]:
    """A process that answers `ready` (a URL) before the body runs, and is gone after it."""
    with log.open("wb") as out:
        process = subprocess.Popen(list(command), stdout=out, stderr=subprocess.STDOUT, env=env)
    tree = Tree(process)
    try:
        _await(process, ready, log, wait_s)
        yield tree
    finally:
        tree.stop()


def _await(process: subprocess.Popen[bytes], url: str, log: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    raise SystemExit(
        f"{process.args!r} did not come up; the end of its log:\n{log.read_text(errors='replace')[-3000:]}"
    )


@contextmanager
def nginx(folder: Path) -> Iterator[tuple[str, Tree]]:
    """An nginx that answers every POST at once with one short completion; its URL and process."""
    models = json.dumps({"object": "list", "data": [{"id": "mock", "object": "model", "owned_by": "mock"}]})
    with _nginx(folder, _ANSWERING.format(models=models, answer=json.dumps(ANSWER)), ready="/health") as found:
        yield found


@contextmanager
def nginx_relay(folder: Path, engine: str) -> Iterator[tuple[str, Tree]]:
    """An nginx that relays everything to `engine` as it comes, and no more: what a relay costs in C."""
    with _nginx(folder, _RELAYING.format(engine=engine), ready="/count") as found:
        yield found


@contextmanager
def _nginx(folder: Path, locations: str, *, ready: str) -> Iterator[tuple[str, Tree]]:
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, locations=locations))
    url = f"http://127.0.0.1:{port}"
    program = find("nginx")
    assert program is not None
    with running([program, "-c", str(config)], ready=f"{url}{ready}", log=folder / "nginx.log") as tree:
        yield url, tree


def write_script(folder: Path, bodies: Sequence[Mapping[str, object]], keys: Sequence[str]) -> Path:
    """A wrk script that sends these bodies with these keys, one after another."""
    (folder / "bodies.txt").write_text("".join(f"{json.dumps(body)}\n" for body in bodies))
    (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys))
    script = folder / "load.lua"
    script.write_text(_LUA.format(bodies=folder / "bodies.txt", keys=folder / "keys.txt"))
    return script


def load(name: str, url: str, script: Path, tree: Tree, *, connections: int, seconds: float, first: int = 0) -> RigRun:
    """Load `url` by wrk after a short warm-up, and count the tree's CPU meanwhile.

    `first`: the request of the script to begin with.
    """
    _wrk(url, script, connections, min(2.0, seconds))
    before, aside = tree.cpu_s(), tree.aside_cpu_s()
    requests, took_s, p50_ms, p99_ms, errors = _wrk(url, script, connections, seconds, first)
    cpu_us = (tree.cpu_s() - before) * 1e6 / max(1, requests)
    aside_s = tree.aside_cpu_s() - aside
    measured = (name, connections, requests, took_s, p50_ms, p99_ms, errors, cpu_us)
    return RigRun(*measured, tree.rss_mb(), aside_s, tree.aside_rss_mb())


def stream_load(
    name: str, url: str, engine: str, script: Path, tree: Tree, *, connections: int, seconds: float
) -> None:
    """Open streams by wrk and print the gateway's CPU for each chunk that the engine sent meanwhile."""
    program = find("wrk")
    assert program is not None
    command = [
        program,
        "-t1",
        f"-c{connections}",
        f"-d{round(seconds + 6)}s",
        "--timeout",
        "60s",
        "-s",
        str(script),
        url,
    ]
    wrk = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    time.sleep(4.0)  # all are open
    cpu_s, sent, began = tree.cpu_s(), _count(engine), time.monotonic()
    time.sleep(seconds)
    chunks, took_s = _count(engine) - sent, time.monotonic() - began
    cpu_us = (tree.cpu_s() - cpu_s) * 1e6 / max(1, chunks)
    print(
        f"{name:<34}{connections:>6}{chunks / took_s:>10,.0f} chunks/s, CPU {cpu_us:.1f} µs a chunk, "
        f"RSS {tree.rss_mb():.0f} MB",
        flush=True,
    )
    wrk.terminate()
    wrk.wait()


def _count(engine: str) -> int:
    with urllib.request.urlopen(f"{engine}/count", timeout=10) as answer:
        return int(answer.read())


def _wrk(
    url: str, script: Path, connections: int, seconds: float, first: int = 0
) -> tuple[int, float, float, float, int]:
    program = find("wrk")
    assert program is not None
    command = [
        program,
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "30s",
        "-s",
        str(script),
    ]
    done = subprocess.run([*command, url, "--", str(first)], check=True, capture_output=True, text=True)
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if found is None:
        raise SystemExit(f"wrk said nothing of use:\n{done.stdout}{done.stderr}")
    requests, duration_us, p50_us, p99_us, errors = map(int, found.groups())
    return requests, duration_us / 1e6, p50_us / 1e3, p99_us / 1e3, errors
