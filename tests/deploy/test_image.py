"""The Dockerfile: clean under hadolint, not root, with a health check, and without torch."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HADOLINT = Path(sys.executable).with_name("hadolint")
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()


def final_stage() -> list[str]:
    last = max(number for number, line in enumerate(LINES) if line.startswith("FROM "))
    return LINES[last:]


def test_a_linter_finds_nothing() -> None:
    if not HADOLINT.exists():
        pytest.skip("hadolint is not installed (the extra `test` brings it)")
    done = subprocess.run([HADOLINT, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_has_two_stages_and_the_last_is_not_root() -> None:
    assert sum(line.startswith("FROM ") for line in LINES) == 2
    users = [line.split()[1] for line in final_stage() if line.startswith("USER ")]
    assert users == ["10001"]


def test_it_says_when_it_is_healthy() -> None:
    assert any(line.startswith("HEALTHCHECK ") and "/health" in line for line in final_stage())


def test_the_base_install_brings_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not [each for each in project["dependencies"] if each.startswith(("torch", "transformers", "litellm"))]


def test_everything_it_copies_gets_past_dockerignore() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        path for line in LINES if line.startswith("COPY ") and "--from" not in line for path in line.split()[1:-1]
    ]
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(fnmatch.fnmatch(path, each) for each in allowed), path
