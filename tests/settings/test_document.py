"""What settings mean: candidates, keys, budgets, and what is discovered."""

from __future__ import annotations

import pytest

from router.catalogue.foretelling import with_foretold
from router.errors import SettingsError
from router.gateway.types import arm_of
from router.settings import describe
from router.settings.listed import Listed
from router.types import Budget, NanoUsd, Price, Principal, RateLimit
from tests.settings.conftest import Read

ENGINE = """
backends: {gpu: {kind: vllm, url: http://127.0.0.1:8000}}
models: [{name: small, price: {prompt: 0.05, completion: "0.1"}, context_tokens: 4096}]
"""


def test_an_empty_file_runs_the_packaged_family_on_sqlite(read: Read) -> None:
    settings = read("")
    assert [backend.kind for backend in settings.backends.values()] == ["embedded"]
    assert str(settings.store.sqlite_path(settings.state_dir)) == "~/.local/state/pointsman/pointsman.db"


def test_a_model_becomes_a_candidate_with_exact_prices(read: Read) -> None:
    (model,) = read(ENGINE).candidates()
    assert (model.name, model.backend, model.upstream) == ("small", "gpu", "small")
    assert model.price == Price(50_000_000, 100_000_000)  # type: ignore[arg-type]
    assert (model.context_tokens, model.max_output_tokens) == (4096, 4096)


def test_a_default_price_prices_what_has_none(read: Read) -> None:
    settings = read("""
backends: {gpu: {kind: vllm, url: http://127.0.0.1:8000}}
models: [{name: a}]
default_price: {prompt: 1, completion: 2}
""")
    assert settings.candidates()[0].price == Price(1_000_000_000, 2_000_000_000)  # type: ignore[arg-type]


def test_a_provider_is_priced_by_its_list(read: Read) -> None:
    text = "backends: {p: {kind: litellm}}\nmodels: [{name: a, upstream: acme/a}]"
    listed = Listed(Price(3, 4), 200_000, 8_000)  # type: ignore[arg-type]
    (model,) = read(text, listed={"acme/a": listed}).candidates()
    assert (model.price, model.context_tokens, model.max_output_tokens) == (listed.price, 200_000, 8_000)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://10.1.2.3", True),
        ("http://vllm:8000", True),
        ("http://a.internal", True),
        ("https://api.example.com", False),
        ("http://8.8.8.8", False),
    ],
)
def test_only_an_address_that_can_only_be_inside_is_local_by_itself(read: Read, address: str, local: bool) -> None:
    text = ENGINE.replace("http://127.0.0.1:8000", address)
    assert read(text).candidates()[0].local is local


def test_one_public_replica_makes_a_backend_remote(read: Read) -> None:
    settings = read(ENGINE.replace("url: http://127.0.0.1:8000", "urls: [http://gpu:80, https://api.example.com]"))
    assert not settings.candidates()[0].local


def test_replicas_take_the_backends_key_unless_they_have_their_own(read: Read) -> None:
    text = ENGINE.replace(
        "url: http://127.0.0.1:8000", "api_key: shared, urls: [http://a, {url: http://b, api_key: own}]"
    )
    backend = read(text).backends["gpu"]
    assert backend.kind == "vllm"
    assert [each.api_key and each.api_key.get_secret_value() for each in backend.replicas] == ["shared", "own"]


def test_an_empty_secret_is_no_secret(read: Read) -> None:
    assert read("auth: {admin_key: '${ADMIN:-}'}").auth.admin_key is None


def test_a_static_key_carries_what_tenant_and_team_add(read: Read) -> None:
    settings = read("""
tenants:
  acme:
    budgets: [5 USD per day]
    limits: {concurrent: 3}
    local_only: true
    preference: 0.7
    teams: {lab: {budgets: [1 USD per 30s soft]}}
    keys:
    - secret: sk-12345678
      name: app
      team: lab
      budgets: [2 USD per rolling day]
      limits: {model: small, requests_per_minute: 9}
""")
    (key,) = settings.static_keys()
    assert key.principal.budgets == (
        Budget("key:app", NanoUsd(2_000_000_000), 86_400),
        Budget("team:lab", NanoUsd(1_000_000_000), 30, hard=False),
        Budget("tenant:acme", NanoUsd(5_000_000_000), 86_400, calendar="day"),
    )
    assert key.principal.limits == (RateLimit("key:app|model:small", 9), RateLimit("tenant:acme", concurrent=3))
    assert key.principal.local_only
    assert key.principal.preference == 0.7


def test_a_key_may_only_narrow_the_models_of_its_tenant(read: Read) -> None:
    settings = read("""
tenants: {acme: {allowed_models: [a, b], keys: [{secret: sk-12345678, allowed_models: [b, c]}]}}
""")
    assert settings.static_keys()[0].principal.allowed_models == frozenset({"b"})


def test_callers_without_a_key_are_a_tenant_where_keys_are_not_required(read: Read) -> None:
    assert read("").anonymous() is None
    anonymous = read(
        "auth: {required: false, tenant: guests}\ntenants: {guests: {budgets: [1 USD per day]}}"
    ).anonymous()
    assert anonymous is not None
    assert (anonymous.tenant, [each.scope for each in anonymous.budgets]) == ("guests", ["tenant:guests"])


def test_what_the_file_says_of_a_discovered_model_wins(read: Read) -> None:
    settings = read("""
backends: {gpu: {kind: vllm, url: http://gpu, discover: true}}
models: [{name: quick, upstream: org/model, price: {prompt: 1, completion: 1}, context_tokens: 100}]
""")
    found = settings.discovered("gpu", "org/model", context_tokens=9_000, parent="org/base", bits=3)
    assert (found.name, found.upstream, found.context_tokens) == ("quick", "org/model", 100)
    assert (found.parent, found.bits, found.price.prompt) == ("org/base", 3, 1_000_000_000)


def test_an_adapter_costs_what_its_base_does_unless_it_has_a_price(read: Read) -> None:
    settings = read("""
backends: {gpu: {kind: vllm, url: http://gpu, discover: true}}
models: [{name: quick, upstream: org/model, price: {prompt: 3, completion: 4}}]
""")
    adapter = settings.discovered("gpu", "sql-adapter", parent="org/model")
    assert adapter.price == Price(3_000_000_000, 4_000_000_000)  # type: ignore[arg-type]


def test_a_discovered_model_nothing_prices_is_refused(read: Read) -> None:
    settings = read("backends: {gpu: {kind: vllm, url: http://gpu, discover: true}}")
    with pytest.raises(SettingsError, match=r"backends\.gpu\.discover: found m and nothing prices it"):
        settings.discovered("gpu", "m")


def test_a_width_of_a_listed_model_is_a_model_of_its_own(read: Read) -> None:
    settings = read("""
backends: {gpu: {kind: vllm, url: http://gpu, discover: true}}
models:
- {name: quick, upstream: org/model, price: {prompt: 2, completion: 2}}
- {name: org/model@4bit, price: {prompt: 1, completion: 1}}
""")
    three, four = (
        settings.discovered("gpu", "org/model", name=f"org/model@{bits}bit", parent="org/model", bits=bits)
        for bits in (3, 4)
    )
    assert (three.name, three.price.prompt) == ("org/model@3bit", 2_000_000_000)
    assert (four.name, four.price.prompt) == ("org/model@4bit", 1_000_000_000)


def test_a_width_may_have_a_name_of_its_own(read: Read) -> None:
    settings = read("""
backends: {gpu: {kind: vllm, url: http://gpu, discover: true}}
models:
- {name: cheap, upstream: org/model, bits: 3, price: {prompt: 1, completion: 1}}
- {name: middle, upstream: org/model@4bit, price: {prompt: 2, completion: 2}}
- {name: quick, upstream: org/model, price: {prompt: 3, completion: 3}}
""")
    extra = {bits: {"vllm_xargs": {"width": bits}} for bits in (3, 4, 5)}
    found = [settings.discovered("gpu", "org/model")] + [
        settings.discovered(
            "gpu", "org/model", name=f"org/model@{bits}bit", parent="org/model", bits=bits, extra_body=extra[bits]
        )
        for bits in (3, 4, 5)
    ]
    assert [each.name for each in found] == ["quick", "cheap", "middle", "org/model@5bit"]
    assert [each.price.prompt // 1_000_000_000 for each in found] == [3, 1, 2, 3]
    assert [(each.upstream, each.bits) for each in found[1:]] == [("org/model", 3), ("org/model", 4), ("org/model", 5)]
    assert [each.extra_body for each in found[1:]] == [extra[3], extra[4], extra[5]]


def test_a_listed_model_only_its_backend_can_price_waits_for_it(read: Read) -> None:
    settings = read("models: [{name: small@3bit, capacity: 1 USD per 1h}]")
    assert settings.candidates() == ()
    found = settings.discovered("family", "small@3bit", price=Price(5, 6))  # type: ignore[arg-type]
    assert (found.price.prompt, found.budgets[0].limit) == (5, 1_000_000_000)


def test_a_stored_key_gets_what_the_document_says_of_its_tenant_and_team(read: Read) -> None:
    settings = read("""
tenants:
  acme: {budgets: [5 USD per day], allowed_models: [a, b], preference: 0.2, teams: {lab: {limits: {concurrent: 2}}}}
""")
    own = Budget("key:k_1", 1, 30)  # type: ignore[arg-type]
    stored = Principal("k_1", "acme", team="lab", allowed_models=frozenset({"b", "c"}), preference=0.9, budgets=(own,))
    completed = settings.completed(stored)
    assert completed is not None
    assert [budget.scope for budget in completed.budgets] == ["key:k_1", "tenant:acme"]
    assert completed.limits == (RateLimit("team:lab", concurrent=2),)
    assert (completed.allowed_models, completed.preference) == (frozenset({"b"}), 0.9)
    assert settings.completed(Principal("k_2", "other")) == Principal("k_2", "other")


def test_a_description_shows_what_runs_and_no_secret(read: Read) -> None:
    text = describe(
        read("""
store: {redis: "redis://:hunter2secret@redis:6379/1"}
auth: {admin_key: adminsecret}
backends:
  gpu: {kind: vllm, url: "http://user:urlsecret@127.0.0.1:8000", api_key: enginesecret, headers: {x: headersecret}}
models: [{name: small, price: {prompt: 0.05, completion: 0.1}}]
tenants: {acme: {budgets: [5 USD per day], keys: [{secret: tenantsecret}]}}
""")
    )
    assert "redis://redis:6379/1" in text
    assert "small: small on gpu, 0.05 / 0.1 USD per million tokens" in text
    assert "acme: 5 USD per day, 1 key" in text
    assert "secret" not in text


def test_a_description_says_which_prices_nobody_told_and_what_such_tokens_are_charged_as(read: Read) -> None:
    text = describe(
        read("""
backends: {gpu: {kind: vllm, url: "http://127.0.0.1:8000"}}
models:
  - {name: plain, price: {prompt: 1, completion: 4}, lacks: [audio, reasoning]}
  - {name: seeing, capabilities: [chat, vision], price: {prompt: 1, completion: 4, cached: 0.1, cache_write: 1.25}}
  - {name: free, price: {prompt: 0, completion: 0}}
""")
    )
    assert [line for line in text.splitlines() if line.startswith("price")] == [
        "price     plain: no price of cached: as prompt tokens, 1",
        "price     plain: no price of cache_write: five quarters of the prompt where a request asks for it, 1.25",
        "price     plain: no price of cache_write_1h: as the more expensive of cache_write and twice the prompt, 2",
        "price     seeing: no price of audio_prompt, image_prompt: as prompt tokens, 1",
        "price     seeing: no price of reasoning, audio_completion: as completion tokens, 4",
        "price     seeing: no price of cache_write_1h: as the more expensive of cache_write and twice the prompt, 2",
    ]


def test_no_secret_is_in_the_representation_of_settings(read: Read) -> None:
    settings = read("auth: {admin_key: hushhush}\nstore: {redis: 'redis://:hushhush@r'}")
    assert "hushhush" not in repr(settings) + str(settings.model_dump())


def test_what_is_known_of_a_model_becomes_its_prior(read: Read) -> None:
    settings = read("""
backends: {b: {kind: vllm, url: "http://127.0.0.1:9"}}
default_price: {prompt: 1, completion: 1}
models:
- {name: q-72b, backend: b, family: qwen2, parameters: 72B, price: {prompt: 1, completion: 1}}
- {name: q-7b, backend: b, family: qwen2, parameters: 7B, price: {prompt: 1, completion: 1}}
- {name: new, backend: b, parameters: 7B, trained_tokens: 15T, released: 2025-03-01, price: {prompt: 1, completion: 1}}
- {name: plain, backend: b, parameters: 7B, price: {prompt: 1, completion: 1}}
""")
    found = {model.name: arm_of(model).foretold for model in with_foretold(settings.candidates())}
    assert found["plain"] is None
    assert 0.3 < (found["q-7b"] or 0) < (found["q-72b"] or 0) < 0.8
    assert (found["new"] or 0) > 0.3


@pytest.mark.parametrize("released", ["2024", "2024-13", "soon"])
def test_a_date_that_is_no_month_is_refused_by_its_key(read: Read, released: str) -> None:
    with pytest.raises(SettingsError, match=r"models\[0\].released"):
        read(f"models: [{{name: m, released: '{released}', price: {{prompt: 1, completion: 1}}}}]")
