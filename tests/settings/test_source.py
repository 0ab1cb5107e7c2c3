"""The environment inside a settings file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.errors import SettingsError
from router.settings import load
from router.settings.source import parse, substitute
from tests.settings.conftest import Read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${NAME}", "value"),
        ("a ${NAME} b ${NAME}", "a value b value"),
        ("${OTHER:-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${EMPTY}", ""),
        ("${OTHER:-}", ""),
        ("$${NAME}", "${NAME}"),
        ("$NAME", "$NAME"),
    ],
)
def test_variables_are_put_in_as_a_shell_would(text: str, expected: str) -> None:
    assert substitute({"key": text}, {"NAME": "value", "EMPTY": ""})[0] == {"key": expected}


def test_a_variable_may_give_a_number_or_a_truth(read: Read) -> None:
    settings = read(
        "server: {port: '${PORT}'}\nlog: {keep_text: '${KEEP}'}",
        env={"PORT": "9000", "KEEP": "true"},
    )
    assert settings.server.port == 9000
    assert settings.log.keep_text


BOUNDED = {
    "server: {port: " + "1" * 5000 + "}": "line 1: a number of 5000 characters, expected at most 64",
    "models: " + "[" * 5000: "line 1: nested deeper than 64 levels",
    "a: &a [x, x]\nb: &b [" + "*a," * 999 + "]\nc: [" + "*b," * 99 + "]": "line 3: more than 100000 values",
    "a: &a [*a]": "an alias inside what it stands for",
    "a: 2026-99-99": "line 1: got '2026-99-99', expected a timestamp",
    "a: !!bool x": "not YAML: KeyError",
    "%YAML 1" + "1" * 5000 + "\n---\na: 1": "not YAML: ValueError",
    "a: !" + "x" * 9000 + " b": "could not determine a constructor",
    "5: a": "got the key 5, expected names of sections",
}


@pytest.mark.parametrize("text", BOUNDED, ids=range(len(BOUNDED)))
def test_a_text_beyond_every_bound_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(text)
    assert BOUNDED[text] in refused.value.message
    assert len(refused.value.message) < 400


def test_aliases_and_merges_within_bounds_are_what_they_stand_for() -> None:
    assert parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": [{"x": 1, "y": 2}] * 2,
    }


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfserver: {port: 1}")
    assert load(tmp_path / "a.yaml", {}).server.port == 1


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(SettingsError, match="cannot be read"):
            load(path, {})


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(SettingsError, match="more than 2097152 bytes"):
        load(tmp_path / "large.yaml", {})
