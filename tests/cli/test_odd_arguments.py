"""A mistake on the command line is one line and exit code 2, with no secret in it; never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tests.cli.test_door import run

WRONG = [
    ("check", "fifo"),
    ("check", "."),
    ("check", "nowhere.yaml"),
    ("keys", "create", "a|b"),
    ("keys", "create", "acme", "--budget", "9999999999 USD per day"),
    ("keys", "create", "acme", "--expires", "999999999999y"),
    ("keys", "create", "acme", "--rpm", "99999999999999999999999"),
    ("keys", "create", "acme", "--preference", "nan"),
    ("keys", "rotate", "k_none"),
    ("export", "redis://[", "out.parquet"),
    ("export", "redis://:hush/hush@host", "out.parquet"),
    ("export", "redis+sentinel://:hush@host", "out.parquet"),
    ("export", "mysql://user:hush@host", "out.parquet"),
    ("export", "sqlite:///state/pointsman.db", "nowhere/out.parquet"),
    ("init", "--engine", "not an address"),
    ("route", "hello", "--url", "http://["),
    ("serve", "--port", "99999"),
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_it_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    os.mkfifo(tmp_path / "fifo")
    if arguments[-1].startswith("nowhere/"):
        (tmp_path / "own.yaml").write_text("state_dir: state\n")
        run(tmp_path, "keys", "create", "acme", "--config", "own.yaml")
    done = run(tmp_path, *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("pointsman: ")
    assert "hush" not in done.stderr


def written_to(output: IO[str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`pointsman ARGUMENTS` in a folder, its output going there."""
    return subprocess.run(
        [sys.executable, "-m", "pointsman", *arguments],
        cwd=folder,
        env=os.environ | {"XDG_STATE_HOME": str(folder)},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [("check",), ("doctor",), ("tenants",), ("completion", "bash"), ("--help",)])
def test_whoever_reads_no_more_has_enough_and_is_told_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as closed:
        done = written_to(closed, tmp_path, *arguments)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_full_disk_behind_the_output_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = written_to(full, tmp_path, "check")
    assert (done.returncode, done.stderr) == (2, "pointsman: [Errno 28] No space left on device\n")


def test_a_key_can_be_made_before_the_first_start(tmp_path: Path) -> None:
    done = run(tmp_path, "keys", "create", "acme", "--budget", "5 USD per day")
    assert done.returncode == 0, done.stderr
    assert "sk-" in done.stdout
