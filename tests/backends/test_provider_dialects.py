"""Messages before other providers than Anthropic: what arrives there, and what comes back, streamed and plain."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from backends.litellm import LiteLLMBackend
from backends.types import Request
from backends.whole import read_all
from tests.backends.provider_dialects import provider
from tests.published import complaint

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]  # litellm and pydantic warn of each other
MARK = {"cache_control": {"type": "ephemeral"}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
ASKED: dict[str, Any] = {
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "You are kind.", **MARK}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tools": [{"name": "weather", "description": "of a city", "input_schema": SCHEMA, **MARK}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "How is Rome?", **MARK}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "secret thought", "signature": "OLD"},
                {"type": "tool_use", "id": "t0", "name": "weather", "input": {"city": "Rome"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t0", "content": "rain"},
                {"type": "text", "text": "And Oslo?"},
            ],
        },
    ],
}
PROVIDERS = {
    "bedrock": "bedrock/converse/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "deepseek": "deepseek/deepseek-reasoner",
    "gemini": "gemini/gemini-2.5-flash",
    "vertex": "vertex_ai/claude-sonnet-4-5@20250929",
    "azure": "azure_ai/claude-sonnet-4-5",
}
CLAUDES = ("bedrock", "vertex", "azure")


def account(url: str) -> str:
    """A service account whose tokens come from this address."""
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa", reason="needs the extra encryption")
    forms = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    said = {"type": "service_account", "project_id": "p", "client_email": "a@b", "private_key": key.decode()}
    return json.dumps({**said, "token_uri": f"{url}/token"})


def backend_of(name: str, url: str) -> LiteLLMBackend:
    if name == "vertex":
        pytest.importorskip("google.auth", reason="needs Google's library: pip install google-auth requests")
        options = {"vertex_project": "p", "vertex_location": "us-east5", "vertex_credentials": account(url)}
        return LiteLLMBackend(name=name, api_base=f"{url}/rawPredict", options=options)
    if name != "bedrock":
        return LiteLLMBackend(name=name, api_key="k", api_base=url)
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_region_name": "us-west-2"}
    return LiteLLMBackend(name=name, options={**keys, "aws_bedrock_runtime_endpoint": url})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_thoughts_texts_calls_and_usage_of_each_provider_come_back_as_messages(name: str, stream: bool) -> None:
    with provider() as (url, heard):
        backend = backend_of(name, url)
        fields = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in {**ASKED, "stream": stream}.items()}
        request = Request(path="/v1/messages", fields=fields, model=PROVIDERS[name], answers_as="small", stream=stream)
        reply = await backend.send(request)
        body = await read_all(reply)
        await backend.aclose()
    kind = "text/event-stream" if stream else "application/json"
    assert complaint("POST", "/v1/messages", 200, kind, body) is None
    message = whole(body) if stream else json.loads(body)
    thought, text, call = message["content"]
    assert (thought["type"], thought["thinking"]) == ("thinking", "Let me think.")
    assert thought["signature"] == ("SIG" if name in CLAUDES else "")
    assert (text["text"], call["name"], call["input"]) == ("It is sunny.", "weather", {"city": "Oslo"})
    assert message["stop_reason"] == "tool_use"
    written = 20 if name in CLAUDES else 0
    assert message["usage"] == {
        "input_tokens": 29 - written,
        "cache_read_input_tokens": 180,
        "cache_creation_input_tokens": written,
        "output_tokens": 7 if name in CLAUDES else 10,
    }
    assert reply.report.usage is not None
    assert reply.report.usage.parts.cache_write == written
    sent = json.dumps(heard[0])
    for arrives in ("You are kind.", "How is Rome?", "Rome", "rain", "And Oslo?", "weather"):
        assert arrives in sent
    for others in ("secret thought", "OLD", "budget_tokens"):
        assert (others in sent) is (name in CLAUDES)  # docs/api.md names what Messages over chat leave out
    assert sent.count("ephemeral") == (3 if name in CLAUDES and name != "bedrock" else 0)
    assert sent.count("cachePoint") == (3 if name == "bedrock" else 0)


@pytest.mark.parametrize("name", CLAUDES)
async def test_every_place_that_may_be_kept_in_a_cache_is_marked_at_other_providers_of_claude(name: str) -> None:
    """The system, tools, a user's text, the model's own words, a tool's result; the time that is asked for, too."""
    hour = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    said: dict[str, Any] = {
        **ASKED,
        "system": [{"type": "text", "text": "You are kind.", **hour}, {"type": "text", "text": "And brief."}],
        "messages": [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": [{"type": "text", "text": "Hi there.", **MARK}]},
            {"role": "user", "content": [{"type": "text", "text": "How is Rome?", **MARK}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t0", "name": "weather", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t0", "content": "rain", **MARK}]},
        ],
    }
    del said["thinking"]
    with provider() as (url, heard):
        backend = backend_of(name, url)
        fields = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in said.items()}
        await backend.send(Request(path="/v1/messages", fields=fields, model=PROVIDERS[name], answers_as="small"))
        await backend.aclose()
    sent = json.dumps(heard[0])
    assert sent.count("cachePoint" if name == "bedrock" else "ephemeral") == 5
    assert sent.count('"ttl": "1h"') == 1
    for text in ("You are kind.", "And brief.", "Hello.", "Hi there.", "How is Rome?", "rain"):
        assert sent.count(f'"{text}"') == 1


async def test_thoughts_of_another_model_are_not_told_to_claude_who_would_refuse_them() -> None:
    said = json.loads(json.dumps(ASKED).replace('"OLD"', '""'))
    with provider() as (url, heard):
        backend = backend_of("bedrock", url)
        fields = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in said.items()}
        await backend.send(Request(path="/v1/messages", fields=fields, model=PROVIDERS["bedrock"], answers_as="small"))
        await backend.aclose()
    sent = json.dumps(heard[0])
    assert "secret thought" not in sent
    assert "budget_tokens" not in sent  # else a turn that called a tool would have to begin with thoughts
    assert sent.count("cachePoint") == 3


def whole(stream: bytes) -> dict[str, Any]:
    """The message that a stream's events make."""
    events = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: ")]
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"], "partial": ""})
        for key, value in event.get("delta", {}).items() if event["type"] == "content_block_delta" else ():
            field = {"partial_json": "partial"}.get(key, key)
            blocks[-1][field] = blocks[-1].get(field, "") + value if field != "type" else blocks[-1]["type"]
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["partial"])
    last = next(event for event in events if event["type"] == "message_delta")
    return {"content": blocks, "stop_reason": last["delta"]["stop_reason"], "usage": last["usage"]}
