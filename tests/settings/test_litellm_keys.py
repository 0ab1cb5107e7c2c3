"""Whatever stands in a LiteLLM file is honoured, passed on or named, by the place where its owner wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from router.settings import Settings, build, listed, load
from router.settings.listed import Listed
from router.types import Price

PRICE = Price(7, 8)  # type: ignore[arg-type]
LISTED = {
    name: Listed(PRICE, 100_000, 4_000, "chat", frozenset({"tools"}), lacks=frozenset({"reasoning", "audio"}))
    for name in ("acme/a", "acme/b", "azure/a")
} | {
    "acme/embed": Listed(PRICE, 8_000, None, "embedding"),
    "acme/old": Listed(PRICE, 1, 1, "chat", retires="2020-01-01"),
}
HONOURED = {
    "general_settings": {"master_key", "default_model"},
    "router_settings": {
        *("num_retries", "timeout", "redis_url", "redis_host", "redis_port", "redis_password", "enable_tag_filtering"),
    },
    "litellm_settings": {"num_retries", "request_timeout", "drop_params", "max_budget", "budget_duration"},
}


def settings_of(*entries: dict[str, Any], **sections: Any) -> Settings:
    return build({"model_list": list(entries), **sections}, {}, listed=LISTED.get)


def entry(
    name: str = "a", model: str = "acme/a", *, info: dict[str, Any] | None = None, **params: Any
) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": {"model": model, **params}, "model_info": info or {}}


def test_limits_beside_an_entry_are_kept_and_all_else_there_is_named() -> None:
    settings = settings_of({**entry(), "rpm": 60, "tpm": "900", "rate_limits": {"rpm": 3}})
    (limit,) = settings.candidates()[0].limits
    assert (limit.requests_per_minute, limit.tokens_per_minute) == (60, 900)
    assert "model_list[0].rate_limits: has no effect here" in settings.notes


@pytest.mark.parametrize(
    ("said", "lacks"),
    [
        ({"supports_reasoning": True, "supports_audio_input": "false"}, {"audio"}),
        ({"supports_response_schema": "False", "supports_audio_output": True}, {"reasoning", "json_schema"}),
    ],
)
def test_what_a_file_says_of_abilities_counts_before_the_map(said: dict[str, Any], lacks: set[str]) -> None:
    (model,) = settings_of(entry(info=said)).candidates()
    assert model.lacks == lacks


@pytest.mark.parametrize("quoted", [False, "false", "no"])
def test_a_switch_may_be_quoted(quoted: object) -> None:
    (model,) = settings_of(entry(info={"supports_function_calling": quoted})).candidates()
    assert "tools" not in model.capabilities


@pytest.mark.parametrize(
    ("model", "base", "local"),
    [
        ("ollama_chat/qwen3", "http://127.0.0.1:11434", True),
        ("ollama/qwen3", None, True),
        ("ollama_chat/glm-5:cloud", "http://127.0.0.1:11434", False),
        ("ollama/qwen3", "https://ollama.example.com", False),
        ("lemonade/qwen3", "http://lemonade:8800/api/v1", True),
        ("huggingface/org/m", "http://10.0.0.7", True),
        ("hosted_vllm/m", "http://10.0.0.7/v1", True),
        ("litellm_proxy/gpt-4o", "http://10.0.0.7:4000", False),
        ("acme/a", "http://10.0.0.7:4000", False),
    ],
)
def test_what_stays_on_ones_own_machines_is_known_by_the_server_and_its_address(
    model: str, base: str | None, local: bool
) -> None:
    (found,) = settings_of(entry(model=model, api_base=base)).candidates()
    assert found.local is local


def test_where_ollama_is_may_be_said_by_the_environment() -> None:
    tree = {"model_list": [entry(model="ollama_chat/qwen3")]}
    (found,) = build(tree, {"OLLAMA_API_BASE": "https://ollama.example.com"}, listed=LISTED.get).candidates()
    assert not found.local


def test_entries_under_a_pattern_without_a_star_of_their_own_are_replicas() -> None:
    settings = settings_of(entry("claude-*", "acme/a"), entry("claude-*", "acme/b"))
    assert [each.upstream for each in settings.backends["claude-*"].replicas] == [None, "acme/b"]  # type: ignore[union-attr]


def test_an_entry_that_can_do_nothing_its_namesakes_can_is_left_out_and_named() -> None:
    settings = settings_of(entry(), entry(model="acme/embed"), entry(model="acme/b"))
    assert len(settings.backends["a"].replicas) == 2  # type: ignore[union-attr]
    assert any(note.startswith("model_list[1]: left out, since it can do nothing") for note in settings.notes)


def test_several_organizations_are_several_replicas() -> None:
    replicas = settings_of(entry(organization=["org-1", "org-2"])).backends["a"].replicas  # type: ignore[union-attr]
    assert [each.params["organization"] for each in replicas] == ["org-1", "org-2"]


def test_an_entry_that_the_file_blocks_is_not_called() -> None:
    (line,) = settings_of(entry("b", info={"blocked": True}), entry()).unroutable
    assert line == "b (model_list[0]): the file blocks it; take model_list[0].model_info.blocked away"


def test_chains_may_name_aliases_and_what_stands_beside_a_name_is_named() -> None:
    router = {
        "model_group_alias": {"other": {"model": "b", "hidden": True}, "two": ["a", "b"]},
        "fallbacks": [{"a": [{"model": "other", "temperature": 0}]}],
        "provider_budget_config": {"acme": {"budget_limit": 1, "time_period": "1d", "rpm_limit": 3}},
    }
    settings = settings_of(entry(), entry("b", "acme/b"), router_settings=router)
    assert settings.fallbacks == {"a": ("b",)}
    for path in (
        *("model_group_alias.other.hidden", "fallbacks[0].a.temperature", "provider_budget_config.acme.rpm_limit"),
    ):
        assert f"router_settings.{path}: has no effect here" in settings.notes
    assert "router_settings.model_group_alias.two: a alone counts, not b" in settings.notes


def test_retries_of_an_entry_are_the_gateways_own() -> None:
    settings = settings_of(entry(num_retries="3"))
    assert settings.backends["a"].attempts == 4
    assert settings.backends["a"].replicas[0].params == {}  # type: ignore[union-attr]


def test_models_of_an_included_file_are_named_by_their_place_in_that_file(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"include": ["more.yaml"], "model_list": [entry()]}))
    (tmp_path / "more.yaml").write_text(
        yaml.safe_dump({"include": ["last.yaml"], "model_list": [entry("x", "no/such")]})
    )
    (tmp_path / "last.yaml").write_text(
        yaml.safe_dump({"model_list": [entry("y", cooldown_time=3), entry("z", "acme/old")]})
    )
    settings = load(tmp_path / "own.yaml", {}, listed=LISTED.get)
    assert [line.partition(":")[0] for line in settings.unroutable] == ["x (more.yaml", "z (last.yaml"]
    assert "last.yaml: model_list[0].litellm_params.cooldown_time: has no effect here" in settings.notes
    assert settings.read.path("models[1].price") == "last.yaml: model_list[0].litellm_params.price"


def test_every_key_that_litellm_knows_is_honoured_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the lists in litellm itself, so that a new version of it is met."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    router = pytest.importorskip("litellm.types.router")
    types = pytest.importorskip("litellm.proxy._types")
    keys = {
        "general_settings": set(types.ConfigGeneralSettings.model_fields),
        "router_settings": set(router.UpdateRouterConfig.model_fields),
        "litellm_settings": {"callbacks", "cache", "cache_params", "guardrails", "request_timeout", "drop_params"},
    }
    money = {key for each in keys.values() for key in each if "budget" in key}
    mapped = {"fallbacks", "context_window_fallbacks", "default_fallbacks", "model_group_alias"}
    sections = {section: {key: _some(key) for key in sorted(each - money - mapped)} for section, each in keys.items()}
    settings = settings_of(entry(), **sections)
    for section, each in sections.items():
        unsaid = {key for key in each if f"{section}.{key}: has no effect here" not in settings.notes}
        assert unsaid <= HONOURED[section], section


def _some(key: str) -> Any:
    return {"redis_port": 6379, "redis_url": "redis://127.0.0.1/0"}.get(
        key, 1 if "time" in key or "num" in key else "x"
    )


def test_what_only_litellms_router_and_loggers_read_is_named_and_not_sent_on() -> None:
    mute: dict[str, Any] = {
        "fastest_response": True,
        "vector_store_ids": ["v"],
        "region_name": "eu",
        "langfuse_secret": "s",
    }
    mute |= {"s3_bucket_name": "b", "auto_router_config": "{}", "input_cost_per_second": 0.1, "metadata": {"a": "b"}}
    settings = settings_of(entry(**mute, aws_region_name="us-east-1"))
    assert settings.backends["a"].replicas[0].params == {"aws_region_name": "us-east-1"}  # type: ignore[union-attr]
    for key in mute:
        assert f"model_list[0].litellm_params.{key}: has no effect here" in settings.notes


def test_groups_of_access_are_kept_and_weights_that_nobody_reads_are_named() -> None:
    settings = settings_of(entry(info={"access_groups": ["beta"], "weight": 2, "id": "x", "description": "y"}))
    assert settings.models[0].groups == {"beta"}
    assert {note for note in settings.notes if "model_info" in note} == {
        "model_list[0].model_info.weight: has no effect here",
    }


def test_the_longest_answer_may_be_said_in_the_old_way() -> None:
    (model,) = settings_of(entry(model="hosted_vllm/m", api_base="http://10.0.0.7/v1", info={"max_tokens": 512})).models
    assert model.max_output_tokens == 512


def test_where_replicas_differ_what_holds_for_all_of_them_is_said() -> None:
    settings = settings_of(
        entry(rpm=10, tpm=100, timeout=5, stream_timeout=2, max_tokens=9, num_retries=1),
        entry(model="acme/b", tpm=200, timeout=9, additional_drop_params=["n"], max_parallel_requests=3),
    )
    assert [each for each in settings.notes if each.startswith("model_list")] == [
        "model_list[0].litellm_params.stream_timeout: has no effect here beside timeout",
        "model_list[0].litellm_params.rpm: has no effect here, since not every entry of 'a' has one",
        "model_list[1].litellm_params.additional_drop_params: the first entry's holds for every replica "
        "(model_list[0].litellm_params.additional_drop_params)",
        "model_list[1].litellm_params.max_tokens: the first entry's holds for every replica "
        "(model_list[0].litellm_params.max_tokens)",
        "model_list[1].litellm_params.max_parallel_requests: the largest of all entries of 'a' holds for each",
        "model_list[1].litellm_params.num_retries: the largest of all entries of 'a' holds for each",
        "model_list[1].litellm_params.timeout: the largest of all entries of 'a' holds for each",
    ]


def test_what_a_server_of_ones_own_is_not_asked_to_drop_is_named() -> None:
    own: dict[str, Any] = {"model": "hosted_vllm/m", "api_base": "http://10.0.0.7/v1"}
    settings = settings_of(
        entry(**own, drop_params=True, extra_headers={"a": "b"}),
        entry(**own, extra_headers={"a": "c"}),
        litellm_settings={"drop_params": True},
    )
    assert "model_list[0].litellm_params.drop_params: has no effect here" in settings.notes
    assert "litellm_settings.drop_params: has no effect here" in settings.notes
    assert any(note.startswith("model_list[1].litellm_params.extra_headers: the first") for note in settings.notes)


def test_a_credential_that_is_not_there_and_what_stands_beside_one_are_named() -> None:
    given = [{"credential_name": "here", "credential_values": {"api_key": "k"}, "credential_scope": "all"}]
    settings = settings_of(entry(litellm_credential_name="gone"), credential_list=given)
    assert "credential_list[0].credential_scope: has no effect here" in settings.notes
    assert "model_list[0].litellm_params.litellm_credential_name: credential_list has none of this name" in (
        settings.notes
    )


def test_of_what_is_said_twice_the_second_is_named() -> None:
    settings = settings_of(
        entry(),
        entry("b", "acme/b"),
        router_settings={
            "fallbacks": [{"a": ["b"]}],
            "default_fallbacks": ["b"],
            "timeout": 5,
            "num_retries": 1,
            "redis_url": "redis://here/0",
            "redis_host": "there",
        },
        litellm_settings={
            "fallbacks": [{"a": ["b"]}],
            "default_fallbacks": ["a"],
            "request_timeout": 9,
            "num_retries": 2,
        },
    )
    for path, first in (
        ("litellm_settings.fallbacks[0].a", "router_settings.fallbacks[0].a"),
        ("litellm_settings.default_fallbacks", "router_settings.default_fallbacks"),
        ("litellm_settings.request_timeout", "router_settings.timeout"),
        ("litellm_settings.num_retries", "router_settings.num_retries"),
        ("router_settings.redis_host", "router_settings.redis_url"),
    ):
        assert f"{path}: has no effect here beside {first}" in settings.notes


def test_a_chain_of_a_name_that_cannot_be_called_is_said_to_answer_for_it() -> None:
    settings = settings_of(entry(), router_settings={"fallbacks": [{"gone": ["a", "away"]}]})
    notes = [note for note in settings.notes if "fallbacks" in note]
    assert notes == [
        "router_settings.fallbacks[0].gone: gone cannot be called here, so its chain answers for it",
        "router_settings.fallbacks[0].gone: away cannot be called here, left out",
    ]
    assert settings.fallbacks == {"gone": ("a",)}


def test_a_password_of_redis_may_hold_any_character() -> None:
    router = {"redis_host": "h", "redis_password": "p@s/s:w#?", "redis_port": "7"}
    redis = settings_of(entry(), router_settings=router).store.redis
    assert redis is not None
    assert redis.get_secret_value() == "redis://:p%40s%2Fs%3Aw%23%3F@h:7/0"


@pytest.mark.parametrize(
    "general",
    [
        {"alert_to_webhook_url": {"budget_alerts": "https://hooks.example/x"}},
        {"alert_types": ["budget_alerts"]},
        {"alerting_args": {"budget_alert_ttl": 60}},
    ],
)
def test_an_alert_about_budgets_is_no_limit_of_money(general: dict[str, Any]) -> None:
    (key,) = general
    assert f"general_settings.{key}: has no effect here" in settings_of(entry(), general_settings=general).notes


def test_what_sessions_of_a_page_that_is_not_here_may_cost_stops_nothing() -> None:
    settings = settings_of(entry(), litellm_settings={"max_ui_session_budget": 10})
    assert "litellm_settings.max_ui_session_budget: has no effect here" in settings.notes


def test_a_provider_whose_library_is_not_installed_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listed, "find_spec", lambda _: None)
    price = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    settings = settings_of(
        entry(model="vertex_ai/gemini-x", info=price),
        entry("b", "azure/a", api_key="k"),
        entry("c", "azure/a", tenant_id="t", client_id="c", client_secret="s"),
    )
    assert [note for note in settings.notes if "pip install" in note] == [
        "model_list[0]: cannot be called before pip install 'litellm[google]', by which litellm calls vertex_ai",
        "model_list[2]: cannot be called before pip install 'azure-identity', by which litellm calls azure",
    ]
