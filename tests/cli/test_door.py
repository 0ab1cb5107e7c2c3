"""`python -m pointsman` is the door: from any folder, with a version, and never into somebody else's packages."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import pointsman
from pointsman import __main__ as door
from pointsman.__main__ import PACKAGES


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m pointsman` in a folder, as a user has it: nothing set in the environment."""
    command = [sys.executable, "-m", "pointsman", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_it_says_its_version(tmp_path: Path) -> None:
    done = run(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"pointsman {version('pointsman')}\n")
    assert pointsman.__version__ == version("pointsman")


def test_it_runs_a_verb_in_any_folder(tmp_path: Path) -> None:
    done = run(tmp_path, "check")
    assert done.returncode == 0, done.stderr
    assert "policy    paced" in done.stdout


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("form", ["a package", "a file"])
def test_a_package_of_the_same_name_in_the_folder_stops_it_with_one_sentence(
    tmp_path: Path, name: str, form: str
) -> None:
    stranger = tmp_path / (f"{name}.py" if form == "a file" else f"{name}/__init__.py")
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_text("raise SystemExit('a stranger was imported')\n")
    done = run(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"{name} from {stranger}" in done.stderr


def test_a_folder_of_the_same_name_without_code_does_not_shadow_ours(tmp_path: Path) -> None:
    (tmp_path / "router").mkdir()
    assert run(tmp_path, "--version").returncode == 0


def test_whoever_interrupts_it_while_it_loads_sees_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "cli", Interrupted("cli"))
    monkeypatch.setattr(door, "strangers", list)
    assert door.main() == 130
    assert capfd.readouterr() == ("", "")
