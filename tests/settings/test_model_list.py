"""LiteLLM's own file starts the gateway."""

from __future__ import annotations

import pytest

from router.settings import describe
from router.settings.document import Listed
from router.types import Price
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


def test_where_replicas_differ_in_price_the_dearest_counts(read: Read) -> None:
    cheap, dear = (
        f"  model_info: {{input_cost_per_token: {c}, output_cost_per_token: 1e-6}}\n" for c in ("1e-6", "3e-6")
    )
    settings = read(FILE.replace("rpm: 3}\n", "rpm: 3}\n" + cheap) + dear, env=ENV, listed=LISTED)
    assert settings.candidates()[0].price == Price(3_000_000_000, 1_000_000_000)  # type: ignore[arg-type]


def test_a_server_without_a_price_is_charged_and_the_note_says_so(read: Read) -> None:
    settings = read(FILE, env=ENV, listed=LISTED)
    assert settings.candidates()[0].price.prompt == 1_000_000_000
    assert any(note.startswith("model small: no price in the file, 1 USD") for note in settings.notes)


def test_a_default_price_of_ones_own_is_used_instead(read: Read) -> None:
    settings = read(FILE + "pointsman: {default_price: {prompt: 2, completion: 3}}", env=ENV, listed=LISTED)
    assert settings.candidates()[0].price.prompt == 2_000_000_000


def test_a_provider_nothing_prices_is_refused(complain: Complain) -> None:
    assert "models[1].price: missing" in complain(FILE, env=ENV)


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
    assert (backend.attempts, backend.timeouts.first_byte_s) == (4, 9)


def test_what_has_no_effect_is_noted_never_dropped_in_silence(read: Read) -> None:
    settings = read(FILE + "litellm_settings: {drop_params: true}\n", env=ENV, listed=LISTED)
    assert "litellm_settings.drop_params: has no effect here" in settings.notes
    assert "model_list[0].litellm_params.rpm: has no effect here" in settings.notes
    assert "note      litellm_settings.drop_params" in describe(settings)


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
        (FILE, "model_list[0].litellm_params.api_key: the environment variable KEY is not set"),
    ],
)
def test_an_entry_that_is_wrong_is_named(complain: Complain, text: str, expected: str) -> None:
    assert expected in complain(text)
