"""Measured figures stand in tables, and each says which command printed it, from which commit, on what machine."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GENERATED = {"settings.md"}  # a table of keys and defaults, made from the code: tests/settings/reference.py
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.name not in GENERATED]
WORDS = r"(?:(?!\n\n)[^|])"  # of one paragraph
LINE = re.compile(
    rf"^(?:Made by|Came with) commits? [0-9a-f]{{7}}{WORDS}*?(?: on {WORDS}+?|; {WORDS}+?)\.$", re.MULTILINE
)
COMMIT = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7}\b")
COMMAND = re.compile(r"python -m (benchmarks|research|tests)\.|make (bench|demo|test-clients)|pointsman replay")
NUMBER = re.compile(r"\W*[−+-]?\d")
TIMED = re.compile(r"\d[\d,.]* +\d|\d (µs|ms|s|MB)\b")


def sections(text: str) -> Iterator[str]:
    """From heading to heading; what is in backticks has none."""
    fenced, section = False, list[str]()
    for line in text.split("\n"):
        fenced ^= line.startswith("```")
        if line.startswith("#") and not fenced:
            yield "\n".join(section)
            section = []
        section.append(line)
    yield "\n".join(section)


def is_measured(block: str) -> bool:
    """Whether a table, or lines that a command printed, hold figures rather than words."""
    rows = block.strip("\n").split("\n")
    if rows[0].startswith("|"):
        cells = [cell.strip() for row in rows[2:] for cell in row.strip("|").split("|")[1:] if cell.strip()]
        return sum(bool(NUMBER.match(cell)) for cell in cells) >= 0.4 * len(cells) > 0
    return len(rows) > 2 and sum(len(TIMED.findall(row)) > 0 for row in rows) > 0.6 * len(rows)


def blocks(section: str) -> list[tuple[str, str]]:
    """(a table or a block of figures, what follows it in the section)."""
    found = re.finditer(
        r"(?:^\|.*\n)+|^```\n(?:.*\n)*?```$|(?:^ {4}.*\n(?:\n(?= {4}))?)+", section + "\n", re.MULTILINE
    )
    return [(each[0], section[each.end() :]) for each in found if is_measured(each[0].strip("`"))]


def unsaid(page: str) -> Iterator[str]:
    """The first lines of measured tables without a line below that says where they are from, or without a command."""
    for section in sections(page):
        for block, after in blocks(section):
            if LINE.search(after) is None or COMMAND.search(section) is None:
                yield block.split("\n")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_of_figures_says_where_it_is_from(page: Path) -> None:
    assert list(unsaid(page.read_text(encoding="utf-8"))) == []


def test_a_table_without_a_commit_a_machine_or_a_command_is_found() -> None:
    table, command = "| | µs |\n|---|---|\n| mine | 12 |\n", "`python -m benchmarks.policies` printed:\n\n"
    line = "\nMade by commit abc1234 on 2 cores.\n"
    assert not list(unsaid(command + table + line))
    assert not list(unsaid(command + table + line.replace(" on 2 cores", "; the machine was not noted")))
    for said in (table, command + table, table + line, command + table + line.replace(" on 2 cores", "")):
        assert list(unsaid(said)) == ["| | µs |"]
    assert list(unsaid(f"{command}{table}\n## Another\n{line}")) == ["| | µs |"]
    assert list(unsaid("    mine: 12 µs\n    yours: 13 µs\n    theirs: 14 µs\n"))


def test_every_commit_that_a_page_names_is_in_the_history() -> None:
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if shallow.stdout.strip() != "false":
        pytest.skip("the history is not here")
    named = {
        commit
        for page in PAGES
        for line in LINE.finditer(page.read_text(encoding="utf-8"))
        for commit in COMMIT.findall(line[0])
    }
    asked = "\n".join(sorted(named))
    found = subprocess.run(
        ["git", "cat-file", "--batch-check"], cwd=ROOT, input=asked, capture_output=True, text=True, check=True
    )
    assert named
    assert [line for line in found.stdout.splitlines() if " commit " not in line] == []
