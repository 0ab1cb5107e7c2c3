"""One budget is one budget, however it came in; and what the levels of a tenant make of each other's terms."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import parser
from cli.keys import _terms
from router import amounts
from router.errors import InvalidRequest
from router.terms import Level, Terms, narrowed
from router.types import Principal, show_usd
from tests.settings.conftest import Read

FORMS = ["5 USD per month", "100 USD per 30d soft", "$0.15 / day", "2 USD per rolling week", "0.000000001 USD per 1y"]


def of_command_line(*arguments: str) -> Terms:
    parsed: argparse.Namespace = parser().parse_args(["keys", "create", "acme", *arguments])
    return _terms(parsed)


@pytest.mark.parametrize("text", FORMS)
def test_the_same_budget_from_file_admin_api_and_command_line_is_equal(read: Read, text: str) -> None:
    of_file = read(f"tenants: {{acme: {{budgets: ['{text}']}}}}").tenants["acme"].budgets
    of_api = Terms.model_validate_json(f'{{"budgets": ["{text}"]}}').budgets
    again = Terms.model_validate(Terms.of(budgets=[text]).model_dump(mode="json")).budgets
    assert of_file == of_api == of_command_line("--budget", text).budgets == again
    assert {each.budget("tenant:acme") for each in (*of_file, *of_api, *again)} == {of_file[0].budget("tenant:acme")}


BUDGETS = st.builds(
    lambda nano, period, soft: f"{show_usd(nano)} USD per {period}{' soft' if soft else ''}",
    st.integers(0, amounts.MOST_NANO_USD),
    st.sampled_from(["day", "week", "month", "year", "rolling month", "30s", "90m", "366d", "hour"]),
    st.booleans(),
)


@given(BUDGETS)
def test_a_budget_shown_and_read_again_is_the_same(text: str) -> None:
    (budget,) = Terms.of(budgets=[text]).budgets
    assert Terms.of(budgets=[str(budget)]).budgets == (budget,)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--budget", "1 USD per day", "--budget", "5 USD per eon"], "--budget '5 USD per eon': expected a period"),
        (["--rpm", "-1"], "--rpm -1: "),
        (["--preference", "2"], "--preference 2.0: "),
        (["--models", "a,,b"], "--models "),
    ],
)
def test_the_command_line_names_the_option_that_is_wrong(arguments: list[str], complaint: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        of_command_line(*arguments)
    assert refused.value.message.startswith(complaint)


def test_zero_requests_a_minute_is_a_limit_on_the_command_line() -> None:
    (limit,) = of_command_line("--rpm", "0").limits
    assert limit.requests_per_minute == 0


def level(scope: str, **terms: Any) -> Level:
    return Level(scope, Terms.of(**terms))


def test_levels_add_budgets_narrow_models_and_the_nearest_rules() -> None:
    found = narrowed(
        Principal("k", "acme"),
        [
            level("key:k", budgets=["1 USD per day"], allowed_models=["a", "b"], metadata={"who": "key"}),
            level("team:lab", limits={"concurrent": 2}, preference=0.9, policy="cheapest"),
            level("tenant:acme", budgets=["5 USD per day"], allowed_models=["b", "c"], preference=0.1, local_only=True),
        ],
    )
    assert found is not None
    assert [each.scope for each in found.budgets] == ["key:k", "tenant:acme"]
    assert found.allowed_models == frozenset({"b"})
    assert found.local_only
    assert (found.preference, found.policy, found.metadata) == (0.9, "cheapest", {"who": "key"})


def test_a_disabled_level_leaves_nobody() -> None:
    assert narrowed(Principal("k", "acme"), [level("key:k"), level("tenant:acme", disabled=True)]) is None


def test_a_budget_that_file_and_store_both_name_counts_once() -> None:
    twice = [level("tenant:acme", budgets=["5 USD per day"]), level("tenant:acme", budgets=["$5.00 per day"])]
    found = narrowed(Principal("k", "acme"), twice)
    assert found is not None
    assert len(found.budgets) == 1


def test_a_tenant_disabled_in_the_file_has_no_keys(read: Read) -> None:
    settings = read("tenants: {acme: {disabled: true, keys: [{secret: sk-12345678}]}}")
    assert settings.static_keys() == ()
    assert settings.completed(Principal("k_1", "acme")) is None
