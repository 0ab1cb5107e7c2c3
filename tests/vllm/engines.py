"""Real `vllm serve` processes, from the environment that install.sh makes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-vllm"
STORES = ROOT / "backends" / "family" / "stores"
QUIET = {
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "PYTHONWARNINGS": "ignore",
}  # fmt: skip
STARTUP_S = 600


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Engine:
    """One server: start it, wait for it, kill it, start it again at the same address."""

    name: str
    store: Path
    log: Path
    options: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns at once; `wait` for it."""
        command = [VENV / "bin" / "vllm", "serve", self.store, "--served-model-name", self.name, "--port", self.port]
        command += ["--host", "127.0.0.1", "--max-model-len", 512, "--max-num-seqs", 64, "--enforce-eager"]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [str(part) for part in [*command, *self.options]],
                stdout=out, stderr=subprocess.STDOUT, env=os.environ | QUIET, cwd=self.log.parent,
                start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        """Until it answers. Raises: AssertionError with its log when it does not come up."""
        deadline = time.monotonic() + STARTUP_S
        while time.monotonic() < deadline and self.process is not None and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=30).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.5)
        raise AssertionError(f"{self.name} did not come up:\n{self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        """At once, with its children: the connection breaks mid-answer."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json={"model": self.name, **body}, timeout=500)

    def metric(self, name: str) -> float:
        """The sum of one of its Prometheus samples over its labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))


def bits_of(store: Path) -> list[int]:
    """The widths a store has."""
    bits: list[int] = json.loads((store / "config.json").read_text())["quantization_config"]["bits"]
    return bits
