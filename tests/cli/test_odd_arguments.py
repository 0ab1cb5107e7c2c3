"""A mistake on the command line is one line and exit code 2, with no secret in it; never a traceback."""

from __future__ import annotations

import os
from pathlib import Path

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
    ("route", "hello", "--url", "http://["),
    ("serve", "--port", "99999"),
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_it_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    os.mkfifo(tmp_path / "fifo")
    done = run(tmp_path, *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("pointsman: ")
    assert "hush" not in done.stderr


def test_a_key_can_be_made_before_the_first_start(tmp_path: Path) -> None:
    done = run(tmp_path, "keys", "create", "acme", "--budget", "5 USD per day")
    assert done.returncode == 0, done.stderr
    assert "sk-" in done.stdout
