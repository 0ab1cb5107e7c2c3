"""A stranger of the field finds a thing by the word he knows, and no word of the house is left in its place."""

from __future__ import annotations

import ast

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
    *("Book", "Gauge", "Ticket", "Purse", "Shelf", "Guard", "Journal", "Rider", "Occupancy", "Menu", "Needs", "Stages"),
    *("Renting", "Rented", "Newcomer", "Watched", "Blend", "Phased", "Frugal", "Till", "Memory", "Packed", "Lazily"),
    *("why_not", "pour", "play", "strangeness", "lay_out", "Laid", "announce", "board", "arrive", "owe"),
}


@pytest.mark.parametrize("term", TERMS)
def test_the_fields_term_finds_the_thing(term: str) -> None:
    assert [path for path, text in sources().items() if TERMS[term] in text]


def test_no_private_word_names_a_class_or_a_function() -> None:
    found = {
        f"{path}:{node.name}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name in OLD
    }
    assert found == set()
