"""A stranger of the field finds a thing by the word he knows, and no word of the house is left in its place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.rules import sources, trees

TERMS = {
    "hold": "class HoldRecord",
    "outbox": "class Outbox",
    "window counter": "class WindowCounter",
    "limit": "class Limit",
    "candidates": "class Candidates",
    "requirements": "class Requirements",
    "attempt": "class Attempt",
    "budget state": "class BudgetState",
    "cold start": "class ColdStartArm",
    "out-of-distribution score": "ood_score: float",
    "warm-up": "class WarmUp",
    "drift": "class DriftCorrected",
    "revocation": "class RevocationCheck",
    "record store": "class RecordStore",
    "neighbours": "class NeighbourView",
}
OLD = {
    *("Book", "Gauge", "Charge", "Answer", "Guard", "Journal", "Rider", "Menu", "Known", "Needs", "Opened", "Stages"),
    *("Blend", "Single", "Walk", "Phased", "Till", "Memory", "Packed", "Laid", "Some", "Told", "Meter", "nouns"),
    *("why_not", "pour", "play", "lay_out", "announce", "board", "arrive", "owe", "owed_path", "Float16Embedding"),
}  # as names of their own, of classes and functions of the gateway
RETIRED = {
    *("purse", "purses", "ticket", "tickets", "shelf", "edition", "occupancy", "renting", "rented", "rents", "menu"),
    *("newcomer", "newcomers", "slant", "kin", "telling", "told", "dear", "dearer", "dearest", "dearness", "frugal"),
    *("strangeness", "familiar", "lazily", "soil", "blend"),
}  # as a word of any name
WHOLE = {"needs"}  # as a name of its own: these are a request's requirements
DATA = "evaluation/skills/"  # support tickets
FILES = {
    *(
        "nouns",
        "book",
        "journal",
        "meters",
        "places",
        "building",
        "callers",
        "target",
        "asking",
        "telling",
        "refitting",
    ),
    *("walk", "newcomers", "kin", "slant", "level", "watched", "blend", "loops", "searches", "nest", "strangeness"),
    *("single", "renting", "purse", "play"),
}


def names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name


@pytest.mark.parametrize("term", TERMS)
def test_the_fields_term_finds_the_thing(term: str) -> None:
    assert [path for path, text in sources().items() if TERMS[term] in text]


def test_no_private_word_names_a_class_or_a_function() -> None:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    found = {
        f"{path}:{node.name}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, kinds) and node.name in OLD
    }
    assert found == set()


def test_no_private_word_is_part_of_a_name() -> None:
    found = {
        f"{path}:{name}"
        for path, tree in trees().items()
        if not path.startswith(DATA)
        for name in names(tree)
        if name in WHOLE or RETIRED & {word.lower() for word in re.findall("[A-Z]?[a-z]+", name)}
    }
    assert found == set()


def test_no_file_has_a_private_word_for_its_name() -> None:
    assert {path for path in trees() if Path(path).stem in FILES} == set()


@pytest.mark.parametrize("name", ["_purse", "PurseState", "is_told", "fit_newcomer"])
def test_a_private_word_is_found_in_a_name(name: str) -> None:
    found = set(names(ast.parse(f"def f({name}): return x.{name}")))
    assert name in found
    assert RETIRED & {word.lower() for word in re.findall("[A-Z]?[a-z]+", name)}


def test_no_private_word_is_in_what_the_stores_keep() -> None:
    """Tables, columns and keys, which operators read."""
    stores = Path(__file__).parents[1] / "router/stores"
    kept = [*stores.rglob("*.lua"), stores / "sqlite/schema.py"]
    found = {path.name: RETIRED & set(re.findall("[a-z]+", path.read_text().lower())) for path in kept}
    assert {name: words for name, words in found.items() if words} == {}
