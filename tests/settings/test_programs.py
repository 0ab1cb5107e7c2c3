"""Programs that cannot run stop the start, with the path of what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from router.errors import SettingsError
from router.settings import build


def settings(**programs: Any) -> dict[str, Any]:
    price = {"prompt": 1, "completion": 1}
    return {
        "backends": {"fake": {"kind": "scripted"}},
        "models": [{"name": "small", "price": price}, {"name": "large", "price": price}],
        "programs": programs,
    }


def chain(length: int) -> dict[str, Any]:
    """Programs within each other."""
    arms = ["small", *(f"p{i}" for i in range(length))]
    return {f"p{i}": {"kind": "vote", "of": arms[i]} for i in range(length)}


GOOD = {
    "sure": {"kind": "escalate", "of": ["small", "large"], "risk": 0.1},
    "best4": {"kind": "best_of", "of": "auto:cheap", "n": 4, "checks": ["schema", "tools", "agree"], "pick": "b4"},
    "vote5": {"kind": "vote", "of": "small", "n": 5, "stop": "majority"},
    "digest": {"kind": "map_reduce", "map": "auto:cheap", "reduce": "auto:best", "chunk": "priced"},
    "agent": {"kind": "roles", "plan": "large", "call": "small", "summarise": "sure"},
    "draft": {"kind": "refine", "draft": "small", "critic": "large", "rounds": 1},
}


def test_the_programs_of_the_issue_are_understood() -> None:
    assert list(build(settings(**GOOD), {}).programs) == list(GOOD)
    assert build(settings(**chain(3)), {}).programs


@pytest.mark.parametrize(
    ("programs", "path"),
    [
        ({"a": {"kind": "vote", "of": "nobody"}}, "programs.a.of"),
        ({"a": {"kind": "vote", "of": "auto:nobody"}}, "programs.a.of"),
        ({"a": {"kind": "vote", "of": "small", "n": 0}}, "programs.a.n"),
        ({"a": {"kind": "vote", "of": "b"}, "b": {"kind": "vote", "of": "a"}}, "programs.a"),
        ({"a": {"kind": "vote", "of": "a"}}, "programs.a"),
        (chain(4), "programs.p3"),
        ({"small": {"kind": "vote", "of": "large"}}, "programs.small"),
        ({"auto": {"kind": "vote", "of": "large"}}, "programs.auto"),
        ({"a": {"kind": "poll", "of": "small"}}, "programs.a.kind"),
        ({"a": {"kind": "vote", "of": "small", "m": 3}}, "programs.a.m"),
        ({"a": {"kind": "escalate", "of": ["small"]}}, "programs.a.of"),
        ({"a": {"kind": "escalate", "of": ["small", "large"], "risk": 1.0}}, "programs.a.risk"),
        ({"a": {"kind": "best_of", "of": "small", "matches": ["("]}}, "programs.a.matches[0]"),
        ({"a": {"kind": "map_reduce", "map": "small", "reduce": "large", "chunk": 0}}, "programs.a.chunk"),
    ],
)
def test_a_program_that_cannot_run_is_named(programs: dict[str, Any], path: str) -> None:
    with pytest.raises(SettingsError) as refused:
        build(settings(**programs), {})
    assert path in [line.partition(":")[0] for line in refused.value.message.splitlines()]


def test_keys_fallbacks_and_names_may_name_programs_and_shared_budgets_may_not() -> None:
    whole = settings(**GOOD)
    whole["fallbacks"] = {"small": ["sure"]}
    whole["model_map"] = {"gpt-5": "best4"}
    whole["tenants"] = {
        "acme": {"keys": [{"secret": "sk-a-long-secret", "allowed_models": ["sure", "small", "large"]}]}
    }
    assert build(whole, {})
    whole["model_budgets"] = {"both": {"models": ["sure"], "budget": "1 USD per day"}}
    with pytest.raises(SettingsError, match=r"model_budgets\.both"):
        build(whole, {})
