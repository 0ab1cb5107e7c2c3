"""The Dockerfile: clean under hadolint, not root, with a health check, and without torch."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from backends.anyprec.plugin.versions import require_supported

ROOT = Path(__file__).parents[2]
HADOLINT = Path(sys.executable).with_name("hadolint")
FILES = ("Dockerfile", "deploy/vllm.Dockerfile")
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()


def final_stage() -> list[str]:
    last = max(number for number, line in enumerate(LINES) if line.startswith("FROM "))
    return LINES[last:]


@pytest.mark.parametrize("file", FILES)
def test_a_linter_finds_nothing(file: str) -> None:
    if not HADOLINT.exists():
        pytest.skip("hadolint is not installed (the extra `test` brings it)")
    done = subprocess.run([HADOLINT, file], cwd=ROOT, capture_output=True, text=True, check=False)
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


@pytest.mark.parametrize("file", FILES)
def test_everything_it_copies_gets_past_dockerignore(file: str) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    lines = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    copied = [
        path for line in lines if line.startswith("COPY ") and "--from" not in line for path in line.split()[1:-1]
    ]
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(fnmatch.fnmatch(path, each) or path.startswith(f"{each}/") for each in allowed), path


def test_the_engines_image_is_of_a_vllm_the_plugin_was_tried_with() -> None:
    text = (ROOT / "deploy/vllm.Dockerfile").read_text(encoding="utf-8")
    found = re.search(r"^FROM vllm/vllm-openai:v(\S+)$", text, re.MULTILINE)
    assert found is not None
    require_supported(found[1])
