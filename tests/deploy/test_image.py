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
    found = re.search(r"^FROM vllm/vllm-openai:v([^@\s]+)", text, re.MULTILINE)
    assert found is not None
    require_supported(found[1])


OWN = ("pointsman", "pointsman-vllm")  # built here: their digests are known once they are pushed
IMAGE = re.compile(
    r"^(?:FROM |REDIS_IMAGE=|VLLM_IMAGE=|\s*image: (?:\$\{\w+:-)?)([\w./-]+)(?::([\w.-]+))?(@\S+?)?(?:\}| AS \w+)?$",
    re.M,
)


def images() -> list[tuple[str, str, str, str]]:
    """(file, name, tag, digest) of every image that a file for deploying names."""
    files = [ROOT / name for name in (*FILES, "compose.yaml", "deploy/env.example")]
    files += sorted((ROOT / "deploy/kubernetes").rglob("*.yaml"))
    return [(path.name, *found) for path in files for found in IMAGE.findall(path.read_text(encoding="utf-8"))]


def test_images_of_others_are_named_by_tag_and_digest_and_are_the_same_everywhere() -> None:
    foreign = [each for each in images() if each[1] not in OWN]
    assert {name for _, name, _, _ in foreign} == {"python", "redis", "vllm/vllm-openai"}
    assert not [each for each in foreign if not each[2] or not re.fullmatch(r"@sha256:[0-9a-f]{64}", each[3])]
    assert len({each[1:] for each in foreign}) == 3
    manifests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "deploy/kubernetes").rglob("*.yaml"))
    assert len(re.findall(r"^ *image: ", manifests, re.M)) == len(IMAGE.findall(manifests))
