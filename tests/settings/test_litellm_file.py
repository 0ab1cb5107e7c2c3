"""LiteLLM's own file starts the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.cost_map import _listing
from router.catalogue.rules import options_of
from router.errors import SettingsError
from router.settings import build, describe, load
from router.settings.engine_sections import VllmSection
from router.settings.listed import Listed
from router.settings.source import parse
from router.types import NanoUsd, Price
from tests.settings.conftest import Complain, Read

FILE = """
model_list:
- model_name: small
  litellm_params: {model: hosted_vllm/org/m, api_base: http://10.0.0.1:8000/v1, api_key: os.environ/KEY, rpm: 3}
- model_name: large
  litellm_params: {model: acme/big, api_key: k, api_version: v1}
- model_name: small
  litellm_params: {model: openai/org/m, api_base: http://10.0.0.2:8000/v1}
"""
LISTED = {"acme/big": Listed(Price(7, 8), 200_000, 8_000)}  # type: ignore[arg-type]
ENV = {"KEY": "sk-engine", "MASTER": "sk-master-1"}


def test_entries_of_one_name_become_replicas_of_one_model(read: Read) -> None:
    settings = read(FILE, env=ENV, listed=LISTED)
    small = settings.backends["small"]
    assert small.kind == "vllm"
    assert [each.url for each in small.replicas] == ["http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1"]
    assert small.replicas[0].api_key is not None
    assert small.replicas[0].api_key.get_secret_value() == "sk-engine"
    assert [(each.name, each.upstream) for each in settings.candidates()] == [("small", "org/m"), ("large", "acme/big")]


def test_other_providers_go_through_litellm_with_their_parameters(read: Read) -> None:
    settings = read(FILE, env=ENV, listed=LISTED)
    large = settings.backends["large"]
    assert large.kind == "litellm"
    assert large.replicas[0].params == {"api_version": "v1"}
    assert settings.candidates()[1].price == LISTED["acme/big"].price


def test_replicas_may_know_the_model_by_different_names(read: Read) -> None:
    settings = read(FILE.replace("openai/org/m", "openai/other"), env=ENV, listed=LISTED)
    assert settings.backends["small"].kind == "vllm"
    assert [each.upstream for each in settings.backends["small"].replicas] == [None, "other"]


def test_costs_per_token_become_prices_per_million(read: Read) -> None:
    info = "  model_info: {input_cost_per_token: 2.5e-06, output_cost_per_token: 1.0e-05, max_input_tokens: 1000}\n"
    settings = read(FILE.replace("rpm: 3}\n", "rpm: 3}\n" + info), env=ENV, listed=LISTED)
    small = settings.candidates()[0]
    assert small.price == Price(2_500_000_000, 10_000_000_000)  # type: ignore[arg-type]
    assert small.context_tokens == 1000


def test_where_replicas_differ_in_price_the_most_expensive_counts(read: Read) -> None:
    cheap, expensive = (
        f"  model_info: {{input_cost_per_token: {c}, output_cost_per_token: 1e-6}}\n" for c in ("1e-6", "3e-6")
    )
    settings = read(FILE.replace("rpm: 3}\n", "rpm: 3}\n" + cheap) + expensive, env=ENV, listed=LISTED)
    assert settings.candidates()[0].price == Price(3_000_000_000, 1_000_000_000)  # type: ignore[arg-type]


def test_a_server_without_a_price_is_charged_and_the_note_says_so(read: Read) -> None:
    settings = read(FILE, env=ENV, listed=LISTED)
    assert settings.candidates()[0].price.prompt == 1_000_000_000
    assert any(note.startswith("model small: no price in the file, 1 USD") for note in settings.notes)


def test_a_default_price_of_ones_own_is_used_instead(read: Read) -> None:
    settings = read(FILE + "pointsman: {default_price: {prompt: 2, completion: 3}}", env=ENV, listed=LISTED)
    assert settings.candidates()[0].price.prompt == 2_000_000_000


def test_a_provider_nothing_prices_leaves_the_others_running_and_is_listed_with_the_line_to_add(read: Read) -> None:
    text = FILE.replace("acme/big", "openai/retired-9")
    settings = read(text, env=ENV)
    assert [each.name for each in settings.candidates()] == ["small"]
    (line,) = settings.unroutable
    assert line.startswith(
        "large (model_list[1]): litellm's cost map has no price for 'openai/retired-9'; add model_list[1]"
    )
    assert f"not routable  {line}" in describe(settings)


def test_a_custom_provider_is_listed_as_not_routable(read: Read) -> None:
    assert "no provider 'acme'" in read(FILE, env=ENV).unroutable[0]


def test_an_entry_whose_variable_is_not_set_leaves_the_others_running(read: Read) -> None:
    settings = read(FILE, listed=LISTED)
    assert [len(settings.backends[name].replicas) for name in ("small", "large")] == [1, 1]  # type: ignore[union-attr]
    (line,) = settings.unroutable
    assert "model_list[0].litellm_params.api_key: the environment variable KEY is not set" in line


def test_where_nothing_can_be_called_the_start_stops_and_names_each_entry(complain: Complain) -> None:
    text = "model_list: [{model_name: a, litellm_params: {model: openai/retired-9}}]"
    assert complain(text).startswith("model_list[0]: litellm's cost map has no price")


def test_the_master_key_opens_everything(read: Read) -> None:
    settings = read(FILE + "general_settings: {master_key: os.environ/MASTER}", env=ENV, listed=LISTED)
    assert settings.auth.required
    assert settings.auth.admin_key is not None
    (key,) = settings.static_keys()
    assert key.secret.get_secret_value() == settings.auth.admin_key.get_secret_value() == "sk-master-1"
    assert key.principal.admin


def test_without_a_master_key_callers_need_none(read: Read) -> None:
    assert read(FILE, env=ENV, listed=LISTED).anonymous() is not None


def test_retries_and_time_limits_are_taken_over(read: Read) -> None:
    more = "router_settings: {num_retries: 3, timeout: 9}\n"
    backend = read(FILE + more, env=ENV, listed=LISTED).backends["small"]
    assert isinstance(backend, VllmSection)
    assert (backend.attempts, backend.timeouts.first_byte_s) == (4, 9)


def test_what_has_no_effect_is_noted_never_dropped_in_silence(read: Read) -> None:
    text = FILE.replace("rpm: 3", "rpm: 3, tags: [a]") + "litellm_settings: {set_verbose: true}\n"
    settings = read(text, env=ENV, listed=LISTED)
    assert "litellm_settings.set_verbose: has no effect here" in settings.notes
    assert "model_list[0].litellm_params.tags: has no effect here" in settings.notes
    assert "note      litellm_settings.set_verbose" in describe(settings)


def test_keys_of_ones_own_may_be_added(read: Read) -> None:
    settings = read(FILE + "pointsman: {preference: 0.9, server: {port: 1}}", env=ENV, listed=LISTED)
    assert (settings.preference.default, settings.server.port) == (0.9, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model_list: []", "model_list: expected a list"),
        ("model_list: [{litellm_params: {model: a}}]", "model_list[0].model_name: missing"),
        ("model_list: [{model_name: a}]", "model_list[0].litellm_params: missing"),
        ("model_list: [{model_name: a, litellm_params: {api_base: x}}]", "model_list[0].litellm_params.model: missing"),
        (
            FILE + "general_settings: {master_key: os.environ/GONE}",
            "general_settings.master_key: the environment variable",
        ),
        (FILE + "pointsman: {server: {prot: 1}}", "pointsman.server.prot: unknown key, did you mean port?"),
        (
            FILE.replace("os.environ/KEY, rpm: 3", "k, timeout: soon"),
            "model_list[0].litellm_params.timeout: got 'soon'",
        ),
    ],
)
def test_an_entry_that_is_wrong_is_named(complain: Complain, text: str, expected: str) -> None:
    assert expected in complain(text)


def test_each_replica_has_its_own_price_and_context_and_the_model_takes_the_highest_and_widest(
    read: Read,
) -> None:
    listed = {
        "acme/a": Listed(Price(NanoUsd(7), NanoUsd(80)), 1000, 100),
        "acme/b": Listed(Price(NanoUsd(9), NanoUsd(8)), 9000, 50),
    }
    entries = "".join(f"\n- model_name: one\n  litellm_params: {{model: acme/{each}, weight: 2}}" for each in "ab")
    settings = read(f"model_list:{entries}", listed=listed)
    (model,) = settings.candidates()
    assert (model.price, model.context_tokens, model.max_output_tokens) == (Price(NanoUsd(9), NanoUsd(80)), 9000, 100)
    replicas = settings.backends["one"].replicas  # type: ignore[union-attr]
    assert [each.price.price() for each in replicas if each.price] == [listed["acme/a"].price, listed["acme/b"].price]
    assert [(each.context_tokens, each.weight) for each in replicas] == [(1000, 2), (9000, 2)]


def test_a_known_model_behind_an_address_of_its_own_has_the_maps_price(read: Read) -> None:
    text = "model_list: [{model_name: a, litellm_params: {model: openai/gpt-4o, api_base: 'http://10.0.0.1/v1'}}]"
    listed = {"openai/gpt-4o": Listed(Price(NanoUsd(5), NanoUsd(6)), 128_000)}
    assert read(text, listed=listed).candidates()[0].price == Price(NanoUsd(5), NanoUsd(6))


def test_a_deployment_is_priced_by_its_base_model(read: Read) -> None:
    text = """
model_list:
- model_name: a
  litellm_params: {model: azure/my-deployment, api_base: https://x.example, api_key: k}
  model_info: {base_model: azure/gpt-4o}
"""
    listed = {"azure/gpt-4o": Listed(Price(NanoUsd(5), NanoUsd(6)), 128_000, mode="chat")}
    assert read(text, listed=listed).candidates()[0].price == Price(NanoUsd(5), NanoUsd(6))


@pytest.mark.parametrize(
    ("model", "info", "able"),
    [
        ("azure/text-embedding-3-large", "", {"embeddings"}),
        ("openai/gpt-image-1", "{mode: chat, input_cost_per_token: 1e-6, output_cost_per_token: 1e-6}", None),
        ("hosted_vllm/BAAI/bge-m3", "", {"embeddings"}),
        ("hosted_vllm/openai/whisper-large-v3", "", None),
        ("hosted_vllm/org/chat-7b", "{mode: rerank}", None),
        ("hosted_vllm/org/embedder", "{mode: embedding}", {"embeddings"}),
        ("gpt-3.5-turbo-instruct", "", {"completions", "logprobs"}),
    ],
)
def test_only_what_can_chat_is_a_candidate_for_chat(model: str, info: str, able: set[str] | None) -> None:
    text = (
        "model_list:\n- model_name: other\n  litellm_params: {model: hosted_vllm/o, api_base: 'http://10.0.0.1/v1'}\n"
    )
    text += f"- model_name: it\n  litellm_params: {{model: '{model}', api_base: 'http://10.0.0.1/v1'}}\n"
    settings = build(parse(text + (f"  model_info: {info}" if info else "")), {})
    found = {each.name: each.capabilities for each in settings.candidates()}
    assert found.get("it") == (None if able is None else frozenset(able))
    assert "chat" in found["other"]
    assert bool(settings.unroutable) is (able is None)


def test_defaults_dropped_fields_and_rate_limits_of_an_entry_are_kept(read: Read) -> None:
    params = "temperature: 0.2, max_tokens: 99, additional_drop_params: [logit_bias], rpm: 3, tpm: 500"
    settings = read(FILE.replace("rpm: 3", params), env=ENV, listed=LISTED)
    small = settings.models[0]
    assert (small.defaults, small.max_output_tokens) == ({"temperature": 0.2}, 99)
    assert small.drop_fields == frozenset({"logit_bias"})
    assert small.limits is None  # the other replica has no limit, so the two together have none
    alone = read(FILE.replace("rpm: 3", params).rpartition("- model_name")[0], env=ENV, listed=LISTED).models[0].limits
    assert alone is not None
    assert (alone.requests_per_minute, alone.tokens_per_minute) == (3, 500)


def test_fallbacks_aliases_and_the_default_model_are_kept_in_the_files_order(read: Read) -> None:
    more = """
router_settings:
  fallbacks: [{small: [large, gone]}, {gone: [large, small]}]
  context_window_fallbacks: [{small: [large]}]
  model_group_alias: {gpt-4: small, gpt-5: {model: large, hidden: true}}
litellm_settings: {default_fallbacks: [small], default_model: large}
"""
    settings = read(FILE + more, env=ENV, listed=LISTED)
    assert settings.fallbacks == {"small": ("large",), "gone": ("large", "small"), "large": ("small",)}
    assert settings.context_fallbacks == {"small": ("large",)}
    assert settings.model_map == {"gpt-4": "small", "gpt-5": "large"}
    assert settings.unknown_model == "large"
    assert any("gone cannot be called here" in note for note in settings.notes)


def test_budgets_of_models_providers_and_everybody_are_kept(read: Read) -> None:
    more = """
router_settings: {provider_budget_config: {acme: {budget_limit: 20, time_period: 1d}, nobody: {max_budget: 1}}}
litellm_settings: {max_budget: 100, budget_duration: 30d}
"""
    text = FILE.replace("api_version: v1", "api_version: v1, max_budget: 2, budget_duration: 1h")
    settings = read(text + more, env=ENV, listed=LISTED)
    assert settings.models[1].capacity is not None
    assert (settings.models[1].capacity.limit, settings.models[1].capacity.period) == (2_000_000_000, (3600, None))
    shared = {
        name: (each.budget.limit, each.budget.period, each.models) for name, each in settings.model_budgets.items()
    }
    assert shared == {
        "gateway": (100_000_000_000, (30 * 86_400, None), None),
        "acme": (20_000_000_000, (86_400, None), ("large",)),
    }
    assert any("nobody: no model of this file" in note for note in settings.notes)


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ("litellm_settings: {max_user_budget: 5}", "litellm_settings.max_user_budget"),
        (
            "litellm_settings: {default_internal_user_params: {max_budget: 5}}",
            "litellm_settings.default_internal_user_params.max_budget",
        ),
        ("router_settings: {tag_budget_config: {a: {max_budget: 1}}}", "router_settings.tag_budget_config"),
        ("general_settings: {default_team_budget: 3}", "general_settings.default_team_budget"),
        ("max_budget: 5", "max_budget"),
        ("teams: [{team_id: a, max_budget: 5}]", "teams[0].max_budget"),
        (
            "- {model_name: b, litellm_params: {model: acme/big}, model_info: {max_budget: 5}}",
            "model_list[3].model_info.max_budget",
        ),
        (
            "- {model_name: b, litellm_params: {model: acme/big, soft_budget: 5}}",
            "model_list[3].litellm_params.soft_budget",
        ),
        ("litellm_settings: {max_budget: lots}", "litellm_settings.max_budget"),
        ("litellm_settings: {max_budget: 5, budget_duration: often}", "litellm_settings.budget_duration"),
    ],
)
def test_a_limit_of_money_that_cannot_be_kept_stops_the_start(complain: Complain, more: str, path: str) -> None:
    assert complain(FILE + more, env=ENV).startswith(f"{path}")


def test_a_budget_of_one_replica_among_several_stops_the_start(complain: Complain) -> None:
    assert "model_list[0].litellm_params.max_budget" in complain(FILE.replace("rpm: 3", "max_budget: 3"), env=ENV)


def test_tokens_a_model_may_think_are_no_limit_of_money(read: Read) -> None:
    text = FILE.replace("rpm: 3", "thinking: {type: enabled, budget_tokens: 1024}")
    assert read(text, env=ENV, listed=LISTED).models[0].defaults["thinking"]["budget_tokens"] == 1024


def test_the_files_own_variables_are_used(read: Read) -> None:
    settings = read(FILE + "environment_variables: {KEY: sk-own}", listed=LISTED)
    assert settings.backends["small"].replicas[0].api_key.get_secret_value() == "sk-own"  # type: ignore[union-attr]


@pytest.mark.parametrize("master", ["sk-1234", "x", "a key with blanks"])
def test_a_master_key_of_any_form_is_taken(read: Read, master: str) -> None:
    settings = read(FILE + f"general_settings: {{master_key: '{master}'}}", env=ENV, listed=LISTED)
    assert settings.static_keys()[0].secret.get_secret_value() == master


@pytest.mark.parametrize(
    "model",
    ["bedrock/converse/us.anthropic.claude-haiku-4-5-20251001-v1:0", "bedrock/invoke/apac.amazon.nova-lite-v1:0"],
)
def test_the_route_and_the_region_of_a_name_do_not_hide_its_price(model: str) -> None:
    settings = build(parse(f"model_list: [{{model_name: a, litellm_params: {{model: '{model}'}}}}]"), {})
    assert settings.candidates()[0].price.prompt > 0


def test_another_providers_model_behind_a_route_is_not_its_price(complain: Complain) -> None:
    text = "model_list: [{model_name: a, litellm_params: {model: 'bedrock/converse/gpt-4o'}}]"
    with pytest.raises(SettingsError, match="no price for 'bedrock/converse/gpt-4o'"):
        build(parse(text), {})


def test_a_name_that_says_what_it_makes_is_believed_where_nothing_else_says(read: Read) -> None:
    entry = "- {model_name: NAME, litellm_params: {model: openai/org/m, api_base: 'http://10.0.0.3/v1'}}"
    settings = read(FILE + entry.replace("NAME", "kokoro-tts") + "\n" + entry.replace("NAME", "my-embeddings"), env=ENV)
    assert "by its name, kokoro" in str(settings.unroutable)
    assert {each.name: each.capabilities for each in settings.candidates()}["my-embeddings"] == {"embeddings"}


@pytest.mark.parametrize(
    ("mode", "able"), [("embeddings", {"embeddings"}), ("completions", {"completions", "logprobs"})]
)
def test_a_mode_may_be_written_in_the_plural(read: Read, mode: str, able: set[str]) -> None:
    text = FILE.replace("- model_name: large", f"  model_info: {{mode: {mode}}}\n- model_name: large")
    text = text.rpartition("- model_name: small")[0]
    assert read(text, env=ENV, listed=LISTED).candidates()[0].capabilities == frozenset(able)


def test_ollama_without_an_address_is_on_this_machine(read: Read) -> None:
    settings = read("model_list: [{model_name: a, litellm_params: {model: ollama/zephyr}}]")
    assert settings.candidates()[0].price.prompt == 10**9


def test_the_master_key_may_be_in_the_environment_alone(read: Read) -> None:
    settings = read(FILE, env=ENV | {"LITELLM_MASTER_KEY": "sk-from-outside"}, listed=LISTED)
    assert settings.anonymous() is None
    assert settings.static_keys()[0].secret.get_secret_value() == "sk-from-outside"


def test_a_key_that_an_entry_leaves_out_is_looked_for_where_litellm_does(read: Read) -> None:
    replicas = read(FILE, env=ENV | {"OPENAI_API_KEY": "sk-usual"}, listed=LISTED).backends["small"].replicas  # type: ignore[union-attr]
    assert [each.api_key.get_secret_value() for each in replicas if each.api_key] == ["sk-engine", "sk-usual"]


def test_a_section_that_is_not_honoured_is_named_and_so_is_a_variable_that_only_a_provider_could_read(
    read: Read,
) -> None:
    more = "guardrails: []\nenvironment_variables: {AWS_REGION: x, KEY: y}\n"
    notes = read(FILE + more, env=ENV, listed=LISTED).notes
    assert "guardrails: has no effect here" in notes
    assert [each.partition(":")[0] for each in notes if each.startswith("environment")] == [
        "environment_variables.AWS_REGION"
    ]


def test_what_the_map_does_not_say_of_a_model_is_known_to_be_lacking_unless_the_server_is_ones_own() -> None:
    text = """
model_list:
- {model_name: old, litellm_params: {model: openai/gpt-3.5-turbo}, model_info: {deprecation_date: 2099-12-31}}
- {model_name: new, litellm_params: {model: openai/gpt-5}}
- {model_name: mine, litellm_params: {model: openai/gpt-4, api_base: 'http://10.0.0.1/v1'}}
"""
    lacks = {each.name: each.lacks for each in build(parse(text), {}).candidates()}
    assert {"json_schema", "reasoning", "audio", "files"} <= lacks["old"]
    assert lacks["new"].isdisjoint({"json_schema", "reasoning", "tool_choice"})
    assert lacks["mine"] == frozenset()


def test_numbers_may_be_quoted_or_come_from_the_environment(read: Read) -> None:
    text = """
model_list:
- model_name: small
  litellm_params:
    {model: hosted_vllm/o, api_base: 'http://10.0.0.1/v1', rpm: os.environ/RPM, tpm: '5000', timeout: '7.5',
     max_tokens: '20', temperature: '0.5', max_parallel_requests: '3', max_budget: os.environ/MOST, budget_duration: 1d}
  model_info: {max_input_tokens: '4096', input_cost_per_token: '1e-6', output_cost_per_token: os.environ/COST}
litellm_settings: {max_budget: os.environ/MOST, budget_duration: os.environ/EVERY, num_retries: os.environ/RETRIES}
router_settings: {provider_budget_config: {hosted_vllm: {budget_limit: os.environ/MOST, time_period: 1d}}}
"""
    env = {"RPM": "60", "MOST": "12.5", "COST": "2e-6", "EVERY": "30d", "RETRIES": "4"}
    settings = read(text, env=env)
    (model,) = settings.candidates()
    assert [(each.requests_per_minute, each.tokens_per_minute) for each in model.limits] == [(60, 5000)]
    assert (model.context_tokens, model.max_output_tokens) == (4096, 20)
    assert model.defaults == {"temperature": 0.5}
    assert (model.price.prompt, model.price.completion) == (10**9, 2 * 10**9)
    assert [each.limit for each in model.budgets] == [12_500_000_000] * 3
    assert {each.period_s for each in model.budgets} == {86_400, 30 * 86_400}
    backend = settings.backends["small"]
    assert (backend.attempts, backend.max_concurrency, backend.timeouts.first_byte_s) == (5, 3, 7.5)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("http://10.0.0.1:8000", "vllm"),
        ("http://10.0.0.1:8000/v1/", "vllm"),
        ("https://host.example/openai/v1", "vllm"),
        ("https://api.deepinfra.com/v1/openai", "litellm"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "litellm"),
    ],
)
def test_a_server_whose_api_is_not_under_v1_is_called_as_litellm_calls_it(read: Read, base: str, kind: str) -> None:
    text = f"model_list: [{{model_name: a, litellm_params: {{model: openai/org/m, api_base: '{base}', api_key: k}}}}]"
    settings = read(text)
    assert settings.backends["a"].kind == kind
    assert settings.candidates()[0].upstream == ("org/m" if kind == "vllm" else "openai/org/m")


def test_a_default_fallback_that_cannot_be_called_is_named(read: Read) -> None:
    text = "model_list: [{model_name: a, litellm_params: {model: hosted_vllm/o, api_base: 'http://10.0.0.1/v1'}}]\n"
    settings = read(text + "litellm_settings: {default_fallbacks: [a, gone]}")
    assert any(note.startswith("litellm_settings.default_fallbacks: gone") for note in settings.notes)


@pytest.mark.parametrize(
    "key", ["disable_reset_budget", "alerting_args: {budget_alert_ttl", "disable_budget_reservation"]
)
def test_what_only_speaks_of_budgets_is_no_limit_of_money(read: Read, key: str) -> None:
    text = "model_list: [{model_name: a, litellm_params: {model: hosted_vllm/o, api_base: 'http://10.0.0.1/v1'}}]\n"
    assert read(f"{text}general_settings: {{{key}: true}}" + ("}" if "{" in key else "")).candidates()


RETIRED = {"acme/big": Listed(Price(7, 8), 200_000, 8_000, retires="2020-02-29")}  # type: ignore[arg-type]


def test_a_retired_entry_leaves_the_others_running_and_is_listed_with_the_line_to_add(read: Read) -> None:
    settings = read(FILE + "router_settings: {fallbacks: [{small: [large]}]}", env=ENV, listed=RETIRED)
    assert [each.name for each in settings.candidates()] == ["small"]
    (line,) = settings.unroutable
    assert line.startswith("large (model_list[1]): acme/big was retired on 2020-02-29 (by litellm's cost map); ")
    assert line.endswith("add model_list[1].model_info: {deprecation_date: 2099-12-31} where it still answers")
    assert any(note.startswith("router_settings.fallbacks[0].small: large cannot be called") for note in settings.notes)


@pytest.mark.parametrize(
    ("day", "stays"),
    [("2099-12-31", True), ("'2099-12-31'", True), ("2020-01-01", False), ("null", False)],
)
def test_the_files_own_day_of_retirement_wins_over_the_maps(read: Read, day: str, stays: bool) -> None:
    text = FILE.replace("version: v1}\n", f"version: v1}}\n  model_info: {{deprecation_date: {day}}}\n")
    settings = read(text, env=ENV, listed=RETIRED)
    assert ("large" in [each.name for each in settings.candidates()]) is stays
    assert not any("deprecation_date: has no effect" in note for note in settings.notes)


def test_a_day_of_retirement_that_is_none_is_said_by_its_path(complain: Complain) -> None:
    text = FILE.replace("rpm: 3}\n", "rpm: 3}\n  model_info: {deprecation_date: soon}\n")
    assert complain(text, env=ENV).startswith("model_list[0].model_info.deprecation_date: got 'soon', expected a day")


@pytest.mark.parametrize("base", ["http://127.0.0.1:9/v1", "http://gpu-box:8000"])
def test_what_a_provider_retires_goes_on_at_ones_own_address(read: Read, base: str) -> None:
    settings = read(FILE.replace("version: v1", f"version: v1, api_base: '{base}'"), env=ENV, listed=RETIRED)
    assert [each.name for each in settings.candidates()] == ["small", "large"]


def test_where_every_entry_is_retired_the_start_stops_and_names_each(read: Read) -> None:
    text = "model_list: [{model_name: a, litellm_params: {model: acme/big}}]"
    with pytest.raises(SettingsError, match=r"model_list\[0\]: acme/big was retired on 2020-02-29"):
        read(text, listed=RETIRED)


@pytest.mark.parametrize("day", ["yesterday", "2020-13-01", "2020", "9" * 90])
def test_a_day_in_the_map_that_is_none_retires_nothing(day: str) -> None:
    assert _listing({"deprecation_date": day}).retires is None


def test_a_name_that_cannot_be_one_here_is_changed_and_still_means_the_same(read: Read) -> None:
    text = FILE.replace("model_name: large", "model_name: 'Red Hat, large'")
    more = "router_settings: {fallbacks: [{small: ['Red Hat, large']}]}\n"
    more += "litellm_settings: {default_model: 'Red Hat, large'}"
    settings = read(text + more, env=ENV, listed=LISTED)
    assert [each.name for each in settings.candidates()] == ["small", "Red-Hat-large"]
    assert settings.fallbacks == {"small": ("Red-Hat-large",)}
    assert settings.unknown_model == "Red-Hat-large"
    assert options_of(settings).names.mapped["Red Hat, large"] == "Red-Hat-large"


def test_files_that_are_included_are_read_and_no_limit_of_either_is_lost(tmp_path: Path) -> None:
    own = "include: [sub/more.yaml]\n" + FILE + "litellm_settings: {drop_params: true, num_retries: 7}\n"
    (tmp_path / "sub").mkdir()
    (tmp_path / "own.yaml").write_text(own)
    (tmp_path / "sub" / "more.yaml").write_text(
        "include: [last.yaml]\nlitellm_settings: {max_budget: 5, budget_duration: 1d}"
    )
    last = "model_list: [{model_name: last, litellm_params: {model: hosted_vllm/o, api_base: 'http://10.0.0.9/v1'}}]"
    (tmp_path / "sub" / "last.yaml").write_text(last)
    settings = load(tmp_path / "own.yaml", ENV, listed=LISTED.get)
    assert [each.name for each in settings.candidates()] == ["small", "large", "last"]
    assert settings.model_budgets["gateway"].budget.limit == 5_000_000_000
    assert settings.backends["small"].attempts == 8


@pytest.mark.parametrize(
    ("text", "said"), [("[own.yaml]", "in a row"), ("[gone.yaml]", "cannot be read"), ("7", "a list")]
)
def test_what_cannot_be_included_stops_the_start(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "own.yaml").write_text(f"include: {text}\n{FILE}")
    with pytest.raises(SettingsError, match=said):
        load(tmp_path / "own.yaml", ENV, listed=LISTED.get)


def test_a_credential_of_the_file_is_used_where_an_entry_names_it(read: Read) -> None:
    text = FILE.replace("api_key: k,", "litellm_credential_name: mine,")
    more = (
        "credential_list: [{credential_name: mine, credential_values: {api_key: os.environ/MASTER, api_version: v9}}]"
    )
    settings = read(text + more, env=ENV, listed=LISTED)
    (replica,) = settings.backends["large"].replicas  # type: ignore[union-attr]
    assert replica.api_key is not None
    assert replica.api_key.get_secret_value() == "sk-master-1"
    assert replica.params == {"api_version": "v1"}  # the entry's own counts first
    assert not any("credential" in note for note in settings.notes)


@pytest.mark.parametrize("provider", ["lm_studio", "hosted_vllm"])
def test_a_server_without_an_address_is_looked_for_where_litellm_does_or_asked_for(read: Read, provider: str) -> None:
    text = FILE + f"- {{model_name: b, litellm_params: {{model: {provider}/o}}}}"
    (line,) = read(text, env=ENV, listed=LISTED).unroutable
    assert "it has no address; add model_list[3].litellm_params: {api_base:" in line
    env = ENV | {f"{provider.upper()}_API_BASE": "http://10.0.0.7/v1"}
    assert read(text, env=env, listed=LISTED).backends["b"].replicas[0].url == "http://10.0.0.7/v1"  # type: ignore[union-attr]


def test_an_engines_own_fields_are_sent_and_litellms_router_is_named(read: Read) -> None:
    text = FILE.replace("rpm: 3", "top_k: 20, enable_thinking: false, chat_template_kwargs: {a: 1}")
    text += "- {model_name: smart, litellm_params: {model: auto_router/complexity_router}}"
    settings = read(text, env=ENV, listed=LISTED)
    assert settings.models[0].defaults == {"top_k": 20, "enable_thinking": False, "chat_template_kwargs": {"a": 1}}
    assert "LiteLLM's own router is not run here; add pointsman.model_map: {smart: auto}" in settings.unroutable[0]


def test_an_alias_that_can_be_no_name_here_means_the_same(read: Read) -> None:
    settings = read(
        FILE + "router_settings: {model_group_alias: {'my model': small, gpt-4: large}}", env=ENV, listed=LISTED
    )
    assert settings.model_map == {"gpt-4": "large"}
    assert options_of(settings).names.mapped == {"my model": "small", "gpt-4": "large"}


def test_chains_that_litellm_would_follow_behind_our_back_are_not_passed_on(read: Read) -> None:
    """It would ask a model that nobody here prices, on this entry's account."""
    settings = read(FILE.replace("api_version: v1", "fallbacks: [gpt-4o], num_retries: 1"), env=ENV, listed=LISTED)
    assert settings.backends["large"].replicas[0].params == {}  # type: ignore[union-attr]
    assert settings.backends["large"].attempts == 2
    assert "model_list[1].litellm_params.fallbacks: has no effect here" in settings.notes


def test_a_chain_that_is_a_text_is_named(read: Read) -> None:
    settings = read(FILE + "router_settings: {fallbacks: '[{}]'}", env=ENV, listed=LISTED)
    assert any(note.startswith("router_settings.fallbacks: a text, expected a list") for note in settings.notes)
