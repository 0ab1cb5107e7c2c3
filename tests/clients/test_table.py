"""The table of clients: a row of a run stands in place of an older one, under the commit that the run began at."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.clients import run
from tests.clients.clients import Client


def test_rows_are_under_the_commit_that_the_run_began_at_though_each_changes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        named = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *named, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    page = tmp_path / "clients.md"
    page.write_text(f"# Clients\n\n{run.BEGIN}\n| client |\n|---|\n| old | kept |\n\nMade by nobody.\n{run.END}\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "a page")
    commit = git("rev-parse", "--short=7", "HEAD").strip()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "PAGE", page)
    monkeypatch.setattr(run, "CLIENTS", [Client("one", "one.py"), Client("two", "two.py")])
    monkeypatch.setattr(run, "heard", lambda *_: [{"check": "chat", "ok": True}])
    monkeypatch.setattr("sys.argv", ["run", "--inside"])
    assert run.main() == 0
    text = page.read_text()
    assert f"Made by commit {commit} on" in text
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:] == [
        "old",
        "one",
        "two",
    ]
    assert json.dumps(text).count("Made by") == 1
