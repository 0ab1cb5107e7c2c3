"""More usage objects that were published, most of them with the provider's own bill, each to the nano-USD.

What was odd about each is in its name: tokens beside the counts, fees for tools, an hour in a cache.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from backends.types import MOST_TOKENS
from backends.usage import usage_of
from router.types import Price
from tests.prices.test_published_usage import GEMINI, SONNET, price

GPT_5 = price(prompt=1.25, cached=0.125, completion=10)
GROK_41 = price(prompt=0.2, cached=0.05, completion=0.5)
GROK_43 = price(prompt=1.25, cached=0.2, completion=2.5, search=0.005)
OPUS = price(prompt=5, cached=0.5, cache_write=6.25, cache_write_1h=10, completion=25)
SONAR = price(prompt=2, completion=8, reasoning=3, search=0.005)
VOXTRAL = price(prompt=0.1, audio_prompt=4, completion=0.4)
MISTRAL = price(prompt=0.4, completion=2)

CASES: list[tuple[str, Price, dict[str, Any], str]] = [
    (
        "Gemini's own OpenAI endpoint, thoughts in the total alone: discuss.ai.google.dev/t/98760",
        GEMINI,
        {"completion_tokens": 102, "prompt_tokens": 758, "total_tokens": 1725},
        "0.0106175",  # 758 x 1.25 + (102 + 865) x 10
    ),
    (
        "GPT-5, low effort, mostly cached: discuss.ai.google.dev/t/98760",
        GPT_5,
        {
            "prompt_tokens": 1486,
            "completion_tokens": 651,
            "total_tokens": 2137,
            "prompt_tokens_details": {"cached_tokens": 1408, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 512,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "0.0067835",  # 78 x 1.25 + 1408 x .125 + 651 x 10
    ),
    (
        "xAI through a reseller, billed 0.000129: infron.ai/docs/billing-apis/usage-and-cost",
        GROK_41,
        {
            "completion_tokens": 241,
            "completion_tokens_details": {"audio_tokens": 0, "image_tokens": 0, "reasoning_tokens": 204},
            "prompt_tokens": 163,
            "prompt_tokens_details": {
                "audio_tokens": 0,
                "cache_write_tokens": 0,
                "cached_tokens": 162,
                "video_tokens": 0,
            },
            "total_tokens": 404,
        },
        "0.0001288",
    ),
    (
        "xAI, Responses, billed 300371500 ticks of 1e-10 USD: docs.x.ai/developers/cost-tracking",
        GROK_43,
        {
            "input_tokens": 21035,
            "input_tokens_details": {"cached_tokens": 192},
            "output_tokens": 1578,
            "output_tokens_details": {"reasoning_tokens": 1239},
            "total_tokens": 22613,
            "num_sources_used": 0,
            "num_server_side_tools_used": 0,
            "cost_in_usd_ticks": 300371500,
            "context_details": {"input_tokens": 21035, "output_tokens": 1579},
        },
        "0.03003715",
    ),
    (
        "xAI, four searches of its own, billed 336556500 ticks",
        GROK_43,
        {
            "input_tokens": 8639,
            "input_tokens_details": {"cached_tokens": 3072},
            "output_tokens": 2433,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 11072,
            "num_sources_used": 0,
            "num_server_side_tools_used": 4,
            "cost_in_usd_ticks": 336556500,
            "server_side_tool_usage_details": {"web_search_calls": 0, "x_search_calls": 4, "mcp_calls": 0},
        },
        "0.03365565",
    ),
    (
        "Mistral, audio beside the prompt: docs.mistral.ai, Voxtral",
        VOXTRAL,
        {
            "prompt_audio_seconds": 0,
            "prompt_tokens": 6,
            "completion_tokens": 2,
            "total_tokens": 383,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 375},
        },
        "0.0015014",  # 6 x .1 + 375 x 4 + 2 x .4
    ),
    (
        "Mistral, seconds of audio beside the tokens",
        MISTRAL,
        {"prompt_tokens": 24, "completion_tokens": 27, "total_tokens": 51, "prompt_audio_seconds": 10},
        "0.0000636",
    ),
    (
        "Perplexity, deep research: thoughts and citations beside the total: docs.perplexity.ai, pricing",
        SONAR,
        {
            "prompt_tokens": 108,
            "completion_tokens": 3256,
            "total_tokens": 3364,
            "citation_tokens": 7299,
            "num_search_queries": 74,
            "reasoning_tokens": 73248,
        },
        "0.630606",  # (108 + 7299) x 2 + 3256 x 8 + 73248 x 3 + 74 x 5000
    ),
    (
        "Anthropic, a page fetched at no fee: docs.anthropic.com, web fetch tool",
        SONNET,
        {
            "input_tokens": 25039,
            "output_tokens": 931,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "server_tool_use": {"web_fetch_requests": 1},
        },
        "0.089082",
    ),
    (
        "Anthropic, an hour in the cache, reported as 0.195664 USD by its command line",
        OPUS,
        {
            "input_tokens": 2,
            "output_tokens": 7,
            "cache_read_input_tokens": 15738,
            "cache_creation_input_tokens": 18761,
            "cache_creation": {"ephemeral_1h_input_tokens": 18761, "ephemeral_5m_input_tokens": 0},
        },
        "0.195664",
    ),
    (
        "Anthropic, thoughts among the details: docs.anthropic.com, extended thinking",
        OPUS,
        {
            "input_tokens": 2,
            "cache_creation_input_tokens": 43331,
            "cache_read_input_tokens": 0,
            "output_tokens": 1027,
            "output_tokens_details": {"thinking_tokens": 864},
            "server_tool_use": {"web_search_requests": 0},
            "cache_creation": {"ephemeral_1h_input_tokens": 43331, "ephemeral_5m_input_tokens": 0},
            "service_tier": "standard",
            "speed": "standard",
        },
        "0.458995",
    ),
    (
        "Bedrock's cacheDetails as litellm hands them on: docs.aws.amazon.com, API_runtime_CacheDetail",
        OPUS,
        {
            "prompt_tokens": 1_000_100,
            "completion_tokens": 5,
            "total_tokens": 1_000_105,
            "prompt_tokens_details": {
                "cached_tokens": 0,
                "cache_creation_tokens": 1_000_000,
                "cache_creation_token_details": {
                    "ephemeral_5m_input_tokens": 600_000,
                    "ephemeral_1h_input_tokens": 400_000,
                },
            },
            "cache_creation_input_tokens": 1_000_000,
            "cache_read_input_tokens": 0,
        },
        "7.750625",  # 100 x 5 + 600,000 x 6.25 + 400,000 x 10 + 5 x 25
    ),
]


@pytest.mark.parametrize(("source", "listed", "said", "bill"), CASES, ids=[case[0] for case in CASES])
def test_a_usage_object_with_its_bill_comes_out_to_the_nano_usd(
    source: str, listed: Price, said: dict[str, Any], bill: str
) -> None:
    usage = usage_of(said)
    assert usage is not None
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    assert Decimal(listed.of(prompt, completion, usage.parts)) == -(-(Decimal(bill) * 10**9) // 1), source
    assert listed.worst(prompt, completion, usage.parts.searches) >= Decimal(bill) * 10**9, source


@pytest.mark.parametrize("total", [0, 5, 14, 15, -1, 2**41, "many", None, 15.0])
def test_a_total_that_is_no_more_than_both_sides_or_no_count_adds_nothing(total: object) -> None:
    usage = usage_of({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": total})
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.unseen_completion_tokens) == (10, 5, 0)


def test_an_embedding_has_no_completion_and_a_total_adds_none() -> None:
    usage = usage_of({"prompt_tokens": 10, "total_tokens": 12})
    assert usage is not None
    assert usage.completion_tokens is None


def test_what_is_added_is_never_more_than_a_count_can_be() -> None:
    usage = usage_of(
        {"prompt_tokens": MOST_TOKENS, "completion_tokens": MOST_TOKENS, "reasoning_tokens": MOST_TOKENS}
        | {"citation_tokens": MOST_TOKENS, "total_tokens": MOST_TOKENS}
    )
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (MOST_TOKENS, MOST_TOKENS)
