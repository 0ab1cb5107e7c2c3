"""The path of a request through the house is short, and the page of the architecture shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.in_process import ENGINE
from benchmarks.priced import priced_settings
from benchmarks.settings import full_settings, pass_settings
from tests.house.tracing import PAGE, ROOT, Walk, shown, traced

PLAIN = (35, 250)  # files, calls
LATER = {
    "router/http/doors.py": "other clients' paths, keys and origins are one look-up before a request is parsed",
    "router/gateway/abilities.py": "what a request needs of a model is asked of every candidate",
}
EVERYTHING = (58, 325)  # with keys, budgets, neighbours and the log; it may only shrink, to what PLAIN is


PRICED = {
    "policies/stored_answers.py",
    "router/gateway/continuations.py",
    "router/gateway/conversations.py",
    "router/gateway/replaying.py",
    "router/gateway/similar.py",
    "router/gateway/stored_answers.py",
    "router/learning/likeness.py",
    "router/learning/prompt_caches.py",
    "router/learning/session_turns.py",
    "router/learning/similar_answers.py",
    "router/learning/stored_answers.py",
    "router/learning/turn_holders.py",
}
NEVER_PLAIN = {  # also where they are on: later turns, judgements and similar questions do
    "router/gateway/continuations.py",
    "router/gateway/similar.py",
    "router/learning/likeness.py",
    "router/learning/session_turns.py",
    "router/learning/similar_answers.py",
    "router/learning/turn_holders.py",
}


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


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    folder = tmp_path_factory.mktemp("full")
    return traced(folder, full_settings(ENGINE, folder, 0))


def test_a_request_with_everything_on_enters_no_more_than_it_did(full: Walk) -> None:
    print(*full.lines(), sep="\n")
    most = EVERYTHING
    assert (len(full.calls) <= most[0], full.total <= most[1]) == (True, True), f"{len(full.calls)}, {full.total}"


def test_stored_answers_conversations_and_waiting_that_are_off_cost_no_call(plain: Walk, full: Walk) -> None:
    """Where no tenant stores answers, no model has a price for what is cached, and no second has one."""
    assert all((ROOT / file).is_file() for file in PRICED)
    assert not PRICED & plain.calls.keys()
    assert not PRICED & full.calls.keys()


def test_where_they_are_on_they_are_entered(tmp_path: Path) -> None:
    """So that the test above looks for what there is."""
    walk = traced(tmp_path, priced_settings(ENGINE, tmp_path, 0), warm=5)
    print(*walk.lines(), sep="\n")
    assert walk.calls.keys() >= PRICED - NEVER_PLAIN


def test_the_page_of_the_architecture_shows_the_rooms(plain: Walk) -> None:
    page = (ROOT / PAGE).read_text()
    assert shown(page) == set(plain.rooms), "run: python -m tests.house.tracing"
