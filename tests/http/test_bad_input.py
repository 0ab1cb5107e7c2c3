"""What a client gets wrong is told in its API's shape, with the right status and what to do, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.scripted import Line, always
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, chat
from tests.http.module import candidates, gateway_over

CHAT = "/v1/chat/completions"
MEBI = 2**20


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, ScriptedServer]]:
    folder = tmp_path_factory.mktemp("bad-input")
    names = {"small": {}, "narrow": {"context_tokens": 64}}
    with gateway_over(folder, always(Line()), lambda engine: candidates(folder, engine, names)) as both:
        yield both


@pytest.fixture(scope="module")
def client(both: tuple[Running, ScriptedServer]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=both[0].url, headers=both[0].headers, timeout=30) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error in OpenAI's shape."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert response.headers["content-type"].startswith("application/json")
    return dict(body["error"])


NOT_JSON = {
    "nothing": b"",
    "a broken object": b'{"model": "auto", "messages": [',
    "a list": b"[]",
    "a text": b'"hello"',
    "a number": b"7",
    "null": b"null",
    "two objects": b"{}{}",
    "a form": b"model=auto&messages=hi",
    "invalid UTF-8 in the text": b'{"model":"auto","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "UTF-16": json.dumps(chat()).encode("utf-16"),
    "a very deep list": b"[" * 200_000,
    "a deep value in an unknown field": b'{"model":"auto","messages":[{"role":"user","content":"hi"}],"x":'
    + b"[" * 99_999,
}


@pytest.mark.parametrize("what", NOT_JSON)
def test_a_body_that_is_no_json_object_is_refused(client: httpx.Client, what: str) -> None:
    response = client.post(CHAT, content=NOT_JSON[what], headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


USER = {"role": "user", "content": "hi"}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"messages": [USER]}, "model"),
    "a model that is a number": ({"model": 4, "messages": [USER]}, "model"),
    "no messages": ({"model": "auto"}, "messages"),
    "empty messages": ({"model": "auto", "messages": []}, "messages"),
    "messages that are a text": ({"model": "auto", "messages": "hi"}, "messages"),
    "a message that is a text": ({"model": "auto", "messages": ["hi"]}, "messages[0]"),
    "content that is a number": (
        {"model": "auto", "messages": [{"role": "user", "content": 7}]},
        "messages[0].content",
    ),
    "stream that is a text": (chat(stream="yes"), "stream"),
    "n of nothing": (chat(n=0), "n"),
    "n of too many": (chat(n=100_000), "n"),
    "no tokens": (chat(max_tokens=0), "max_tokens"),
    "fewer than no tokens": (chat(max_completion_tokens=-5), "max_tokens"),
    "an unknown routing key": (chat(routing={"preferance": 1}), "routing.preferance"),
    "routing that is a text": (chat(routing="cheap"), "routing"),
    "a preference out of range": (chat(routing={"preference": 1.5}), "routing.preference"),
    "a preference that is a text": (chat(routing={"preference": "best"}), "routing.preference"),
    "a cost below nothing": (chat(routing={"max_cost_usd": -1}), "routing.max_cost_usd"),
    "an unknown policy": (chat(routing={"policy": "oracle"}), "routing.policy"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_value_is_named(client: httpx.Client, what: str) -> None:
    body, param = WRONG[what]
    response = client.post(CHAT, json=body)
    assert response.status_code == 400
    assert error_of(response)["param"] == param


def test_unknown_keys_of_the_api_are_passed_on(both: tuple[Running, ScriptedServer], client: httpx.Client) -> None:
    assert client.post(CHAT, json=chat(model="small", brand_new={"a": [1, None]})).status_code == 200
    assert both[1].heard[-1].json()["brand_new"] == {"a": [1, None]}


@pytest.mark.parametrize("model", ["gpt-9", "auto:fancy", "Small", "small "])
def test_an_unknown_model_is_not_found_and_the_message_says_where_to_look(client: httpx.Client, model: str) -> None:
    response = client.post(CHAT, json=chat(model=model))
    assert response.status_code == 404
    error = error_of(response)
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"


@pytest.mark.parametrize("value", ["high", "", "nan", "-0.1", "1.01", "1e999"])
def test_a_preference_header_that_is_no_share_is_refused(client: httpx.Client, value: str) -> None:
    response = client.post(CHAT, json=chat(), headers={"x-pointsman-preference": value})
    assert response.status_code == 400
    assert "preference" in error_of(response)["message"]


def test_a_body_over_the_limit_is_refused_with_the_limit(client: httpx.Client) -> None:
    response = client.post(CHAT, content=b" " * (20 * MEBI))
    assert response.status_code == 413
    assert str(16 * MEBI) in error_of(response)["message"]


def test_a_body_over_the_limit_is_refused_even_if_its_length_is_not_declared(client: httpx.Client) -> None:
    response = client.post(CHAT, content=(b" " * MEBI for _ in range(20)))
    assert response.status_code == 413


def test_a_prompt_longer_than_every_context_says_so(client: httpx.Client) -> None:
    response = client.post(CHAT, json=chat("word " * 1_000, model="narrow"))
    assert response.status_code == 400
    assert error_of(response)["code"] == "context_length_exceeded"


def test_a_long_prompt_goes_to_the_model_that_holds_it(client: httpx.Client) -> None:
    response = client.post(CHAT, json=chat("word " * 1_000))
    assert response.headers["x-pointsman-model"] == "small"


def test_fifteen_megabytes_are_read_and_answered(client: httpx.Client) -> None:
    response = client.post(CHAT, json=chat("hi", metadata={"note": "x" * (15 * MEBI)}))
    assert response.status_code == 200


KEYS = {
    "no key": {},
    "an unknown key": {"Authorization": "Bearer sk-nobody"},
    "an empty key": {"x-api-key": ""},
    "another scheme": {"Authorization": "Basic dXNlcjpwYXNz"},
    "a key that is not ASCII": {"Authorization": "Bearer ключ".encode()},
    "a very long key": {"x-api-key": "k" * 4_000},
}


@pytest.mark.parametrize("what", KEYS)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/route", "/v1/feedback"])
def test_without_a_good_key_nothing_is_answered(both: tuple[Running, ScriptedServer], path: str, what: str) -> None:
    method = "GET" if path == "/v1/models" else "POST"
    body = {"decision_id": "d", "score": 1} if path == "/v1/feedback" else chat()
    response = httpx.request(method, both[0].url + path, json=body, headers=KEYS[what])  # type: ignore[arg-type]
    assert response.status_code == 401
    error = error_of(response)
    assert error["code"] == "invalid_api_key"
    assert "Bearer" in error["message"]


def test_a_bad_body_without_a_key_tells_only_that_the_key_is_missing(both: tuple[Running, ScriptedServer]) -> None:
    assert httpx.post(both[0].url + CHAT, content=b"{").status_code == 401


@pytest.mark.parametrize("path", ["/v1/nothing", "/nothing", "/v1/chat/completions/more", "/admin/v1/nothing"])
def test_an_unknown_path_is_told_in_the_apis_shape(client: httpx.Client, path: str) -> None:
    response = client.post(path, json={})
    assert response.status_code == 404
    error_of(response)


def test_a_wrong_method_is_told_in_the_apis_shape(client: httpx.Client) -> None:
    response = client.get(CHAT)
    assert response.status_code == 405
    error_of(response)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"model": "auto", "prompt": ""}, "prompt"),
        ("/v1/completions", {"model": "auto"}, "prompt"),
        ("/v1/embeddings", {"model": "auto", "input": []}, "input"),
        ("/v1/embeddings", {"model": "auto", "input": {"a": 1}}, "input"),
        ("/v1/responses", {"model": "auto"}, "input"),
        ("/v1/route", {"model": "auto", "messages": []}, "messages"),
        ("/v1/feedback", {"decision_id": "d", "score": 2}, "score"),
        ("/v1/feedback", {"decision_id": "d", "score": "good"}, "score"),
        ("/v1/feedback", {"decision_id": "d", "score": 1, "scroe": 1}, "scroe"),
    ],
)
def test_other_routes_name_what_is_wrong_too(client: httpx.Client, path: str, body: dict[str, Any], param: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 400
    assert error_of(response)["param"] == param


@pytest.mark.parametrize("body", [{"decision_id": "d"}, {"score": 1}, {"score": 1, "thumbs": "up", "decision_id": "d"}])
def test_feedback_that_is_not_whole_is_refused(client: httpx.Client, body: dict[str, Any]) -> None:
    response = client.post("/v1/feedback", json=body)
    assert response.status_code == 400
    assert "give" in error_of(response)["message"]


def test_feedback_on_a_decision_nobody_made_is_not_found(client: httpx.Client) -> None:
    response = client.post("/v1/feedback", json={"decision_id": "dec-nobody", "score": 1})
    assert response.status_code == 404
    error_of(response)


def test_feedback_may_be_repeated_but_contradicts_itself_only_on_purpose(client: httpx.Client) -> None:
    decision = client.post(CHAT, json=chat()).headers["x-pointsman-decision-id"]

    def judge(score: float, **more: Any) -> httpx.Response:
        return client.post("/v1/feedback", json={"decision_id": decision, "score": score, **more})

    assert judge(1.0).json()["recorded"] is True
    assert judge(1.0).json()["recorded"] is False
    assert judge(0.0).status_code == 409
    assert judge(0.0, replace=True).json()["recorded"] is True


ANTHROPIC = {
    "broken": (b"{", 400, "invalid_request_error"),
    "no max_tokens": (json.dumps({"model": "auto", "messages": [USER]}).encode(), 400, "invalid_request_error"),
    "unknown model": (
        json.dumps({"model": "x", "max_tokens": 5, "messages": [USER]}).encode(),
        404,
        "not_found_error",
    ),
    "too large": (b" " * (17 * MEBI), 413, "request_too_large"),
}


@pytest.mark.parametrize("what", ANTHROPIC)
def test_the_messages_api_tells_errors_in_its_own_shape(client: httpx.Client, what: str) -> None:
    content, status, kind = ANTHROPIC[what]
    response = client.post("/v1/messages", content=content)
    assert response.status_code == status
    body = response.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["error"]["message"]


def test_a_missing_key_is_told_in_the_messages_apis_shape(both: tuple[Running, ScriptedServer]) -> None:
    response = httpx.post(both[0].url + "/v1/messages", json={})
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS_KNOWN = [
    "model",
    "messages",
    "stream",
    "n",
    "max_tokens",
    "routing",
    "stream_options",
    "tools",
    "user",
    "logprobs",
]
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.just("user") | JSON, "content": st.text(max_size=20) | JSON}), max_size=3
)


@given(
    body=st.dictionaries(st.sampled_from(KEYS_KNOWN), JSON, max_size=5),
    messages=MESSAGES | JSON,
    model=st.sampled_from(["auto", "small", "auto:cheap"]) | JSON,
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_whatever_makes_the_gateway_fail(client: httpx.Client, body: Any, messages: Any, model: Any) -> None:
    response = client.post(CHAT, json={**body, "messages": messages, "model": model})
    assert response.status_code in {200, 400, 404}, (response.status_code, response.text)
    if response.status_code != 200:
        error_of(response)


@given(content=st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_whatever_make_the_gateway_fail(client: httpx.Client, content: bytes) -> None:
    for path in (CHAT, "/v1/route", "/v1/feedback", "/v1/embeddings"):
        response = client.post(path, content=content)
        assert response.status_code == 400, (path, response.status_code, response.text)
        error_of(response)


def test_after_all_that_the_gateway_still_answers_and_holds_no_money(client: httpx.Client) -> None:
    assert client.post(CHAT, json=chat()).status_code == 200
    assert client.get("/ready").status_code == 200


def test_no_key_and_no_prompt_is_in_the_log(both: tuple[Running, ScriptedServer]) -> None:
    log = both[0].log.read_text()
    assert "Traceback" not in log
    assert log.count(both[0].key) <= 2  # printed for the new one at the start: alone and in the curl line
