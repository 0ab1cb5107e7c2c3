"""Prices by kind of token, length, tier and day: exact, bounded by their most expensive reading, refused by path."""

from __future__ import annotations

import datetime
from dataclasses import fields
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.types import COUNTED, TokenParts
from backends.usage import merged, usage_of
from router.errors import SettingsError
from router.gateway.abilities import PROMPT_CACHE, features_of
from router.settings.loading import build
from router.settings.price_sections import PriceSection, price_in, written
from router.stores.reports import KINDS, SpendLine, kinds_of
from router.types import AMOUNTS, Price, TokenRates

COUNTS = st.integers(0, 10**6)
AMOUNT = st.integers(0, 10**12)
RATES: Any = st.fixed_dictionaries(
    {"prompt": AMOUNT, "completion": AMOUNT}, optional=dict.fromkeys(AMOUNTS[2:], AMOUNT)
)
PARTS: Any = st.builds(TokenParts, *[COUNTS] * 8, st.integers(0, 5), st.sampled_from(["", "flex", "unknown"]))


@st.composite
def prices(draw: Any) -> Price:
    above = {least: TokenRates(**draw(RATES)) for least in draw(st.lists(st.integers(0, 10**6), max_size=2))}
    tiers = {"flex": Price(**draw(RATES))} if draw(st.booleans()) else {}
    return Price(**draw(RATES), above=tuple(sorted(above.items())), tiers=tiers)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
@given(prices(), COUNTS, COUNTS, PARTS, st.booleans())
def test_no_report_of_tokens_within_a_hold_costs_more_than_the_hold(
    price: Price, prompt: int, completion: int, parts: TokenParts, writes: bool
) -> None:
    assert 0 <= price.of(prompt, completion, parts, writes=writes) <= price.worst(prompt, completion, 5, writes=writes)


@given(prices(), COUNTS, COUNTS, COUNTS, COUNTS)
def test_a_hold_for_more_tokens_is_never_smaller(
    price: Price, prompt: int, completion: int, more: int, on: int
) -> None:
    assert price.worst(prompt + more, completion + on) >= price.worst(prompt, completion)


@given(prices())
def test_a_price_is_read_as_it_is_written(price: Price) -> None:
    assert PriceSection.model_validate(written(price)).price() == price


def test_parts_that_cannot_all_be_count_at_their_most_expensive() -> None:
    price = Price(prompt=1_000_000, completion=0, cached=100_000, cache_write=2_000_000)  # type: ignore[arg-type]
    assert price.of(100, 0, TokenParts(cached=80, cache_write=60)) == 60 * 2 + 40 * 0.1


def test_an_hour_in_a_cache_without_a_price_of_its_own_costs_twice_a_prompt() -> None:
    price = Price(prompt=1_000_000, completion=0, cache_write=1_250_000)  # type: ignore[arg-type]
    assert price.of(10, 0, TokenParts(cache_write_1h=10)) == 20


def test_writing_to_a_cache_without_a_price_costs_more_than_a_prompt_where_it_was_asked_for() -> None:
    """A provider that charges for it asks 1.25 and 2 times a prompt; where nobody asked, what is told of it is none."""
    plain = Price(prompt=1_000_000, completion=0)  # type: ignore[arg-type]
    known = Price(prompt=1_000_000, completion=0, cached=100_000)  # type: ignore[arg-type]
    for price in (plain, known):
        assert price.of(100, 0, TokenParts(cache_write=60), writes=True) == 60 * 1.25 + 40
        assert price.of(100, 0, TokenParts(cache_write=60, cache_write_1h=40), writes=True) == 60 * 1.25 + 40 * 2
        assert price.of(100, 0, TokenParts(cache_write=60), writes=False) == 100
        assert (price.worst(100, 0, writes=True), price.worst(100, 0)) == (200, 100)


@pytest.mark.parametrize(
    ("fields", "writes"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, False),
        ({"messages": [{"role": "user", "content": [{"type": "text", "cache_control": {"type": "ephemeral"}}]}]}, True),
        ({"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, True),
        ({"tools": [{"name": "f", "cache_control": {"type": "ephemeral"}}]}, True),
        ({"messages": [], "cache_control": {"type": "ephemeral"}}, True),
        ({"messages": [], "cache_control": None}, False),
    ],
)
def test_a_request_that_asks_for_a_cache_is_known(fields: dict[str, Any], writes: bool) -> None:
    raws = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    assert (PROMPT_CACHE in features_of(raws)) is writes


def test_a_price_below_zero_is_none() -> None:
    with pytest.raises(ValueError, match="price of cached is -1"):
        Price(1, 1, cached=-1)  # type: ignore[arg-type]


SECTION: dict[str, Any] = {
    "prompt": 2,
    "completion": 8,
    "changes": [
        {"since": "2027-01-01", "prompt": 1, "completion": 4},
        {"since": "2027-06-01", "prompt": 3, "completion": 9, "cached": 0.5},
    ],
}


@pytest.mark.parametrize(
    ("day", "prompt"), [("2026-12-31", 2), ("2027-01-01", 1), ("2027-05-31", 1), ("2027-06-01", 3), ("2030-01-01", 3)]
)
def test_a_price_holds_from_its_day_on(day: str, prompt: int) -> None:
    price = PriceSection.model_validate(SECTION).price(datetime.date.fromisoformat(day))
    assert price.prompt == prompt * 10**9


def test_a_change_brings_its_own_service_tiers() -> None:
    """A tier of the price before would go on at a price that nobody asks any more."""
    flex = {"flex": {"prompt": 1, "completion": 2}}
    section = PriceSection.model_validate({"prompt": 2, "completion": 8, "tiers": flex, "changes": SECTION["changes"]})
    assert section.price(datetime.date(2026, 12, 31)).tiers.keys() == {"flex"}
    assert not section.price(datetime.date(2027, 1, 1)).tiers


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompt": -1}, "prompt"),
        ({"cached": -0.1}, "cached"),
        ({"cashed": 1}, "cashed"),
        ({"above": {"many": {"prompt": 1, "completion": 1}}}, "above"),
        ({"above": {1000: {"prompt": 1}}}, "above.1000.completion"),
        ({"tiers": {"flex": {"prompt": 1, "completion": "NaN"}}}, "tiers.flex.completion"),
        ({"tiers": {"flex": {"prompt": 1, "completion": 1, "above": {10: {"prompt": -1, "completion": 1}}}}},
         "tiers.flex.above.10.prompt"),
        ({"above": {9: {"prompt": 1, "completion": 1}, "9": {"prompt": 2, "completion": 1}}}, "expected one price"),
        ({"above": {True: {"prompt": 1, "completion": 1}}}, "above Value error, expected one price"),
        ({"above": {-5: {"prompt": 1, "completion": 1}}}, "above.-5"),
        ({"tiers": {"default": {"prompt": 1, "completion": 1}}}, "tiers.default"),
        ({"tiers": {"us+fast": {"prompt": 1, "completion": 1}}}, "expected fast+us"),
        ({"tiers": {"": {"prompt": 1, "completion": 1}}}, "expected one that answers are told"),
        ({"prompt": None}, "prompt"),
        ({"prompt": True}, "prompt"),
        ({"prompt": float("inf")}, "prompt"),
        ({"changes": [{"since": "2027-01-01", "prompt": 1}]}, "changes.0.completion"),
        ({"changes": [{"prompt": 1, "completion": 1}]}, "changes.0.since"),
        ({"changes": [{"since": "2027-02-30", "prompt": 1, "completion": 1}]}, "changes.0.since"),
        ({"changes": [{"since": "soon", "prompt": 1, "completion": 1}]}, "changes.0.since"),
        ({"changes": [{"since": "2027-01-01", "prompt": n, "completion": 1} for n in (1, 2)]}, "two prices from"),
    ],
)  # fmt: skip
def test_a_wrong_price_is_refused_by_its_path(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        PriceSection.model_validate({"prompt": 1, "completion": 2} | wrong)
    places = [".".join(map(str, each["loc"])) + " " + each["msg"] for each in refused.value.errors()]
    assert any(said in place for place in places), places


def test_litellms_keys_for_lengths_and_tiers_are_read_together() -> None:
    price = price_in(
        {
            "input_cost_per_token": 1e-6,
            "output_cost_per_token": 2e-6,
            "input_cost_per_token_above_200k_tokens": 3e-6,
            "cache_read_input_token_cost": 1e-7,
            "input_cost_per_token_flex": 5e-7,
            "output_cost_per_token_above_200k_tokens_flex": 9e-6,
            "input_cost_per_second": 1.0,
            "cache_creation_input_token_cost_above_1hr": 4e-6,
        }
    )
    assert price is not None
    assert [(least, rates.prompt, rates.cached) for least, rates in price.above] == [(200_000, 3 * 10**9, 10**8)]
    assert (price.cache_write_1h, price.tiers["flex"].prompt) == (4 * 10**9, 5 * 10**8)
    assert price.tiers["flex"].above[0][1].completion == 9 * 10**9
    assert price_in({"input_cost_per_token": 1e-6}) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"above": {9: {"prompt": -1, "completion": 1}}},
            "models[0].price.above[9].prompt: got -1, expected an amount",
        ),
        ({"above": {-9: {"prompt": 1, "completion": 1}}}, "models[0].price.above[-9]: got -9, expected greater than"),
        ({"tiers": {"us+fast": {"prompt": 1, "completion": 1}}}, "models[0].price.tiers.us+fast: got 'us+fast', expec"),
        ({"tiers": {"flex": {"prompt": 1}}}, "models[0].price.tiers.flex.completion: missing"),
        ({"cashed": 1}, "models[0].price.cashed: unknown key, did you mean cached?"),
        (
            {"changes": [*SECTION["changes"], *SECTION["changes"]]},
            "models[0].price.changes: got a list, expected no two",
        ),
    ],
)
def test_the_path_is_that_of_the_users_own_file(wrong: dict[str, Any], said: str) -> None:
    engine = {"kind": "vllm", "url": "http://127.0.0.1:1"}
    tree = {"backends": {"e": engine}, "models": [{"name": "m", "backend": "e", "price": {**SECTION, **wrong}}]}
    with pytest.raises(SettingsError) as refused:
        build(tree, {})
    assert said in str(refused.value)


def test_what_is_stated_above_one_length_holds_above_a_greater_one() -> None:
    price = price_in(
        {
            "input_cost_per_token": 1e-6,
            "output_cost_per_token": 2e-6,
            "output_cost_per_token_above_128k_tokens": 4e-6,
            "input_cost_per_token_above_200k_tokens": 3e-6,
        }
    )
    assert price is not None
    assert [(least, rates.prompt, rates.completion) for least, rates in price.above] == [
        (128_000, 10**9, 4 * 10**9),
        (200_000, 3 * 10**9, 4 * 10**9),
    ]


def test_a_stream_that_reports_in_parts_keeps_the_largest_of_each() -> None:
    start = usage_of({"input_tokens": 3, "cache_read_input_tokens": 50, "output_tokens": 1, "service_tier": "priority"})
    end = usage_of({"output_tokens": 9, "cache_creation_input_tokens": 20})
    assert start is not None
    assert end is not None
    found = merged(end, start)
    assert (found.prompt_tokens, found.completion_tokens) == (53, 9)
    assert (found.parts.cached, found.parts.cache_write, found.parts.service_tier) == (50, 20, "priority")


def test_a_kind_of_tokens_has_one_name_where_it_is_counted_priced_and_reported() -> None:
    assert [name for name in COUNTED if name != "searches"] == [
        name for name in AMOUNTS if name not in ("prompt", "completion", "request", "search")
    ]
    reported = [each.name for each in fields(SpendLine)]
    assert reported[-len(KINDS) :] == list(KINDS)


def test_spend_lines_of_an_older_store_are_read_by_the_names_of_now() -> None:
    assert kinds_of({"written": 3, "cache_write": 4, "cached": 5}) == {"cache_write": 7, "cached": 5}
