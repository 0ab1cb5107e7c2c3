"""Bad settings stop the start and name the key, the value and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.errors import SettingsError
from router.settings import load
from router.settings.loading import build
from router.settings.source import parse
from tests.settings.conftest import Complain

MODEL = "backends: {gpu: {kind: vllm, url: http://gpu}}\nmodels: [{name: a, price: {prompt: 1, completion: 1}}]\n"

WRONG = {
    "server: {port: eighty}": "server.port: got 'eighty', expected a valid integer",
    "server: {hots: x}": "server.hots: unknown key, did you mean host? expected one of",
    "bogus: 1": "bogus: unknown key, expected one of",
    "server: [1]": "server: got a list, expected",
    "backends: {a: {kind: vlm}}": "backends.a.kind: got 'vlm', expected vllm, litellm, embedded, scripted",
    "backends: {a: {url: http://x}}": "backends.a.kind: missing, expected",
    "backends: {a: {kind: vllm, url: ftp://x}}": "backends.a.url: got 'ftp://x', expected an address that begins with",
    "backends: {a: {kind: vllm}}\nmodels: [{name: m}]": "backends.a: no address, expected url",
    "backends: {a: {kind: vllm, url: http://x, timeouts: {idle_s: 0}}}": "backends.a.timeouts.idle_s: got 0, expected",
    "models: [{name: a, price: {prompt: cheap}}]": "models[0].price.prompt: got 'cheap', expected an amount in USD",
    "models: [{price: {prompt: 1, completion: 1}}]": "models[0].name: missing, expected What clients ask for",
    "models: [{name: auto, price: {prompt: 1, completion: 1}}]": "models[0].name: got 'auto'",
    MODEL + "default_price: {prompt: -1, completion: 0}": "default_price.prompt: got -1, expected an amount",
    "models: [{name: a, capacity: 5 USD}]": "models[0].capacity: got '5 USD', expected a budget such as",
    "tenants: {acme: {budgets: [5 USD per eon]}}": "tenants.acme.budgets[0]: got '5 USD per eon', expected a period",
    "tenants: {acme: {budgets: [{limit: 5, period: eon}]}}": "tenants.acme.budgets[0].period: got 'eon', expected",
    "tenants: {a: {budgets: [5 USD per day, lots per day]}}": "tenants.a.budgets[1]: got 'lots per day', expected an",
    "tenants: {a: {budgets: [1e99999 USD per day]}}": "tenants.a.budgets[0]: got '1e99999 USD per day', expected a",
    "tenants: {acme: {limits: {concurrent: -1}}}": "tenants.acme.limits.concurrent: got -1, expected",
    "tenants: {a: {keys: [{secret: sk-12345678, limits: [{rpm: 1}]}]}}": "a.keys[0].limits[0].rpm: unknown key",
    "tenants: {'a|b': {}}": "tenants.a|b",
    MODEL
    + "tenants: {a: {budgets: [{limit: 1, period: day, model: z}]}}": "a.budgets[0].model: got 'z', expected names",
    MODEL + "tenants: {a: {teams: {t: {allowed_models: [z]}}}}": "a.teams.t.allowed_models: got 'z', expected names",
    "tenants: {a: {teams: {t: {policy: oracle}}}}": "tenants.a.teams.t.policy: got 'oracle', expected one of",
    "tenants: {a: {keys: [{secret: sk-12345678, name: 'x|y'}]}}": "a.keys[0].name: got 'x|y', expected 1 to 128 print",
    "preference: {reference_usd: 1 EUR}": "preference.reference_usd: got '1 EUR', expected an amount in USD",
    "preference: 2": "preference: got 2, expected",
    "models: [{name: 'stored:a', price: {prompt: 1, completion: 1}}]": "models[0].name: got 'stored:a', expected",
    "tenants: {a: {cache: {ttl: soon}}}": "tenants.a.cache.ttl: got 'soon', expected",
    "tenants: {a: {cache: {alpha: 1}}}": "tenants.a.cache.alpha: got 1, expected",
    "tenants: {a: {cache: {tll: 1h}}}": "tenants.a.cache.tll: unknown key",
    "backends: {a: {kind: vllm, urls: ['ftp://x']}}": "backends.a.urls[0]: got 'ftp://x', expected an address",
    "server: {max_body_bytes: .inf}": "server.max_body_bytes: got inf, expected a size",
    "tenants: {acme: {preference: 2}}": "tenants.acme.preference: got 2, expected",
    "tenants: {acme: {keys: [{secret: sk-12345678, team: x}]}}": "tenants.acme.keys[0].team: got 'x', expected a team",
    "embedder: {kind: static}": "embedder.model: missing, expected Folder or name",
    "policy: {name: oracle}": "policy.name: got 'oracle', expected one of ",
    "policy: {options: {neighbours: {q: 1}}}": "policy.options.neighbours.q: unknown option, expected one of k",
    "store: {sqlite: a.db, redis: 'redis://r'}": "store: got sqlite and redis, expected one of them",
    "store: {redis: 'http://r'}": "store.redis: got a value not shown here, expected an address",
    "- a": "got a list, expected a mapping of sections",
    "a: [": "not YAML",
    "server: {port: 1}\nserver: {port: 2}": "line 2: the key 'server' is given twice",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named_with_its_path(complain: Complain, text: str) -> None:
    assert WRONG[text] in complain(text)


def test_an_unpriced_model_stops_the_start(complain: Complain) -> None:
    text = "backends: {gpu: {kind: vllm, url: http://gpu}}\nmodels: [{name: a}]"
    assert complain(text).startswith("models[0].price: missing, expected {prompt, completion}")


def test_two_models_of_one_name_are_refused(complain: Complain) -> None:
    assert "models[1].name: got 'a' twice" in complain(
        MODEL.replace("}}]", "}}, {name: a, price: {prompt: 1, completion: 1}}]")
    )


def test_a_model_on_no_backend_is_refused(complain: Complain) -> None:
    assert "models[0].backend: got 'cpu', expected one of gpu" in complain(
        MODEL.replace("name: a,", "name: a, backend: cpu,")
    )


def test_every_wrong_key_is_named_at_once(complain: Complain) -> None:
    assert complain("server: {port: x}\nlog: {keep_text: maybe}").count("\n") == 1


def test_the_same_key_for_two_tenants_is_refused_without_showing_it(complain: Complain) -> None:
    message = complain("tenants: {a: {keys: [{secret: sk-12345678}]}, b: {keys: [{secret: sk-12345678}]}}")
    assert "tenants.a.keys[0].secret: the same key is given twice" in message
    assert "12345678" not in message


@pytest.mark.parametrize("keys", ["sk-hunter2", "[[sk-hunter2]]", "[{secret: [sk-hunter2]}]", "['']", "[7]"])
def test_a_key_that_is_written_wrongly_is_not_shown(complain: Complain, keys: str) -> None:
    message = complain(f"tenants: {{a: {{keys: {keys}}}}}")
    assert message.startswith("tenants.a.keys")
    assert "hunter2" not in message
    assert "instance of" not in message


def test_a_secret_alone_is_a_key() -> None:
    settings = build(parse("tenants: {a: {keys: [sk-hunter2-12345678]}}"), {})
    assert [key.secret.get_secret_value() for key in settings.tenants["a"].keys] == ["sk-hunter2-12345678"]


def test_a_variable_is_put_in_after_the_yaml_is_read(complain: Complain) -> None:
    message = complain("server: {host: '${HOST}', port: '${PORT}'}", env={"HOST": "a\nport: 1", "PORT": "hunter2"})
    assert "server.port: got the value of ${PORT}, expected a valid integer" in message
    assert "hunter2" not in message


def test_a_variable_that_is_not_set_is_named(complain: Complain) -> None:
    assert complain("server: {host: '${NOWHERE}'}") == (
        "server.host: the environment variable NOWHERE is not set, expected a value or ${NOWHERE:-default}"
    )


@pytest.mark.parametrize("key", ["api_key: [hunter2]", "headers: {x: [hunter2]}", "headers: [hunter2]"])
def test_a_secret_is_never_echoed(complain: Complain, key: str) -> None:
    assert "hunter2" not in complain(f"backends: {{a: {{kind: vllm, url: http://x, {key}}}}}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: cannot be read"):
        load(tmp_path / "nowhere.yaml", {})


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(path, {})
