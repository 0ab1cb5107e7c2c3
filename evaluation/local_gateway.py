"""A gateway to talk to from the command line: the one that is running, or a fresh one for the time of a command."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from router.errors import PointsmanError
from router.settings import load
from router.settings.paths import first_key_path

DEFAULT_URL = "http://127.0.0.1:8080"
START_LIMIT_S = 120.0


@contextmanager
def running_gateway(url: str | None, key: str | None, *, say: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """(url, key) of a gateway. Starts one on a free port, with a state folder of its own, where none answers and no
    url was named. Raises: PointsmanError."""
    if url is not None or _answers(DEFAULT_URL):
        chosen = (url or DEFAULT_URL).rstrip("/")
        if not _answers(chosen):
            raise PointsmanError(f"no gateway answers at {chosen}; start one with `pointsman serve`")
        yield chosen, key or _first_key(first_key_path(load(None)))
        return
    say(f"no gateway answers at {DEFAULT_URL}: starting one for this command")
    with tempfile.TemporaryDirectory(prefix="pointsman-") as folder, _fresh(Path(folder)) as fresh:
        yield fresh


@contextmanager
def _fresh(folder: Path) -> Iterator[tuple[str, str]]:
    config = folder / "pointsman.yaml"
    config.write_text(f"state_dir: {folder / 'state'}\nlog: {{keep_text: true, text_characters: 200}}\n")
    command = [sys.executable, "-m", "pointsman", "serve", "--config", str(config), "--port", "0"]
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = _await_url(process, folder / "log")
            yield url, _first_key(first_key_path(load(config)))
        finally:
            process.terminate()
            process.wait(timeout=30)


def _await_url(process: subprocess.Popen[bytes], log: Path) -> str:
    """The URL a starting gateway prints. Raises: PointsmanError with what it printed instead."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        _, up, rest = log.read_text().partition("Pointsman is up at ")
        if up and "\n" in rest:
            return rest.split()[0]
        time.sleep(0.1)
    raise PointsmanError(f"the gateway did not start:\n{log.read_text().strip()}")


def _first_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        raise PointsmanError(f"no key in {path}; name one with --key") from None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):  # nobody there, or no address
        return False
