"""What compose.yaml says, started without Docker: each service's command, environment, volumes and health check.

A service has an address of its own in 127.0.0.0/8 in place of its name, and folders in place of its volumes; all else
is what the file says. Fails with AssertionError, and the service's log, where one does not become healthy.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.stores.conftest import redis_binary

ROOT = Path(__file__).parents[2]
SETTINGS = "/etc/pointsman/pointsman.yaml"
SECRETS = {"REDIS_PASSWORD": "of-these-tests", "POINTSMAN_ADMIN_KEY": "sk-admin-of-these-tests"}
ADMIN = {"Authorization": f"Bearer {SECRETS['POINTSMAN_ADMIN_KEY']}"}
CLI = str(Path(redis_binary()).with_name("redis-cli"))
PROGRAMS = {
    "pointsman": [sys.executable, "-m", "pointsman"],
    "python": [sys.executable],
    "python3": [sys.executable],
    "redis-server": [redis_binary(), "--bind", "{address}", "--dir", "{folder}"],
    "redis-cli": [CLI, "-h", "{address}"],
}


def image_says(word: str, dockerfile: Path = ROOT / "Dockerfile") -> list[str]:
    """The words of an instruction, as a JSON list: the last of its kind."""
    found = re.findall(rf"{word} (?:[^\[\n]|\\\n)*(\[.*\])", dockerfile.read_text())
    return [str(each) for each in json.loads(found[-1])]


class ComposedRun:
    """The services of one profile. `environment` is what .env would hold, `programs` where a command lies here, `more`
    variables that only this machine needs."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        programs: Mapping[str, Sequence[str]],
        more: Mapping[str, str] | None = None,
    ) -> None:
        self._more = dict(more or {})
        self._folder, self._environment, self._programs = folder, environment, programs
        self.services: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
        net = 2 + os.getpid() % 250
        self.places = {name: f"127.0.{net}.{at}" for at, name in enumerate(self.services, 2)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *, without: Sequence[str] = ()) -> None:
        """One service; those that it waits for have to run, but for these."""
        service = self.services[name]
        assert all(needed in self._running for needed in service.get("depends_on", {}) if needed not in without), name
        command = self._words(name, [*self._entry(name), *self._command(name)])
        given = {key: self._here(name, str(value)) for key, value in service.get("environment", {}).items()}
        with self._log(name).open("ab") as out:
            self._running[name] = subprocess.Popen(
                command, stdout=out, stderr=out, env=self._outer() | given, cwd=self._folder, start_new_session=True
            )

    def becomes_healthy(self, name: str, within_s: float) -> None:
        """As its own health check says. Raises: AssertionError."""
        deadline = time.monotonic() + within_s
        while not self.is_healthy(name):
            waits = self._running[name].poll() is None and time.monotonic() < deadline
            assert waits, self._log(name).read_text()[-6000:]
            time.sleep(1)

    def is_healthy(self, name: str) -> bool:
        """What its health check, or its image's, finds now."""
        said = self.services[name].get("healthcheck", {}).get("test") or ["CMD", *image_says("HEALTHCHECK")]
        command = self._words(name, ["sh", "-c", *said[1:]] if said[0] == "CMD-SHELL" else said[1:])
        given = {key: self._here(name, str(each)) for key, each in self.services[name]["environment"].items()}
        done = subprocess.run(command, env=self._outer() | given, capture_output=True, check=False)
        return done.returncode == 0

    def kill(self, name: str) -> None:
        """At once, with its children."""
        running = self._running.pop(name)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()

    def stop(self) -> None:
        """All that runs."""
        for name in tuple(self._running):
            self.kill(name)

    def _outer(self) -> dict[str, str]:
        kept = ("PATH", "HOME", "LANG", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
        return {key: os.environ[key] for key in kept if key in os.environ} | self._more

    def _entry(self, name: str) -> list[str]:
        if name.startswith("gateway"):
            return image_says("ENTRYPOINT")
        return ["vllm", "serve", "--host", "0.0.0.0"] if name.startswith("vllm") else []

    def _command(self, name: str) -> list[str]:
        said = self.services[name].get("command")
        return image_says("CMD") if said is None else [str(word) for word in said]

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _here(self, name: str, text: str) -> str:
        """A text of a service with variables, names, addresses, programs and mounted paths as they are here."""
        text = re.sub(r"\$\{([A-Z_]+):-([^}]*)\}", lambda found: self._environment.get(found[1]) or found[2], text)
        text = text.replace("$$", "$")
        for place, target in self._mounts(name):
            is_settings = target == SETTINGS and SETTINGS in text
            text = text.replace(target, str(self._settings(name, place) if is_settings else place))
        for other, address in self.places.items():
            text = re.sub(rf"(?<=[/@]){other}(?=:\d)", address, text)
        return text.replace("127.0.0.1", self.places[name]).replace("0.0.0.0", self.places[name])

    def _words(self, name: str, said: Sequence[str]) -> list[str]:
        """A command line with the programs of this machine, also inside a script of the shell."""
        found: list[str] = []
        for word in said:
            if word in self._programs:
                found += self._program(name, word)
                continue
            text = self._here(name, word)
            for program in self._programs if " " in word else ():
                here = shlex.join(self._program(name, program)).replace("\\", r"\\")
                text = re.sub(rf"(?<![\w./-]){program}(?=[ ]|$)", here, text)
            found.append(text)
        return found

    def _program(self, name: str, program: str) -> list[str]:
        return [word.format(address=self.places[name], folder=self._folder) for word in self._programs[program]]

    def _mounts(self, name: str) -> list[tuple[Path, str]]:
        found = []
        for each in self.services[name].get("volumes", []):
            said = re.sub(r"\$\{([A-Z_]+):-([^}]*)\}", lambda one: self._environment.get(one[1]) or one[2], each)
            source, target = said.split(":")[:2]
            is_path = source.startswith((".", "/"))
            place = (ROOT / source).resolve() if is_path else self._folder / source
            if not is_path:
                place.mkdir(exist_ok=True)
            found.append((place, target))
        return found

    def _settings(self, name: str, source: Path) -> Path:
        """A copy in which paths and addresses are those of this machine; variables are the gateway's own to read."""
        text = source.read_text()
        for place, target in self._mounts(name):
            if target != SETTINGS:
                text = text.replace(target, str(place))
        for other, address in self.places.items():
            text = re.sub(rf"(?<=[/@]){other}(?=:\d)", address, text)
        written = self._folder / f"{name}.yaml"
        written.write_text(text.replace("0.0.0.0", self.places[name]))
        return written


def waits_for(client: httpx.Client, body: dict[str, Any], status: int, within_s: float = 60) -> httpx.Response:
    """The first answer of this status."""
    deadline = time.monotonic() + within_s
    while True:
        answer = client.post("/v1/chat/completions", json=body)
        if answer.status_code == status:
            return answer
        assert time.monotonic() < deadline, f"{answer.status_code}: {answer.text}"
        time.sleep(0.5)


def asked(text: str) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 8}


def spent(admin: httpx.Client, tenant: str) -> int:
    """Nano-USD that a tenant's models took in all."""
    lines = admin.get("/admin/v1/spend", params={"by": "model", "tenant": tenant}).json()["data"]
    return sum(line["cost_nanousd"] for line in lines)
