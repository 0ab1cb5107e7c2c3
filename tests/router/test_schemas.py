"""Parsing: what must be known is known, what is not understood survives, what is wrong is named."""

import json

import pytest

from router.errors import InvalidRequest
from router.gateway.types import Call
from router.http.schemas import parse

VENDOR = b'{"big":123456789012345678901234567890, "f":1.0}'
CHAT = {"model": "auto", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]}


def chat(**more: object) -> Call:
    return parse("/v1/chat/completions", json.dumps(CHAT | more).encode(), {})


def test_the_last_user_message_is_what_is_embedded() -> None:
    messages = [*CHAT["messages"], {"role": "assistant", "content": "hello"}, {"role": "user", "content": "and now?"}]
    assert chat(messages=messages).text == "and now?"


def test_text_parts_are_joined_and_images_are_counted() -> None:
    parts = [
        {"type": "text", "text": "what is"},
        {"type": "image_url", "image_url": {"url": "data:x"}},
        {"type": "text", "text": "this?"},
    ]
    call = chat(messages=[{"role": "user", "content": parts}])
    assert call.text.split() == ["what", "is", "this?"]
    assert call.requirements.images == 1
    assert "vision" in call.requirements.capabilities


def test_unknown_vendor_fields_are_kept_byte_for_byte() -> None:
    body = b'{"model":"auto","messages":[{"role":"user","content":"x"}],"vendor":' + VENDOR + b"}"
    call = parse("/v1/chat/completions", body, {})
    assert bytes(call.fields["vendor"]) == VENDOR


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"])
@pytest.mark.parametrize("said", ["наша Маша", "今日は", '🎈 and a "quote"\n', "plain \\u00e9"])
def test_letters_that_a_client_escapes_are_counted_as_they_are_read_and_sent_as_they_came(path: str, said: str) -> None:
    image = {"type": "image_url", "image_url": {"url": f"https://example.org/{said}"}}
    talk = [{"role": "user", "content": [{"type": "text", "text": said}, image]}]
    asked = {"model": "auto", "max_tokens": 9, "messages": talk, "prompt": said, "input": said, "vendor": said}
    escaped = json.dumps(asked, ensure_ascii=True, separators=(",", ":")).encode()
    short = json.dumps(asked, ensure_ascii=False, separators=(",", ":")).encode()
    call, usual = parse(path, escaped, {}), parse(path, short, {})
    assert call.requirements == usual.requirements
    assert call.text == usual.text
    assert bytes(call.fields["vendor"]) == json.dumps(said, ensure_ascii=True).encode()


@pytest.mark.parametrize("odd", [b"1e999", b"[" * 600 + b"]" * 600, b"12345678901234567890123456789"])
def test_what_cannot_be_read_anew_is_counted_as_it_was_sent(odd: bytes) -> None:
    body = b'{"model":"auto","messages":[{"role":"user","content":"\\u00e9"}],"tools":[' + odd + b"]}"
    assert parse("/v1/chat/completions", body, {}).requirements.prompt_bytes >= len(odd)


def test_the_routing_object_does_not_travel_upstream() -> None:
    call = chat(
        routing={
            "preference": 0.2,
            "allowed_models": ["a"],
            "max_cost_usd": 0.001,
            "local_only": True,
            "policy": "best",
        }
    )
    assert "routing" not in call.fields
    assert (call.preference, call.policy) == (0.2, "best")
    assert (call.requirements.allowed, call.requirements.max_cost, call.requirements.local_only) == (
        frozenset({"a"}),
        1_000_000,
        True,
    )


def test_aliases_set_the_preference_and_other_names_pin_the_model() -> None:
    cheap, best = chat(model="auto:cheap"), chat(model="auto:best")
    assert cheap.preference < best.preference
    assert cheap.requirements.pinned is None
    assert chat(model="small@3bit").requirements.pinned == "small@3bit"


def test_the_body_s_preference_comes_before_the_header_s() -> None:
    body = json.dumps(CHAT | {"routing": {"preference": 0.9}}).encode()
    assert parse("/v1/chat/completions", body, {}, preference=0.1).preference == 0.9
    assert parse("/v1/chat/completions", json.dumps(CHAT).encode(), {}, preference=0.1).preference == 0.1


def test_the_worst_case_of_a_completion_counts_every_prompt_and_choice() -> None:
    call = parse("/v1/completions", json.dumps({"model": "auto", "prompt": ["a", "b"], "n": 3}).encode(), {})
    assert call.requirements.choices == 6
    assert call.requirements.completion_tokens == 16  # OpenAI's default for this route


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (b"{", None, "not valid JSON"),
        (b"[]", None, "Expected `object`"),
        (b'{"model":"auto"}', "messages", "missing required field"),
        (b'{"messages":[]}', "model", "missing required field"),
        (b'{"model":"auto","messages":[]}', "messages", "empty"),
        (b'{"model":"","messages":[{"role":"user","content":"x"}]}', "model", "empty"),
        (b'{"model":7,"messages":[]}', "model", "Expected `str`"),
        (b'{"model":"auto","messages":"hi"}', "messages", "Expected `array`"),
        (b'{"model":"auto","messages":[{"role":"user","content":5}]}', "messages[0].content", "Expected"),
        (b'{"model":"auto","messages":[{"role":"user","content":"\xff"}]}', None, "not valid JSON"),
        (b'{"model":"auto","messages":[{"role":"user","content":"x"}],"n":0}', "n", "expected 1"),
        (b'{"model":"auto","messages":[{"role":"user","content":"x"}],"n":1000}', "n", "at most 128"),
        (b'{"model":"auto","messages":[{"role":"user","content":"x"}],"max_tokens":-1}', "max_tokens", "expected 1"),
        (
            b'{"model":"auto","messages":[{"role":"user","content":"x"}],"routing":{"prefrence":1}}',
            "routing.prefrence",
            "unknown",
        ),
        (
            b'{"model":"auto","messages":[{"role":"user","content":"x"}],"routing":{"preference":2}}',
            "routing.preference",
            "expected 0",
        ),
        (
            b'{"model":"auto","messages":[{"role":"user","content":"x"}],"routing":{"max_cost_usd":-1}}',
            "routing.max_cost_usd",
            "expected 0",
        ),
    ],
)
def test_a_bad_body_is_refused_and_the_parameter_named(body: bytes, param: str | None, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        parse("/v1/chat/completions", body, {})
    assert caught.value.param == param
