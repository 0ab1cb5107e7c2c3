"""What is built serves: wheel and sdist, each in an empty environment (`make test-packages`; needs a registry)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
import urllib.request
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.packages, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
FORMS = {"wheel": "*.whl", "sdist": "*.tar.gz"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a wheel and an sdist of this tree."""
    folder = tmp_path_factory.mktemp("built")
    python = environment(folder / "builder")
    pip(python, "hatchling")
    subprocess.run([python, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, timeout=600)
    return folder


def environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def pip(python: Path, *what: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-input", *what], check=True, timeout=600)


@pytest.mark.parametrize("form", FORMS)
def test_it_serves_from_an_empty_environment_and_any_folder(form: str, built: Path, tmp_path: Path) -> None:
    (package,) = built.glob(FORMS[form])
    python = environment(tmp_path / "venv")
    pip(python, str(package))
    here = tmp_path / "any folder"
    here.mkdir()
    log = here / "log"
    with log.open("wb") as out:
        command = [str(python), "-m", "pointsman", "serve", "--port", "0"]
        env = os.environ | {"XDG_STATE_HOME": str(here / "state")}
        process = subprocess.Popen(command, cwd=here, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        url = _url(process, log)
        body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}).encode()
        key = (here / "state" / "pointsman" / "first-key").read_text()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/chat/completions", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["choices"][0]["message"]["content"]
    finally:
        process.terminate()
        process.wait(40)


def test_the_sdist_holds_what_builds_and_nothing_else(built: Path) -> None:
    (package,) = built.glob(FORMS["sdist"])
    with tarfile.open(package) as archive:
        tops = {Path(name).parts[1] for name in archive.getnames() if len(Path(name).parts) > 1}
    assert {"pyproject.toml", "README.md", "LICENSE", "router", "backends", "policies", "pointsman"} <= tops
    assert not tops & {".venv", ".mypy_cache", "var", "dist", "build"}


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        _, up, rest = log.read_text().partition("Pointsman is up at ")
        if up and "\n" in rest:
            return rest.split()[0]
        time.sleep(0.1)
    raise AssertionError(f"the gateway did not start under {sys.version}:\n{log.read_text()}")
