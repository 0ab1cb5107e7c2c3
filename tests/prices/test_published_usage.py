"""Usage objects as providers publish them, at list prices: what a provider bills, to the nano-USD.

Each case names the page its usage object is from, its dialect, and the bill worked out by hand in USD.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from backends.usage import usage_of
from router.amounts import per_million
from router.settings.price_sections import price_in
from router.types import Price, TokenRates


def price(**dollars_per_million: float) -> Price:
    return Price(**{n: int(Decimal(str(v)) * 10**9) for n, v in dollars_per_million.items()})  # type: ignore[arg-type]


GPT_4O = price(prompt=2.5, cached=1.25, completion=10)
O1 = price(prompt=15, cached=7.5, completion=60)
GPT_41 = price(prompt=2, cached=0.5, completion=8)
SONNET = price(prompt=3, cached=0.3, cache_write=3.75, cache_write_1h=6, completion=15, search=0.01)
OPUS = price(prompt=15, cached=1.5, cache_write=18.75, cache_write_1h=30, completion=75)
DEEPSEEK = price(prompt=0.28, cached=0.028, completion=0.42)
GROK = price(prompt=0.3, cached=0.075, completion=0.5)
AUDIO = price(prompt=2.5, audio_prompt=40, completion=10, audio_completion=80)
SONAR = price(prompt=1, completion=1, request=0.005)
KIMI = price(prompt=0.6, cached=0.15, completion=2.5)
OSS = price(prompt=0.15, cached=0.075, completion=0.6)
OWN = price(prompt=0.2, completion=0.4)
GEMINI = Price(
    prompt=per_million(1.25e-6),
    completion=per_million(1e-5),
    cached=per_million(1.25e-7),
    above=(
        (
            200_000,
            TokenRates(prompt=per_million(2.5e-6), completion=per_million(1.5e-5), cached=per_million(2.5e-7)),
        ),
    ),
)
FLEX = price_in(
    {
        "input_cost_per_token": 1.25e-6,
        "output_cost_per_token": 1e-5,
        "cache_read_input_token_cost": 1.25e-7,
        "input_cost_per_token_flex": 6.25e-7,
        "output_cost_per_token_flex": 5e-6,
        "cache_read_input_token_cost_flex": 6.25e-8,
        "input_cost_per_token_priority": 2.5e-6,
        "output_cost_per_token_priority": 2e-5,
        "cache_read_input_token_cost_priority": 2.5e-7,
    }
)
GEMINI_IMAGE = price(prompt=0.3, image_prompt=0.3, completion=2.5, image_completion=30)

CASES: list[tuple[str, Price | None, dict[str, Any], str | None, str]] = [
    (
        "OpenAI, prompt caching: platform.openai.com/docs/guides/prompt-caching",
        GPT_4O,
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        None,
        "0.005615",  # 86 x 2.5 + 1920 x 1.25 + 300 x 10
    ),
    (
        "OpenAI, reasoning: platform.openai.com/docs/guides/reasoning",
        O1,
        {
            "input_tokens": 75,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 1186,
            "output_tokens_details": {"reasoning_tokens": 1024},
            "total_tokens": 1261,
        },
        None,
        "0.072285",  # 75 x 15 + 1186 x 60: reasoning is a part of the output
    ),
    (
        "OpenAI, responses: platform.openai.com/docs/api-reference/responses/create",
        GPT_41,
        {
            "input_tokens": 36,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 87,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 123,
        },
        "default",
        "0.000768",
    ),
    (
        "OpenAI, audio: platform.openai.com/docs/guides/audio",
        AUDIO,
        {
            "prompt_tokens": 290,
            "completion_tokens": 167,
            "total_tokens": 457,
            "prompt_tokens_details": {"text_tokens": 17, "audio_tokens": 273, "cached_tokens": 0},
            "completion_tokens_details": {"text_tokens": 40, "audio_tokens": 127},
        },
        None,
        "0.0215225",  # 17 x 2.5 + 273 x 40 + 40 x 10 + 127 x 80
    ),
    (
        "OpenAI, flex processing: platform.openai.com/docs/guides/flex-processing",
        FLEX,
        {
            "prompt_tokens": 1000,
            "completion_tokens": 200,
            "total_tokens": 1200,
            "prompt_tokens_details": {"cached_tokens": 400},
        },
        "flex",
        "0.0014",  # 600 x .625 + 400 x .0625 + 200 x 5
    ),
    (
        "OpenAI, priority processing: platform.openai.com/docs/guides/priority-processing",
        FLEX,
        {"prompt_tokens": 1000, "completion_tokens": 200, "prompt_tokens_details": {"cached_tokens": 400}},
        "priority",
        "0.0056",
    ),
    (
        "OpenAI, predicted outputs: platform.openai.com/docs/guides/predicted-outputs",
        GPT_4O,
        {
            "prompt_tokens": 110,
            "completion_tokens": 145,
            "total_tokens": 255,
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "accepted_prediction_tokens": 55,
                "rejected_prediction_tokens": 30,
            },
        },
        None,
        "0.001725",  # rejected tokens are a part of the completion
    ),
    (
        "Anthropic, a prompt written to the cache: docs.anthropic.com, prompt caching",
        SONNET,
        {"cache_creation_input_tokens": 188086, "cache_read_input_tokens": 0, "input_tokens": 21, "output_tokens": 393},
        None,
        "0.7112805",  # 188086 x 3.75 + 21 x 3 + 393 x 15
    ),
    (
        "Anthropic, the same prompt read from it",
        SONNET,
        {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 188086, "input_tokens": 21, "output_tokens": 393},
        None,
        "0.0623838",
    ),
    (
        "Anthropic, two lifetimes: docs.anthropic.com, 1-hour cache duration",
        OPUS,
        {
            "input_tokens": 2048,
            "cache_read_input_tokens": 1800,
            "cache_creation_input_tokens": 248,
            "output_tokens": 503,
            "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
        },
        None,
        "0.07692",  # 2048 x 15 + 1800 x 1.5 + 148 x 18.75 + 100 x 30 + 503 x 75
    ),
    (
        "Anthropic, web search: docs.anthropic.com, web search tool",
        SONNET,
        {
            "input_tokens": 105,
            "output_tokens": 6039,
            "cache_read_input_tokens": 7123,
            "cache_creation_input_tokens": 7345,
            "server_tool_use": {"web_search_requests": 1},
        },
        None,
        "0.13058065",
    ),
    (
        "Anthropic, standard service tier: docs.anthropic.com, service tiers",
        SONNET,
        {
            "input_tokens": 410,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 585,
            "service_tier": "standard",
        },
        None,
        "0.010005",
    ),
    (
        "Anthropic through litellm: docs.litellm.ai/docs/completion/prompt_caching",
        SONNET,
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1000, "cache_creation_tokens": 920},
            "cache_creation_input_tokens": 920,
            "cache_read_input_tokens": 1000,
        },
        None,
        "0.008508",  # 86 x 3 + 1000 x .3 + 920 x 3.75 + 300 x 15
    ),
    (
        "DeepSeek, context caching: api-docs.deepseek.com/guides/kv_cache",
        DEEPSEEK,
        {
            "prompt_tokens": 1500,
            "completion_tokens": 100,
            "total_tokens": 1600,
            "prompt_cache_hit_tokens": 1472,
            "prompt_cache_miss_tokens": 28,
        },
        None,
        "0.000091056",
    ),
    (
        "xAI, reasoning beside the completion: docs.x.ai/docs/guides/reasoning",
        GROK,
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "prompt_tokens_details": {"text_tokens": 32, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 6},
            "completion_tokens_details": {"reasoning_tokens": 94, "audio_tokens": 0},
        },
        None,
        "0.00005975",  # 26 x .3 + 6 x .075 + (9 + 94) x .5
    ),
    (
        "Gemini through litellm, below 200,000 tokens: ai.google.dev/gemini-api/docs/caching",
        GEMINI,
        {
            "prompt_tokens": 4641,
            "completion_tokens": 1817,
            "total_tokens": 6458,
            "prompt_tokens_details": {"cached_tokens": 4608, "text_tokens": 33},
            "completion_tokens_details": {"reasoning_tokens": 1200, "text_tokens": 617},
        },
        None,
        "0.01878725",
    ),
    (
        "Gemini through litellm, above 200,000 tokens: ai.google.dev/gemini-api/docs/pricing",
        GEMINI,
        {
            "prompt_tokens": 250_000,
            "completion_tokens": 1_000,
            "prompt_tokens_details": {"cached_tokens": 200_000},
        },
        None,
        "0.19",  # the whole request at the higher rates
    ),
    (
        "Gemini through litellm, an image: docs.litellm.ai/docs/image_generation",
        GEMINI_IMAGE,
        {
            "prompt_tokens": 270,
            "completion_tokens": 1315,
            "prompt_tokens_details": {"text_tokens": 12, "image_tokens": 258},
            "completion_tokens_details": {"text_tokens": 25, "image_tokens": 1290},
        },
        None,
        "0.0388435",
    ),
    (
        "Perplexity, a fee for each request: docs.perplexity.ai/api-reference/chat-completions",
        SONAR,
        {"prompt_tokens": 14, "completion_tokens": 70, "total_tokens": 84, "search_context_size": "low"},
        None,
        "0.005084",
    ),
    (
        "Moonshot, cached tokens beside the counts: platform.moonshot.ai/docs/api/chat",
        KIMI,
        {"prompt_tokens": 2000, "completion_tokens": 50, "total_tokens": 2050, "cached_tokens": 1536},
        None,
        "0.0006338",
    ),
    (
        "Groq, prompt caching: console.groq.com/docs/prompt-caching",
        OSS,
        {
            "queue_time": 0.026959759,
            "prompt_tokens": 4641,
            "prompt_time": 0.009995497,
            "completion_tokens": 1817,
            "completion_time": 5.57691751,
            "total_tokens": 6458,
            "prompt_tokens_details": {"cached_tokens": 4608},
        },
        None,
        "0.00144075",
    ),
    (
        "OpenRouter, written and read: openrouter.ai/docs/use-cases/usage-accounting",
        SONNET,
        {
            "prompt_tokens": 10339,
            "completion_tokens": 60,
            "total_tokens": 10399,
            "prompt_tokens_details": {"cached_tokens": 10318, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
            "cost": 0.00410,
        },
        None,
        "0.0040584",
    ),
    (
        "vLLM with --enable-prompt-tokens-details: docs.vllm.ai, automatic prefix caching",
        OWN,
        {
            "prompt_tokens": 1200,
            "completion_tokens": 64,
            "total_tokens": 1264,
            "prompt_tokens_details": {"cached_tokens": 1184},
        },
        None,
        "0.0002656",  # a machine of one's own lists no price for what is cached
    ),
]


@pytest.mark.parametrize(("source", "listed", "said", "tier", "bill"), CASES, ids=[case[0] for case in CASES])
def test_a_published_usage_object_comes_out_to_the_nano_usd(
    source: str, listed: Price | None, said: dict[str, Any], tier: str | None, bill: str
) -> None:
    usage = usage_of(said, tier)
    assert usage is not None
    assert listed is not None
    cost = listed.of(usage.prompt_tokens or 0, usage.completion_tokens or 0, usage.parts)
    assert Decimal(cost) == -(-(Decimal(bill) * 10**9) // 1), source


@pytest.mark.parametrize(("source", "listed", "said", "tier", "bill"), CASES, ids=[case[0] for case in CASES])
def test_the_most_expensive_reading_of_the_same_tokens_is_never_below(
    source: str, listed: Price | None, said: dict[str, Any], tier: str | None, bill: str
) -> None:
    usage = usage_of(said, tier)
    assert usage is not None
    assert listed is not None
    worst = listed.worst(usage.prompt_tokens or 0, usage.completion_tokens or 0, usage.parts.searches)
    assert worst >= Decimal(bill) * 10**9, source
