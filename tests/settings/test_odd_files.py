"""Whatever a settings file holds, it is settings or one error that says what is wrong: never a traceback."""

from __future__ import annotations

import copy
import datetime as dt
import random
from collections.abc import Iterator
from typing import Any

import pytest

from router.errors import SettingsError
from router.settings import build, describe
from router.settings.source import parse

ENV = {"KEY": "sk-12345678"}
OWN = """
server: {port: 8080, max_body_bytes: 16 MiB}
store: {redis: "redis://:${KEY}@redis:6379/0"}
auth: {admin_key: "${KEY}", required: true}
backends:
  small: {kind: vllm, urls: [http://10.0.0.11:8000, {url: http://10.0.0.12:8000, api_key: k}], machine_usd_per_hour: 2}
  hosted: {kind: litellm, api_key: k, timeouts: {idle_s: 3}, breaker: {failures: 2}}
models:
  - {name: small, backend: small, upstream: org/small, price: {prompt: 0.05, completion: 0.10}, parameters: 7B}
  - {name: large, backend: hosted, price: {prompt: 1, completion: 2}, capacity: 20 USD per 1h, capabilities: [chat]}
model_budgets: {all: {budget: 5 USD per day, models: [small]}}
model_map: {gpt: small}
fallbacks: {small: [large]}
tenants:
  acme:
    budgets: [5 USD per day, {limit: 100, period: month, model: large}]
    limits: {requests_per_minute: 600, concurrent: 20}
    keys: [{secret: "${KEY}x", team: research, allowed_models: [small]}]
    teams: {research: {budgets: [2 USD per day soft]}}
policy: {name: neighbours, options: {neighbours: {k: 40}}}
preference: 0.7
embedder: {kind: openai, url: http://127.0.0.1:9, model: m, dim: 8}
"""
LITELLM = """
model_list:
- model_name: small
  litellm_params: {model: openai/small, api_base: http://127.0.0.1:1, api_key: os.environ/KEY, rpm: 5, max_budget: 3,
    budget_duration: 1d}
  model_info: {input_cost_per_token: 0.000001, output_cost_per_token: 0.000002, max_input_tokens: 100, id: a}
- {model_name: big, litellm_params: {model: hosted_vllm/big, api_base: "http://127.0.0.1:2", timeout: 3}}
litellm_settings: {drop_params: true, max_budget: 5, budget_duration: 30d, fallbacks: [{small: [big]}]}
router_settings: {timeout: 3, redis_host: r, redis_port: 6379, model_group_alias: {x: small},
  provider_budget_config: {openai: {budget_limit: 3, time_period: 1d}}}
general_settings: {master_key: sk-1234}
environment_variables: {A: b}
pointsman: {preference: 0.5}
"""
ODD: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        1.5,
        float("nan"),
        float("inf"),
        10**400,
        "",
        "x",
        "5 USD per day",
        "\ud800",
        "a|b",
        "9" * 200,
    ),
    *([], {}, [[]], [{}], {"a": 1}, {1: 2}, [None], "${KEY}", "${NONE:-y}", "${NONE}", "os.environ/X", b"bytes"),
    *(
        "http://x",
        "http://[",
        "http://x:99999999",
        "redis://[",
        {"kind": "vllm"},
        "30d",
        dt.date(2026, 1, 1),
        "1e99999",
    ),
]


@pytest.mark.parametrize("text", [OWN, LITELLM], ids=["own", "litellm"])
@pytest.mark.parametrize("seed", range(20))
def test_a_file_with_something_odd_in_it_is_settings_or_one_error(text: str, seed: int) -> None:
    rng, refused = random.Random(seed), []
    for _ in range(40):
        spoilt = odd(parse(text), rng)
        try:
            settings = build(spoilt, ENV, listed=lambda _: None)
            describe(settings)
            settings.static_keys()
            settings.candidates()
        except SettingsError as error:
            refused.append(error.message)
    assert all(refused)
    assert not [message for message in refused if ENV["KEY"] in message]


def test_the_files_are_settings_as_they_are() -> None:
    for text in (OWN, LITELLM):
        assert build(parse(text), ENV, listed=lambda _: None).models


def odd(tree: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The tree with one to three places spoilt: another value, another key, one too many or one too few."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        *above, last = rng.choice(list(_places(tree)))
        node: Any = tree
        for step in above:
            node = node[step]
        what, value = rng.random(), copy.deepcopy(rng.choice(ODD))
        if what < 0.7:
            node[last] = value
        elif what < 0.85 and isinstance(node, dict):
            node[rng.choice(("zz", "budget", "name", 5, None))] = value
        elif isinstance(node, list):
            node.append(value)
        else:
            node.pop(last)
        if not tree:
            break
    return tree


def _places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, value in entries:
        yield (*above, step)
        yield from _places(value, (*above, step))
