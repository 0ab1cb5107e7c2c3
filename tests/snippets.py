"""The snippets of the pages, and a stage to run them on: this repository, a clean home, a network of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
UP = "is up at"
START_S = 240.0


class Snippet(NamedTuple):
    """A block of a page, in backticks or indented ("")."""

    page: str
    line: int
    language: str
    text: str


def snippets(page: Path) -> Iterator[Snippet]:
    """Every block of a page, in order."""
    lines = [*page.read_text(encoding="utf-8").split("\n"), ""]
    name, number = str(page.relative_to(ROOT)), 0
    while number < len(lines):
        line, start = lines[number], number
        number += 1
        if line.startswith("```"):
            end = lines.index("```", number)
            yield Snippet(name, start + 1, line[3:] or "text", "\n".join(lines[number:end]))
            number = end + 1
        elif line.startswith("    ") and not lines[start - 1]:
            while lines[number].startswith("    "):
                number += 1
            yield Snippet(name, start + 1, "", "\n".join(each[4:] for each in lines[start:number]))


def commands(script: str) -> list[str]:
    """The commands of a shell snippet, those over several lines whole."""
    found, held = [], ""
    for line in script.split("\n"):
        held += line if not held else f"\n{line}"
        try:
            words = shlex.split(held, comments=True)
        except ValueError:
            continue  # a quotation goes on
        if not held.endswith("\\"):
            found += [held] if words else []
            held = ""
    return found


@dataclass
class Stage:
    """A folder that looks like a fresh checkout, beside `shared`. What it starts ends with `close`."""

    folder: Path
    network: list[str]  # the command that enters its network; [] for this machine's own
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def _env(self) -> Mapping[str, str]:
        path = f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        home = str(self.folder / "home")
        return {"HOME": home, "PATH": path, "VENV": str(self.folder / "venv"), "LANG": "C.UTF-8", "PYTHONPATH": "."}

    def bash(self, command: str) -> str:
        """Run one command after the others, with the variables they set. Raises: AssertionError where it fails."""
        state = self.folder / "variables"
        script = f"set -eauo pipefail; [ ! -f {state} ] || . {state}; {command}\nexport -p > {state}"
        return self._run(["bash", "-c", script])

    def python(self, program: str) -> str:
        """Run a program. Raises: AssertionError where it fails."""
        return self._run([str(BIN / "python"), "-c", program])

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            [*self.network, *command], cwd=self.folder / "repository", env=self._env, capture_output=True, text=True,
            timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def serve(self, command: str) -> None:
        """Start a server, and wait until it says that it is up."""
        log = self.folder / f"server-{len(self.servers)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self.network, "bash", "-c", f"{command}"], cwd=self.folder / "repository", env=self._env, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.servers.append(process)
        deadline = time.monotonic() + START_S
        while UP not in log.read_text() and not self._answers(command):
            assert process.poll() is None, f"{command}\n{log.read_text()}"
            assert time.monotonic() < deadline, f"{command} is not up:\n{log.read_text()}"
            time.sleep(0.1)

    def _answers(self, command: str) -> bool:
        """Whether somebody listens at the port that the command names."""
        port = re.search(r"--port (\d+)", command)
        probe = [*self.network, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port[1] if port else 0}"]
        return port is not None and subprocess.run(probe, capture_output=True, check=False).returncode == 0

    def close(self) -> None:
        """End the servers."""
        for process in [each for each in self.servers if each.poll() is None]:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A stage. Its network is one of its own where this machine allows it, so that no port is taken there."""
    repository = folder / "repository"
    repository.mkdir(parents=True)
    for each in ROOT.iterdir():
        if each.name not in {"var", ".venv", ".git", ".cache"}:
            (repository / each.name).symlink_to(each)
    (folder / "shared").symlink_to(ROOT.parent / "shared")
    (folder / "home").mkdir()
    (folder / "venv").mkdir()
    (folder / "venv" / "bin").symlink_to(BIN)
    for stamp in (".base", ".demo", ".test"):  # installed already
        (folder / "venv" / stamp).touch()
    holder = _network()
    made = Stage(folder, ["nsenter", "--target", str(holder.pid), "--net"] if holder else [])
    try:
        yield made
    finally:
        if holder:
            holder.kill()  # who is in its network stays there
            holder.wait()
        made.close()


def _network() -> subprocess.Popen[bytes] | None:
    """A process in a network of its own, with a loopback; None where that is not allowed."""
    if not all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip")):
        return None
    up = "ip link set lo up && echo up && exec sleep 3600"
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", up], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert holder.stdout is not None
    with holder.stdout:
        if holder.stdout.readline() == b"up\n":
            return holder
    holder.wait()
    return None
