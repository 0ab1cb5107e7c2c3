"""The path of a request through the house is short, and the page of the architecture shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.in_process import ENGINE
from benchmarks.settings import full_settings, pass_settings
from tests.house.tracing import PAGE, ROOT, Walk, shown, traced

PLAIN = (35, 250)  # files, calls
LATER = {
    "router/http/doors.py": "other clients' paths, keys and origins are one look-up before a request is parsed",
    "router/gateway/abilities.py": "what a request needs of a model is asked of every candidate",
}
EVERYTHING = (58, 325)  # with keys, budgets, neighbours and the log; it may only shrink, to what PLAIN is


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    folder = tmp_path_factory.mktemp("plain")
    return traced(folder, pass_settings(ENGINE, folder, 0))


def test_a_plain_request_with_everything_optional_off_enters_few_files(plain: Walk) -> None:
    print(*plain.lines(), sep="\n")
    early = plain.calls.keys() - LATER.keys()
    assert (len(early) <= PLAIN[0], plain.total <= PLAIN[1]) == (True, True), f"{len(early)}, {plain.total}"


def test_the_two_files_that_came_later_are_entered() -> None:
    assert len(LATER) <= 2
    assert all((ROOT / file).is_file() for file in LATER)


def test_a_request_with_everything_on_enters_no_more_than_it_did(tmp_path: Path) -> None:
    walk = traced(tmp_path, full_settings(ENGINE, tmp_path, 0))
    print(*walk.lines(), sep="\n")
    most = EVERYTHING
    assert (len(walk.calls) <= most[0], walk.total <= most[1]) == (True, True), f"{len(walk.calls)}, {walk.total}"


def test_the_page_of_the_architecture_shows_the_rooms(plain: Walk) -> None:
    page = (ROOT / PAGE).read_text()
    assert shown(page) == set(plain.rooms), "run: python -m tests.house.tracing"
