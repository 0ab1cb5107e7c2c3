"""The table of first paints is of a page that was opened over a log with so many decisions."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from benchmarks import first_paint


def test_a_log_is_filled_and_the_page_over_it_is_opened_at_both_widths(tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api", reason="no playwright: install the extra test")
    if shutil.which("chromium") is None:
        pytest.skip("no chromium: apt-get install chromium")
    page = tmp_path / "page.md"
    page.write_text("<!-- first paint: made by a command -->\n<!-- end of first paint -->\n")
    first_paint.main(["--decisions", "450", "--loads", "1", "--stores", "sqlite", "--write", str(page)])
    rows = [line for line in page.read_text().splitlines() if line.startswith("| SQLite")]
    assert [row.split("|")[1:3] for row in rows] == [
        [" SQLite, 450 decisions ", f" {width} px "] for width in (390, 1440)
    ]
    assert all(len(re.findall(r" \d+ … \d+ ", row)) == 5 for row in rows)


def test_a_row_has_the_median_and_the_worst_of_each() -> None:
    loads = [
        {"first-paint": ms, "first-contentful-paint": ms + 1, "run": 5.0, "proof": 6.0, "manage": 7.0}
        for ms in (10.0, 30.0, 20.0)
    ]
    assert first_paint.row("SQLite", 390, loads) == ("| SQLite | 390 px | 20 … 30 | 21 … 31 | 5 … 5 | 6 … 6 | 7 … 7 |")
