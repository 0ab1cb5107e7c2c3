"""What is printed when a gateway is up is true, and each line of it that can be run does what it says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.settings import load
from router.settings.extras import EXTRAS, HOME, command_name, install_line, missing

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEAD = "http://127.0.0.1:9"
UP = "Pointsman is up at "


@contextmanager
def welcomed(folder: Path, settings: Mapping[str, Any] | None = None, *more: str) -> Iterator[str]:
    """What `pointsman serve` prints in a folder, while it runs."""
    options = ["--port", "0", *more]
    if settings is not None:
        (folder / "pointsman.yaml").write_text(yaml.safe_dump({"server": {"grace_s": 0}, **settings}))
        options += ["--config", "pointsman.yaml"]
    log = folder / "printed"
    with log.open("wb") as out, (folder / "log").open("wb") as err:
        command = [sys.executable, "-m", "pointsman", "serve", *options]
        process = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=out, stderr=err)
    try:
        deadline = time.monotonic() + 60
        while UP not in log.read_text():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(40)


def environment(folder: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return plain | {"XDG_STATE_HOME": str(folder / "state home"), "ACME_KEY": "sk-acme-0123456789"}


def run(folder: Path, command: str) -> str:
    """A line as it is pasted into a shell. Raises: AssertionError where it fails."""
    path = f"{BIN}:/usr/local/bin:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(folder) | {"PATH": path}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl(printed: str) -> str:
    return "curl" + printed.partition("\n  curl")[2]


def line(printed: str, name: str) -> str:
    """What stands beside a name."""
    found = re.search(rf"^  {name} +(.*(?:\n {{11}}.*)*)", printed, re.MULTILINE)
    assert found is not None, printed
    return found[1]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Without a settings file."""
    folder = tmp_path_factory.mktemp("fresh")
    with welcomed(folder) as printed:
        yield folder, printed


def test_the_line_that_it_prints_is_answered(fresh: tuple[Path, str]) -> None:
    folder, printed = fresh
    answer = json.loads(run(folder, curl(printed)))
    assert answer["choices"][0]["message"]["content"]
    assert "small task" in line(printed, "they do")


def test_it_says_where_state_lies_and_makes_nothing_in_the_folder_one_is_in(fresh: tuple[Path, str]) -> None:
    folder, printed = fresh
    state = Path(line(printed, "state"))
    assert state == folder / "state home" / "pointsman"
    assert (state / "pointsman.db").is_file()
    assert {each.name for each in folder.iterdir()} == {"printed", "log", "state home"}


def test_the_models_that_it_names_are_there(fresh: tuple[Path, str]) -> None:
    folder, printed = fresh
    url = printed.partition(UP)[2].split()[0]
    key = line(printed, "key")
    listed = json.loads(run(folder, f"curl -s {url}/v1/models -H 'Authorization: Bearer {key}'"))
    names = [each["id"] for each in listed["data"]]
    shown, _, rest = line(printed, "models").partition(" and ")
    assert names[:8] == shown.split(", ")
    assert rest == f"{len(names) - 8} more: GET /v1/models"
    assert run(folder, f"curl -s -o /dev/null -w '%{{http_code}}' {url}/docs").startswith("200")


def test_with_keys_in_the_file_it_shows_models_and_a_line_that_works_without_a_secret_in_it(tmp_path: Path) -> None:
    settings = {
        "state_dir": "kept",
        "backends": {"fake": {"kind": "scripted", "text": "bonjour"}, "gone": {"kind": "vllm", "url": DEAD}},
        "models": [
            {"name": "echo", "backend": "fake", "price": {"prompt": 1, "completion": 1}},
            {"name": "away", "backend": "gone", "price": {"prompt": 9, "completion": 9}},
        ],
        "tenants": {"acme": {"keys": [{"secret": "sk-root-0123456789", "admin": True}, {"secret": "${ACME_KEY}"}]}},
    }
    with welcomed(tmp_path, settings) as printed:
        assert "echo" in line(printed, "models")
        assert "sk-" not in printed
        assert json.loads(run(tmp_path, curl(printed)))["choices"][0]["message"]["content"] == "bonjour"
        assert line(printed, "engine").startswith(f"gone at {DEAD}: it does not answer: Connection refused")
        assert line(printed, "state") == str(tmp_path / "kept")
    assert run(tmp_path, "pointsman keys first --config pointsman.yaml") == "sk-acme-0123456789\n"


def test_where_no_key_is_needed_the_line_has_none(tmp_path: Path) -> None:
    fake = {"backends": {"fake": {"kind": "scripted", "text": "hi"}}, "auth": {"required": False}}
    models = [{"name": "echo", "backend": "fake", "price": {"prompt": 1, "completion": 1}}]
    with welcomed(tmp_path, {**fake, "models": models, "state_dir": "s"}) as printed:
        assert "Authorization" not in printed
        assert json.loads(run(tmp_path, curl(printed)))["model"] == "echo"


@pytest.mark.parametrize("within", ["", "deep/down"])
def test_relative_state_lies_beside_the_file_whatever_folder_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: str
) -> None:
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "p.yaml").write_text("state_dir: here\nstore: {sqlite: money.db}\n")
    monkeypatch.chdir(tmp_path / within)
    settings = load(Path(os.path.relpath(tmp_path / "p.yaml")))
    assert settings.state_dir.resolve() == tmp_path / "here"
    assert settings.store.sqlite_path(settings.state_dir).resolve() == tmp_path / "money.db"


def test_without_a_file_state_lies_in_the_users_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(None, {}).state_dir == tmp_path / ".local" / "state" / "pointsman"
    assert load(None, {"XDG_STATE_HOME": "/x"}).state_dir == Path("/x/pointsman")
    assert load(None, {"XDG_STATE_HOME": "relative"}).state_dir == tmp_path / ".local" / "state" / "pointsman"


def test_every_extra_that_it_may_name_exists() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert EXTRAS.keys() <= declared.keys()
    assert missing(lambda module: None) == list(EXTRAS)
    assert missing(lambda module: module) == []


@pytest.mark.parametrize("target", ["serve", "install"])
def test_the_line_that_installs_in_a_checkout_is_one_that_make_knows(tmp_path: Path, target: str) -> None:
    line = install_line(["providers", "replay"], target=target, prefix=str(HOME / ".venv"))
    where = "" if Path.cwd() == HOME else f" -C {HOME}"
    assert line == f"make{where} {target} EXTRAS=providers,replay"
    planned = run(HOME, line.replace("make ", f"make --dry-run VENV={tmp_path} ", 1))
    assert f".ci/install python3 {tmp_path} providers,replay" in planned


def test_the_line_that_installs_elsewhere_is_one_that_pip_takes(tmp_path: Path) -> None:
    line = install_line(["demo", "encryption"], prefix=sys.prefix if not under(HOME) else str(tmp_path), has_pip=True)
    python, rest = line.split(" ", 1)
    assert Path(python).name == "python"
    run(tmp_path, f"{sys.executable} {rest} --dry-run --no-index")  # both are here: nothing is to be fetched
    assert install_line(["demo"], prefix="/opt/x", has_pip=False) == (
        "uv pip install --python /opt/x/bin/python 'pointsman[demo]'"
    )


def under(folder: Path) -> bool:
    return Path(sys.prefix).resolve().is_relative_to(folder)


def test_this_program_is_called_as_the_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{BIN}:/usr/bin:/bin")
    assert command_name() == "pointsman"
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    assert "check" in run(tmp_path, f"{command_name()} --help")
