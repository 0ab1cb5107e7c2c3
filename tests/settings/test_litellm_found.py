"""What stood in LiteLLM files that people wrote, and was once taken wrongly."""

from __future__ import annotations

import socket

import pytest

from router.catalogue.probing import silent_store
from router.settings import Settings, build, describe
from router.settings.source import parse
from tests.settings.test_litellm_keys import entry, settings_of

BASE = "http://127.0.0.1:9/v1"


def real(*models: str, more: str = "") -> Settings:
    """A file of these models, by litellm's own map."""
    entries = [f"- {{model_name: m{n}, litellm_params: {{model: '{each}'}}}}" for n, each in enumerate(models)]
    return build(parse("model_list:\n" + "\n".join(entries) + f"\n{more}"), {})


@pytest.mark.parametrize("tuned", ["ft:gpt-4o-mini-2024-07-18:acme::AbC1", "openai/ft:gpt-4o-mini-2024-07-18:acme:x:A"])
def test_a_tuned_model_costs_what_the_map_says_of_its_base_once_tuned(tuned: str) -> None:
    (plain,) = real("ft:gpt-4o-mini-2024-07-18").candidates()
    (model,) = real(tuned).candidates()
    assert (model.price, model.context_tokens) == (plain.price, plain.context_tokens)
    assert model.price.prompt == 300_000_000


def test_what_is_behind_another_proxy_is_priced_by_the_name_it_has_there() -> None:
    (direct,) = settings_of(entry(model="acme/a")).candidates()
    proxied = settings_of(entry(model="litellm_proxy/acme/a", api_base="https://proxy.example.com"))
    assert proxied.candidates()[0].price == direct.price
    assert not any("no price in the file" in note for note in proxied.notes)


@pytest.mark.parametrize(
    "model",
    [
        "hosted_vllm/sentence-transformers/all-MiniLM-L6-v2",
        "openai/all-mpnet-base-v2",
        "ollama/snowflake-arctic-embed2",
        "hosted_vllm/openai/clip-vit-large-patch14",
        "openai/nvidia/parakeet-tdt-0.6b-v2",
        "openai/canary-1b-flash",
        "openai/orpheus-3b-0.1-ft",
        "openai/Qwen/Qwen-Image",
        "openai/omni-moderation-latest",
    ],
)
def test_what_a_name_alone_shows_to_be_no_chat_model_is_no_candidate_for_chat(model: str) -> None:
    settings = settings_of(entry("it", model, api_base=BASE), entry())
    assert [each.name for each in settings.candidates() if "chat" in each.capabilities] == ["a"]


def test_a_name_that_only_sounds_like_it_chats_all_the_same() -> None:
    for model in ("hosted_vllm/org/wanderer-7b", "hosted_vllm/org/eclipse-8b", "hosted_vllm/org/canaryland"):
        assert "chat" in settings_of(entry(model=model, api_base=BASE)).candidates()[0].capabilities


def test_a_model_that_no_name_prices_is_told_what_makes_it_callable() -> None:
    settings = settings_of(entry("b", "claude-9"), entry())
    (line,) = settings.unroutable
    assert "write model_list[0].litellm_params.model: provider/model, and its price" in line
    assert "model_list[0].model_info: {input_cost_per_token" in line


def test_a_check_that_does_not_run_is_said_once() -> None:
    notes = settings_of(entry(), general_settings={"custom_auth": "mine.check"}).notes
    assert len([note for note in notes if "custom_auth" in note]) == 1


@pytest.mark.parametrize(
    ("router", "path"),
    [
        ({"redis_host": "127.0.0.1", "redis_port": 9, "redis_password": "pw-secret"}, "router_settings.redis_host"),
        ({"redis_url": "redis://:pw-secret@127.0.0.1:9/0"}, "router_settings.redis_url"),
    ],
)
def test_a_redis_that_is_away_is_said_without_its_password(router: dict[str, object], path: str) -> None:
    said = silent_store(settings_of(entry(), router_settings=router))
    assert said is not None
    assert said.startswith(f"{path}: Redis at 127.0.0.1:9 does not answer")
    assert "pw-secret" not in said


def test_a_redis_at_an_ipv6_address_is_named_as_it_is() -> None:
    said = silent_store(settings_of(entry(), router_settings={"redis_url": "redis://[::1]:9/0"}))
    assert said is not None
    assert said.startswith("router_settings.redis_url: Redis at ::1:9 does not answer")


def test_a_redis_that_is_there_and_a_file_of_sqlite_are_not_spoken_of() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert (
            silent_store(settings_of(entry(), router_settings={"redis_host": "127.0.0.1", "redis_port": port})) is None
        )
    assert silent_store(settings_of(entry())) is None


def test_a_wrong_alias_is_named_in_the_section_that_has_it() -> None:
    settings = settings_of(entry(), litellm_settings={"model_group_alias": {"x": "a"}})
    assert settings.read.path("model_map.x") == "litellm_settings.model_group_alias.x"
    assert "name      x: a" in describe(settings)
