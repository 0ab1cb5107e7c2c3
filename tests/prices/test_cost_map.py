"""litellm's cost map as it is installed: each of its prices is read, or it is named here why none of it is charged."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest

from backends import cost_map
from backends.types import TokenParts
from backends.usage import merged, usage_of
from router.settings.listed import cost_map as listed
from router.settings.price_sections import FACTOR, is_price
from router.types import NanoUsd, Price

pytest.importorskip("litellm")
LOOKS = re.compile(r"cost|pric|usd|fee|multiplier|provider_specific_entry")
READ = {  # by another way than a price of tokens
    "search_context_cost_per_query",
    "google_maps_grounding_cost_per_query",
    "tiered_pricing",
    "provider_specific_entry",
    "regional_endpoint_uplift_multiplier",
    "regional_processing_uplift_multiplier_eu",
    "regional_processing_uplift_multiplier_us",
    "fedramp_uplift_multiplier",
}
NOT_READ = {  # and why nobody is charged less than his provider charges, where a gateway of texts calls it
    r"(cache_read|cache_creation)_input_(audio|image)_token_cost.*": "cached sound and images cost their full price",
    r"explicit_cache_read_input_token_cost": "the same as cached tokens that nobody asked to keep, which cost more",
    r"off_peak_pricing": "the price of the other hours is more expensive",
    r"citation_cost_per_token": "citations are read as tokens of the prompt, at its price",
    r".*_decisions": "of another API",
    r"(in|out)put_cost_per_(video_)?token_cost": "none",
    r"(in|out)put_dbu_cost_per_token": "the same price in a provider's own money",
    r"(in|out)put_cost_per_video_token.*": "no API here has video",
    r"(in|out)put_cost_per_(image|pixel|character|second|text_message|query)(_.*)?": "of images, speech and search",
    r"(in|out)put_cost_per_(audio|video)_per_second.*": "of speech and video",
    r"cost_per_second": "of reserved machines",
    r"(annotation|ocr)_cost_per_.*": "of OCR",
    r"(code_interpreter|file_search|vector_store|guardrail)_cost_per_.*": "tools that a request names as a fee",
    r"computer_use_(in|out)put_cost_per_1k_tokens": "the map's own documentation",
    r"off_peak.*": "cheaper",
}


def entries() -> dict[str, dict[str, Any]]:
    return {name: dict(entry) for name, entry in cost_map._entries(cost_map._PRICES).items()}


def test_each_price_of_the_installed_map_is_read_or_named_here() -> None:
    keys = {key for entry in entries().values() for key in entry if LOOKS.search(key)}
    unknown = sorted(
        key for key in keys - READ if not is_price(key) and not any(re.fullmatch(pattern, key) for pattern in NOT_READ)
    )
    assert not unknown, f"prices of litellm's map that nobody reads: {', '.join(unknown)}"
    assert len(keys) > 100


def test_no_factor_of_the_map_is_passed_over() -> None:
    """What a provider's own part of an entry says is a factor of its price, or a flag of another API."""
    said = {
        key
        for name, entry in entries().items()
        if entry.get("mode") in ("chat", "responses", "completion")
        for key in entry.get("provider_specific_entry") or {}
    }
    assert said == set(cost_map._FACTORS)


def test_every_model_of_text_with_a_price_of_tokens_has_a_price_here() -> None:
    """Also those that the map prices by the length of the prompt alone."""
    texts = [
        name
        for name, entry in entries().items()
        if entry.get("mode") in ("chat", "responses")
        and ({"input_cost_per_token", "output_cost_per_token"} <= entry.keys() or "tiered_pricing" in entry)
    ]
    unpriced = [name for name in texts if (found := listed(name)) is not None and found.price is None]
    assert len(texts) > 3000
    assert not unpriced


@pytest.mark.parametrize(
    ("model", "tokens", "usd"),
    [
        ("dashscope/qwen-plus-latest", 256_000, "0.1024"),  # x 0.4
        ("dashscope/qwen-plus-latest", 256_001, "0.3072012"),  # x 1.2
        ("gemini/gemini-2.5-pro", 200_000, "0.25"),
        ("gemini/gemini-2.5-pro", 200_001, "0.5000025"),
    ],
)
def test_a_longer_prompt_has_its_own_price(model: str, tokens: int, usd: str) -> None:
    found = listed(model)
    assert found is not None
    assert found.price is not None
    assert Decimal(found.price.of(tokens, 0)) == Decimal(usd) * 10**9


OPUS_USAGE = {
    "input_tokens": 1_000,
    "cache_read_input_tokens": 4_000,
    "cache_creation_input_tokens": 2_000,
    "output_tokens": 500,
    "service_tier": "standard",
}
OPUS = 1_000 * Decimal(5) + 4_000 * Decimal("0.5") + 2_000 * Decimal("6.25") + 500 * Decimal(25)  # micro-USD
GPT = {"prompt_tokens": 10_000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 4_000}}
LONG = {"prompt_tokens": 250_000, "completion_tokens": 1_000, "prompt_tokens_details": {"cached_tokens": 200_000}}
CASES: list[tuple[str, str, dict[str, Any], str, Decimal]] = [
    ("platform.claude.com, pricing", "anthropic/claude-opus-4-8", {}, "", OPUS),
    ("data residency: 1.1 times all tokens", "anthropic/claude-opus-4-8", {"inference_geo": "us"}, "", OPUS * 11 / 10),
    ("global routing", "anthropic/claude-opus-4-8", {"inference_geo": "global"}, "", OPUS),
    ("not available", "anthropic/claude-opus-4-8", {"inference_geo": "not_available"}, "", OPUS),
    ("fast mode: caching multiplies its price", "anthropic/claude-opus-4-8", {"speed": "fast"}, "", OPUS * 2),
    ("standard speed", "anthropic/claude-opus-4-8", {"speed": "standard"}, "", OPUS),
    (
        "both stack: platform.claude.com, fast mode",
        "anthropic/claude-opus-4-8",
        {"speed": "fast", "inference_geo": "us"},
        "",
        OPUS * 22 / 10,
    ),
    ("batches: half of it", "anthropic/claude-opus-4-8", {"service_tier": "batch"}, "", OPUS / 2),
    ("a geography that nobody lists", "anthropic/claude-opus-4-8", {"inference_geo": "mars"}, "", OPUS),
    ("fast in a geography that nobody lists", "anthropic/claude-opus-4-8", {"speed": "fast", "inference_geo": "mars"},
     "", OPUS * 2),
    ("platform.openai.com, pricing", "openai/gpt-5", GPT, "default", Decimal(6_000 * 1.25 + 4_000 * 0.125 + 1_000)),
    ("flex processing", "openai/gpt-5", GPT, "flex", Decimal((6_000 * 1.25 + 4_000 * 0.125 + 1_000) / 2)),
    ("priority processing", "openai/gpt-5", GPT, "priority", Decimal((6_000 * 1.25 + 4_000 * 0.125 + 1_000) * 2)),
    ("above 200k tokens, all of it", "gemini/gemini-2.5-pro", LONG, "", Decimal(50_000 * 2.5 + 65_000)),
    (
        "above 200k tokens, priority",
        "gemini/gemini-2.5-pro",
        LONG,
        "priority",
        Decimal(50_000 * 4.5 + 200_000 * 0.45 + 27_000),
    ),
    (
        "above 200k tokens, flex",
        "gemini/gemini-2.5-pro",
        LONG,
        "flex",
        Decimal(50_000 * 1.25 + 200_000 * 0.25 + 7_500),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("source", "model", "said", "tier", "micro_usd"), CASES, ids=[case[0] for case in CASES])
def test_a_usage_object_at_the_maps_own_price_comes_out_to_the_nano_usd(
    source: str, model: str, said: dict[str, Any], tier: str, micro_usd: Decimal
) -> None:
    found = listed(model)
    usage = usage_of({**OPUS_USAGE, **said} if "claude" in model else said, tier)
    assert found is not None
    assert found.price is not None
    assert usage is not None
    bill = found.price.of(usage.prompt_tokens or 0, usage.completion_tokens or 0, usage.parts)
    assert Decimal(bill) == round(micro_usd * 1000), source
    assert found.price.worst(usage.prompt_tokens or 0, usage.completion_tokens or 0) >= bill


@pytest.mark.parametrize(
    ("model", "url", "params", "times"),
    [
        ("openai/gpt-6-astra", "https://api.openai.com/v1", {}, 1),
        ("openai/gpt-6-astra", "https://eu.api.openai.com/v1", {}, Decimal("1.1")),
        ("openai/gpt-6-astra", None, {"api_base": "https://us.api.openai.com/v1"}, Decimal("1.1")),
        ("openai/gpt-6-astra", "https://eu.api.openai.com.evil.example/v1", {}, 1),
        ("openai/gpt-6-astra", "http://[::1", {}, 1),
        ("vertex_ai/gemini-3.5-flash", None, {"vertex_location": "global"}, 1),
        ("vertex_ai/gemini-3.5-flash", None, {"vertex_location": "europe-west1"}, Decimal("1.1")),
        ("vertex_ai/gemini-3.5-flash", None, {}, Decimal("1.1")),  # not said: the more expensive reading
    ],
)
def test_an_endpoint_of_a_region_takes_its_premium(
    model: str, url: str | None, params: dict[str, object], times: Decimal
) -> None:
    found = listed(model)
    assert found is not None
    assert found.price is not None
    at = found.price_at([("https://api.openai.com", {"vertex_location": "global"}), (url, params)])
    assert at is not None
    for plain, there in ((found.price, at), *((tier, at.tiers[n]) for n, tier in found.price.tiers.items())):
        assert [Decimal(there.prompt), Decimal(there.completion)] == [plain.prompt * times, plain.completion * times]
        assert there.search == plain.search


def test_tiers_of_a_stream_are_put_together_and_nothing_else_is_believed() -> None:
    start = usage_of({"input_tokens": 3, "output_tokens": 1, "inference_geo": "us", "service_tier": "standard"})
    end = usage_of({"output_tokens": 9, "speed": "fast"})
    assert start is not None
    assert end is not None
    assert merged(end, start).parts.service_tier == merged(start, end).parts.service_tier == "fast+us"
    for odd in (5, None, ["fast"], {"a": 1}, "x" * 33, "a b", "fast+us", "\u0000", ""):
        usage = usage_of({"input_tokens": 3, "output_tokens": 1, "speed": odd, "inference_geo": odd}, odd)
        assert usage is not None
        assert usage.parts.service_tier == ""


def test_of_tiers_that_have_no_price_together_the_most_expensive_counts() -> None:
    fast, us = Price(NanoUsd(2 * 10**6), NanoUsd(2 * 10**6)), Price(NanoUsd(10**6 + 10**5), NanoUsd(10**6 + 10**5))
    price = Price(NanoUsd(10**6), NanoUsd(10**6), tiers={"fast": fast, "us": us})
    assert price.of(10, 0, TokenParts(service_tier="fast+us")) == 20
    assert price.of(10, 0, TokenParts(service_tier="mars+us")) == 11
    assert price.of(10, 0, TokenParts(service_tier="mars")) == 10


@pytest.mark.parametrize("by", [-1, 0, 0.5, 1e9, True, "2", None, float("inf"), float("nan"), [2]])
def test_a_factor_that_is_none_is_left_out(by: object) -> None:
    entry = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6, "provider_specific_entry": {"us": by}}
    assert not [key for key in cost_map._listing(entry).costs if key.startswith(FACTOR)]


@pytest.mark.parametrize(
    "ranges", [5, "x", [5], [{}], [{"range": "0"}], [{"range": []}], [{"range": [-5]}], [[1]], None]
)
def test_ranges_that_are_none_are_no_error(ranges: object) -> None:
    cost_map._listing({"tiered_pricing": ranges})
