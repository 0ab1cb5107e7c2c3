"""The house keeps its rules, without exceptions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.house import rules

RULES: dict[str, Callable[[], set[str]]] = {
    "a protocol has at most three members": rules.large_protocols,
    "a constructor takes at most six arguments, where it is no plain record": rules.long_constructors,
    "no class name stands for two things": rules.names_given_twice,
    "a file has at most 400 lines": rules.long_files,
    "no private name of another package is used": rules.private_imports,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_is_kept(rule: str) -> None:
    assert RULES[rule]() == set(), f"{rule}: mend these"


def test_the_router_has_at_most_fifteen_rooms_on_eight_floors() -> None:
    (inside,) = [each for each in rules.contracts() if each.get("containers") == ["router"]]
    assert len(rules.rooms()) <= rules.MOST_ROOMS, rules.rooms()
    assert len(inside["layers"]) <= rules.MOST_FLOORS


def test_every_contract_of_layers_knows_all_rooms_of_its_house() -> None:
    layered = [each for each in rules.contracts() if each["type"] == "layers" and each.get("containers")]
    assert {room for each in layered for room in each["containers"]} >= {"router", "backends", "policies", "evaluation"}
    assert all(each.get("exhaustive") for each in layered)
