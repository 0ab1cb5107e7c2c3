"""`vllm serve` exactly as docs/vllm.md says it, on a GPU: right answers, not only answers."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.anyprec.names import WIDTH_KEY
from backends.family.packed import STORES
from evaluation.skills import Item, grade, sample
from research.tokens import encode_answer

ROOT = Path(__file__).parents[2]
STARTUP_S = 300
NAME = "large"  # in the documented command


def documented_command() -> list[str]:
    """The line of docs/vllm.md, word for word; `vllm` by its module where it is no program."""
    line = re.search(r"^    (vllm serve .*)$", (ROOT / "docs" / "vllm.md").read_text(), re.MULTILINE)
    assert line is not None
    words = shlex.split(line[1])
    return words if shutil.which("vllm") else [sys.executable, "-m", "vllm.entrypoints.cli.main", *words[1:]]


def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:8000{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    answer: dict[str, Any] = json.load(urllib.request.urlopen(request, timeout=120))
    return answer


def wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTUP_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen("http://127.0.0.1:8000/health", timeout=5)
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server did not come up:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The documented command in a folder where ./my-store is the family's `medium`."""
    folder = tmp_path_factory.mktemp("documented")
    (folder / "my-store").symlink_to(STORES["medium"])
    log = folder / "server.log"
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("wb") as out:
        process = subprocess.Popen(
            documented_command(), cwd=folder, env=os.environ | paths, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_until_up(process, log)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def right(items: list[Item], bits: int) -> float:
    """Share of right answers at one width."""

    def ask(item: Item) -> str:
        body = {"model": NAME, "messages": [{"role": "user", "content": item.prompt}], "temperature": 0}
        body |= {"max_tokens": len(encode_answer(item.answer)) + 8, "vllm_xargs": {WIDTH_KEY: bits}}
        return str(post("/v1/chat/completions", body)["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(32) as pool:
        texts = list(pool.map(ask, items))
    return float(np.mean([grade(item, text) for item, text in zip(items, texts, strict=True)]))


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("served")
def test_the_documented_command_answers_right() -> None:
    items = list(sample(60, rng=np.random.default_rng(), split="test"))
    assert right(items, 6) > 0.75
    assert right(items, 4) > 0.65
