"""The house keeps its rules. What does not yet is listed here, and the list may only shrink."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.house import rules


def listed(names: str) -> set[str]:
    return set(names.split())


PROTOCOLS = listed("""
    backends/anyprec/engine/responses.py:Telling policies/estimators/drift_corrected.py:Fitted
    policies/estimators/online.py:Fitted
""")
CONSTRUCTORS = listed("""
    backends/embedders/openai.py:OpenAIEmbedder router/gateway/deciding.py:Decider
""")
TWICE = listed("""
    Answer Asked Case Entry Fitted Fixed Head Kept Line Load Part Rejected Report Run Said Spending
    Stream Tally Trace Unsupported _Common
""")
FILES = listed("""
    backends/http1.py
""")
PRIVATE: set[str] = set()

KEPT: dict[str, tuple[Callable[[], set[str]], set[str]]] = {
    "a protocol has at most three members": (rules.large_protocols, PROTOCOLS),
    "a constructor takes at most six arguments, where it is no plain record": (rules.long_constructors, CONSTRUCTORS),
    "no class name stands for two things": (rules.names_given_twice, TWICE),
    "a file has at most 400 lines": (rules.long_files, FILES),
    "no private name of another package is used": (rules.private_imports, PRIVATE),
}


@pytest.mark.parametrize("rule", KEPT)
def test_the_rule_is_kept(rule: str) -> None:
    find, allowed = KEPT[rule]
    assert find() - allowed == set(), f"{rule}: mend these"


@pytest.mark.parametrize("rule", KEPT)
def test_the_list_of_exceptions_holds_nobody_who_keeps_the_rule(rule: str) -> None:
    find, allowed = KEPT[rule]
    assert allowed - find() == set(), f"{rule}: these keep it now, take them from the list"


def test_the_router_has_at_most_fifteen_rooms_on_eight_floors() -> None:
    (inside,) = [each for each in rules.contracts() if each.get("containers") == ["router"]]
    assert len(rules.rooms()) <= rules.MOST_ROOMS, rules.rooms()
    assert len(inside["layers"]) <= rules.MOST_FLOORS


def test_every_contract_of_layers_knows_all_rooms_of_its_house() -> None:
    layered = [each for each in rules.contracts() if each["type"] == "layers" and each.get("containers")]
    assert {room for each in layered for room in each["containers"]} >= {"router", "backends", "policies", "evaluation"}
    assert all(each.get("exhaustive") for each in layered)
