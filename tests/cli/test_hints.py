"""Every line that a program tells somebody to run is known, and some test runs it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from cli.doctor import findings
from tests.cli.test_beginnings import doctored
from tests.cli.test_welcome import run
from tests.house.rules import ROOT, trees
from tests.house.test_dependencies import WHEEL
from tests.test_pages import verbs

EXECUTED = {  # what is told, and the file of the test that runs it
    "pointsman admit": "tests/http/test_running.py",
    "pointsman check": "tests/cli/test_beginnings.py",
    "pointsman clock confirm": "tests/cli/test_beginnings.py",
    "pointsman demo": "tests/http/test_verbs.py",
    "pointsman doctor": "tests/cli/test_beginnings.py",
    "pointsman keys create": "tests/cli/test_hints.py",
    "pointsman keys first": "tests/cli/test_welcome.py",
    "pointsman profile": "tests/anyprec/test_profiles.py",
    "pointsman quantize": "tests/anyprec/test_quantize.py",
    "pointsman serve": "tests/cli/test_welcome.py",
    "pointsman completion": "tests/cli/test_beginnings.py",
}


def told() -> Iterator[str]:
    """`pointsman VERB` with the second word of verbs that have one, in what is no docstring."""
    for path, tree in trees().items():
        if not path.startswith(tuple(f"{each}/" for each in WHEEL)):
            continue
        docs = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                yield from lines(node.value)
            if isinstance(node, ast.JoinedStr):  # f"{command} check {file}"
                for before, after in pairwise(node.values):
                    if isinstance(after, ast.Constant) and "command" in ast.unparse(before):
                        yield from lines("pointsman" + str(after.value))


def lines(text: str) -> Iterator[str]:
    for verb, act in re.findall(r"\bpointsman ([a-z]+)(?: ([a-z]+))?", text):
        if verb in {"keys", "clock"} and act:
            yield f"pointsman {verb} {act}"
        elif verb in verbs() - {"keys", "clock"}:
            yield f"pointsman {verb}"


def test_every_line_that_is_told_is_run_by_a_test() -> None:
    assert set(told()) == set(EXECUTED)
    for line, file in EXECUTED.items():
        words = line.split()[1:]
        assert all(word in (ROOT / file).read_text(encoding="utf-8") for word in words), file


def test_where_there_is_no_key_the_line_of_the_doctor_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = doctored(tmp_path, "")
    (remedy,) = [each.remedy for each in findings(path) if each.what == "keys"]
    assert "\n\n  sk-" in run(tmp_path, remedy.removeprefix("or: "))


def test_where_there_is_no_first_key_the_line_that_is_told_makes_one(tmp_path: Path) -> None:
    path = doctored(tmp_path, "")
    asked = run(tmp_path, f"pointsman keys first --config {path} 2>&1 || true")
    line = re.search(r"pointsman keys create TENANT", asked)
    assert line, asked
    assert "\n\n  sk-" in run(tmp_path, f"{line[0].replace('TENANT', 'acme')} --config {path}")


def test_the_shorter_demo_that_is_told_is_one_that_make_and_the_verb_know(tmp_path: Path) -> None:
    (line,) = {
        found[0]
        for node in ast.walk(trees()["evaluation/demo.py"])
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if (found := re.search(r"make demo ARGS='[^']+'", node.value))
    }
    planned = run(ROOT, line.replace("make ", f"make --dry-run VENV={tmp_path} ", 1))
    assert re.search(r"pointsman demo\b.* --prompts 100", planned), planned
