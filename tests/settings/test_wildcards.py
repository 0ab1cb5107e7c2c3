"""`openai/*` in a settings file: one entry for every model of a provider."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.discovery import Found
from router.errors import NotFound
from router.gateway.wildcards import MOST_UNLISTED, Wildcards
from router.settings import Settings, build, describe
from router.settings.listed import Listed, priced_under
from router.settings.source import parse
from router.types import NanoUsd, Price
from router.wildcards import captured, nearest
from tests.settings.conftest import Complain, Read

FILE = """
model_list:
- model_name: openai/*
  litellm_params: {model: openai/*, api_key: k}
- model_name: mine/*
  litellm_params: {model: hosted_vllm/*, api_base: 'http://10.0.0.1/v1'}
- model_name: gpt-*
  litellm_params: {model: acme/big, api_key: k}
"""
LISTED = {
    "openai/gpt-4o": Listed(Price(NanoUsd(5), NanoUsd(6)), 128_000, 9, "chat", frozenset({"tools", "vision"})),
    "openai/embed": Listed(Price(NanoUsd(5), NanoUsd(0)), 8_000, None, "embedding"),
    "openai/sora": Listed(Price(NanoUsd(5), NanoUsd(0)), 8_000, None, "video_generation"),
    "openai/free": Listed(None, 8_000, None, "chat"),
    "acme/big": Listed(Price(NanoUsd(7), NanoUsd(8)), 200_000, 8_000),
}


def wild(settings: Settings, reported: tuple[Found, ...] = (), under: tuple[str, ...] = ()) -> Wildcards:
    return Wildcards(settings, lambda _: reported, lambda _: under)


@pytest.mark.parametrize(
    ("pattern", "name", "star"),
    [
        ("openai/*", "openai/gpt-4o", "gpt-4o"),
        ("*", "x", "x"),
        ("a*z", "abz", "b"),
        ("a*a", "a", None),
        ("a", "a", None),
    ],
)
def test_a_star_stands_for_what_is_between(pattern: str, name: str, star: str | None) -> None:
    assert captured(pattern, name) == star


def test_the_nearest_pattern_is_the_one_that_says_most() -> None:
    assert nearest(["*", "openai/*", "openai/gpt-*"], "openai/gpt-4o") == "openai/gpt-*"


def test_a_name_under_a_wildcard_is_passed_to_the_provider_and_priced_by_the_map(read: Read) -> None:
    model = wild(read(FILE, listed=LISTED)).find("openai/gpt-4o")
    assert model is not None
    assert (model.name, model.upstream, model.backend) == ("openai/gpt-4o", "openai/gpt-4o", "openai/*")
    assert (model.price, model.context_tokens) == (Price(NanoUsd(5), NanoUsd(6)), 128_000)
    assert model.capabilities == {"chat", "logprobs", "messages", "responses", "tools", "vision"}


def test_a_wildcard_is_no_candidate_and_a_pattern_with_one_model_is(read: Read) -> None:
    settings = read(FILE, listed=LISTED)
    assert [each.name for each in settings.candidates()] == ["gpt-*"]
    found = wild(settings)
    assert [found.meaning(name) for name in ("openai/x", "gpt-9", "other")] == ["openai/x", "gpt-*", None]
    assert "wildcard  openai/*: openai/* on openai/*" in describe(settings)


@pytest.mark.parametrize("name", ["openai/nobody-knows", "openai/free"])
def test_a_name_that_nothing_prices_is_refused_with_what_to_add(read: Read, name: str) -> None:
    with pytest.raises(NotFound, match=f"nothing prices '{name}'.*give '{name}' an entry of its own with a price"):
        wild(read(FILE, listed=LISTED)).find(name)


def test_a_price_of_the_entry_holds_for_every_name(read: Read) -> None:
    info = "  model_info: {input_cost_per_token: 1e-6, output_cost_per_token: 2e-6}\n- model_name: mine/*"
    found = wild(read(FILE.replace("- model_name: mine/*", info), listed=LISTED))
    for name in ("openai/gpt-4o", "openai/nobody-knows"):
        assert found.find(name).price == Price(NanoUsd(10**9), NanoUsd(2 * 10**9))  # type: ignore[union-attr]


def test_a_server_of_ones_own_is_priced_by_the_map_else_by_the_assumed_price(read: Read) -> None:
    settings = read(FILE, listed=LISTED | {"gpt-4o": LISTED["openai/gpt-4o"]})
    found = wild(settings, reported=(Found("qwen", context_tokens=32_000),))
    qwen, listed = found.find("mine/qwen"), found.find("mine/gpt-4o")
    assert qwen is not None
    assert listed is not None
    assert (qwen.upstream, qwen.price.prompt, qwen.context_tokens) == ("qwen", 10**9, 32_000)
    assert listed.price == LISTED["openai/gpt-4o"].price
    assert any("model mine/*: no price in the file, 1 USD" in note for note in settings.notes)
    refined = read(FILE + "pointsman: {default_price: {prompt: 2, completion: 3}}", listed=LISTED)
    assert wild(refined).find("openai/nobody-knows").price.prompt == 2 * 10**9  # type: ignore[union-attr]


def test_what_is_no_model_of_text_can_do_nothing_here(read: Read) -> None:
    found = wild(read(FILE, listed=LISTED), under=tuple(LISTED))
    assert found.find("openai/sora").capabilities == frozenset()  # type: ignore[union-attr]
    assert found.find("openai/embed").capabilities == {"embeddings"}  # type: ignore[union-attr]
    assert [each.name for each in found.listed()] == ["openai/gpt-4o", "openai/embed"]


def test_names_that_no_list_has_are_taken_on_trust_so_many_and_no_more(read: Read) -> None:
    found = wild(read(FILE, listed=LISTED))
    for number in range(MOST_UNLISTED):
        found.find(f"mine/{number}")
    with pytest.raises(NotFound, match="names were asked for that no list has"):
        found.find("mine/one-more")
    assert found.find("openai/gpt-4o") is not None
    assert found.find("mine/7") is not None


def test_a_budget_of_a_wildcard_and_of_its_provider_holds_for_all_its_models_together(read: Read) -> None:
    text = FILE.replace(
        "api_key: k}\n- model_name: mine/*",
        "api_key: k, max_budget: 2, budget_duration: 1h, rpm: 9}\n- model_name: mine/*",
    )
    text += "router_settings: {provider_budget_config: {openai: {budget_limit: 20, time_period: 1d}}}"
    found = wild(read(text, listed=LISTED | {"openai/b": LISTED["openai/gpt-4o"]}))
    for name in ("openai/gpt-4o", "openai/b"):
        model = found.find(name)
        assert model is not None
        assert [each.scope for each in model.budgets] == ["model:openai/*", "models:openai"]
        assert [each.scope for each in model.limits] == ["model:openai/*"]


def test_a_providers_budget_beside_a_wildcard_of_every_provider_stops_the_start(complain: Complain) -> None:
    text = "model_list: [{model_name: '*', litellm_params: {model: '*'}}]\n"
    text += "router_settings: {provider_budget_config: {openai: {budget_limit: 20, time_period: 1d}}}"
    assert complain(text).startswith(
        "router_settings.provider_budget_config.openai: cannot be kept beside model_list[0]"
    )


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("{model_name: a, litellm_params: {model: openai/*}}", "write model_name: openai/*"),
        ("{model_name: a/*/b/*, litellm_params: {model: openai/*}}", "several stars"),
        ("{model_name: own/*, litellm_params: {model: own/*}}", "no provider 'own'"),
    ],
)
def test_a_wildcard_that_cannot_be_followed_leaves_the_others_running(read: Read, entry: str, reason: str) -> None:
    settings = read(f"{FILE}- {entry}", listed=LISTED)
    assert reason in settings.unroutable[0]
    assert len(settings.models) == 3


def test_another_model_under_the_same_wildcard_is_left_out_and_named(read: Read) -> None:
    settings = read(FILE + "- {model_name: openai/*, litellm_params: {model: anthropic/*}}", listed=LISTED)
    assert "model_list[3]: left out, since model_list[0] gives 'openai/*' another model" in settings.notes


def test_chains_and_aliases_may_name_what_stands_under_a_wildcard(read: Read) -> None:
    chains = "fallbacks: [{openai/gpt-4o: [mine/qwen, gone]}, {'*': [gpt-*]}]"
    more = f"router_settings: {{{chains}, model_group_alias: {{a: openai/b}}}}"
    settings = read(FILE + more, listed=LISTED)
    assert settings.fallbacks["openai/gpt-4o"] == ("mine/qwen",)
    assert settings.fallbacks["*"] == ("gpt-*",)
    assert settings.model_map == {"a": "openai/b"}
    assert any("gone cannot be called here" in note for note in settings.notes)


def test_a_key_may_be_given_a_wildcard(read: Read) -> None:
    own = "pointsman: {tenants: {t: {allowed_models: [openai/gpt-4o, mine/*]}}}"
    assert read(FILE + own, listed=LISTED).tenants["t"].allowed_models == frozenset({"openai/gpt-4o", "mine/*"})


def test_the_map_as_installed_names_the_models_of_a_provider_and_of_all() -> None:
    settings = build(parse("model_list: [{model_name: 'vertex_ai/*', litellm_params: {model: 'vertex_ai/*'}}]"), {})
    names = {each.name for each in Wildcards(settings, lambda _: (), priced_under).listed()}
    assert any(name.startswith("vertex_ai/gemini-") for name in names)
    assert any(name.startswith("vertex_ai/claude-") for name in names)
    assert {"gpt-4o", "claude-haiku-4-5"} <= set(priced_under(""))


def test_a_name_whose_own_entry_cannot_be_called_stands_under_no_wildcard(read: Read) -> None:
    text = FILE + "- {model_name: openai/gpt-4, litellm_params: {model: acme/unpriced}}\n"
    wildcards = wild(read(text, listed=LISTED), under=("openai/gpt-4", "openai/gpt-4o"))
    assert wildcards.find("openai/gpt-4") is None
    assert wildcards.meaning("openai/gpt-4") is None
    assert [each.name for each in wildcards.listed()] == ["openai/gpt-4o"]


def test_what_a_provider_has_retired_is_refused_under_a_wildcard_with_the_line_to_add(read: Read) -> None:
    retiring = {"openai/gpt-4o": replace(LISTED["openai/gpt-4o"], retires="2026-03-01")}
    settings = read(FILE, listed={**LISTED, **retiring})

    def on(day: str) -> Wildcards:
        return Wildcards(settings, lambda _: (), lambda _: ("openai/gpt-4o",), lambda: day)

    assert on("2026-02-28").find("openai/gpt-4o")
    with pytest.raises(
        NotFound, match=r"retired on 2026-03-01 .* an entry of its own with model_info.deprecation_date"
    ):
        on("2026-03-01").find("openai/gpt-4o")
    assert on("2026-03-01").listed() == []


def test_what_a_provider_has_retired_goes_on_at_ones_own_servers(read: Read) -> None:
    retired = {"gpt-4o": replace(LISTED["openai/gpt-4o"], retires="2026-03-01")}
    assert wild(read(FILE, listed={**LISTED, **retired})).find("mine/gpt-4o")
