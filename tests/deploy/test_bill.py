"""What an image is made of: every file by its hash, and a bill that names it."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "deploy/requirements.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "deploy/sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bill(sbom: ModuleType) -> dict[str, Any]:
    return dict(sbom.bill())


def locked() -> dict[str, str]:
    """What the lock pins, by name."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;\\]+)", LOCK, re.MULTILINE))


def test_every_dependency_is_locked_and_every_lock_has_a_hash() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    names = {re.split(r"[\[<>=~!; ]", each)[0].lower().replace("_", "-") for each in wanted}
    assert names <= locked().keys(), "make it anew: the command is in its head"
    blocks = re.split(r"\n(?=[a-z])", LOCK.split("\n", 3)[3])
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_image_installs_nothing_without_its_hash() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r"pip install[^\n&]*", lines)
    assert "--require-hashes --requirement requirements.txt" in installs[0]
    assert all("--no-build-isolation" in each for each in installs[1:])
    assert "sbom.py > /opt/pointsman/sbom.json" in lines


def test_the_bill_names_what_is_installed_once_and_who_needs_whom(bill: dict[str, Any]) -> None:
    versions = {each["name"]: each["version"] for each in bill["components"]}
    assert len(versions) == len(bill["components"])
    for name in ("fastapi", "numpy", "hiredis", "pydantic-core"):  # hiredis: an extra of a dependency
        assert versions[name] == distribution(name).version
    assert "pytest" not in versions
    refs = {each["bom-ref"] for each in [*bill["components"], bill["metadata"]["component"]]}
    assert {each["ref"] for each in bill["dependencies"]} == refs
    assert {other for each in bill["dependencies"] for other in each["dependsOn"]} <= refs


def test_a_bill_of_what_is_not_there_stops_with_its_name(sbom: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no-such-thing"):
        sbom.bill("no-such-thing")
