"""A table that a command puts into a page says by which commit and on which machine it was made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from research.provenance import provenance, put

PAGE = """before
<!-- speed: made by python -m benchmarks.money speed -->
| old |
<!-- end of speed -->
between
<!-- votes: made by python -m benchmarks.programs -->
| votes |
<!-- end of votes -->
"""


def test_the_table_and_its_line_take_the_place_of_the_old_ones_and_nothing_else_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    for table in (["| a |", "|---|"], [r"| new \1 |", "|---|"]):
        put(page, "speed", table)
    made = f"| new \\1 |\n|---|\n\n{provenance()}\n"
    assert page.read_text() == PAGE.replace("| old |\n", made)


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    with pytest.raises(SystemExit, match="no <!-- spee: made by"):
        put(page, "spee", ["| a |"])
    assert page.read_text() == PAGE


def test_the_line_names_a_commit_and_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert re.fullmatch(r"Made by commit [0-9a-f]{7,}(-dirty)? on \d+ cores, .+\.", provenance())
    monkeypatch.chdir(tmp_path)  # where there is no repository
    assert "commit unknown" in provenance()


def test_a_machines_gpus_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = tmp_path / "nvidia-smi"
    asked.write_text("#!/bin/sh\necho NVIDIA H200\necho NVIDIA H200\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert provenance().endswith(", NVIDIA H200, NVIDIA H200.")
