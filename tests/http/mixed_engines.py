"""Chat-only engines, each unable to do other things, which say so in the words of the field; and requests to try them.

Each feature has what it asks for in each of the three protocols, how an engine sees it in chat, and what engines say.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import Any

from tests.clients import engine as able

Fields = Mapping[str, Any]
Chat = Callable[[dict[str, Any]], bool]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
FUNCTION = {"name": "f", "description": "of nothing", "parameters": SCHEMA}
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
PDF = "JVBERi0xLjQK"
LONG = "word " * 3_000
WEB = "https://pictures.example/cat.png"
STOPS = ["a\u0001", "b\u0001", "c\u0001", "d\u0001", "e\u0001", "f\u0001"]
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


@dataclass(frozen=True)
class Feature:
    """`asks`: fields by path. A key of `content` is parts that go into the user's message."""

    asks: Mapping[str, Fields]
    seen: Chat
    says: tuple[str, ...]
    status: tuple[int, ...] = (400,)


def parts(request: dict[str, Any], kind: str) -> bool:
    found = (part for each in request["messages"] if isinstance(each["content"], list) for part in each["content"])
    return any(part["type"] == kind for part in found)


def form(request: dict[str, Any]) -> str:
    return str((request.get("response_format") or {}).get("type"))


TOOLS: dict[str, dict[str, Any]] = {CHAT: {"tools": [{"type": "function", "function": FUNCTION}]}}
TOOLS |= {RESPONSES: {"tools": [{"type": "function", **FUNCTION, "strict": True}]}}
TOOLS |= {MESSAGES: {"tools": [{"name": "f", "description": "of nothing", "input_schema": SCHEMA}]}}
FORCED: dict[str, dict[str, Any]] = {CHAT: {"tool_choice": "required"}, RESPONSES: {"tool_choice": "required"}}
FORCED |= {MESSAGES: {"tool_choice": {"type": "any"}}}
FEATURES = {
    "tools": Feature(
        TOOLS,
        lambda r: bool(r.get("tools")) and r.get("tool_choice") in (None, "auto"),
        (
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
            "registry.ollama.ai/library/narrow:latest does not support tools",
            "tools param requires --jinja flag",
        ),
        (400, 500),
    ),
    "tool_choice": Feature(
        {path: {**TOOLS[path], **FORCED[path]} for path in TOOLS},
        lambda r: r.get("tool_choice") not in (None, "auto", "none"),
        (
            "tool_choice is not supported by this model",
            'tool_choice="required" is unsupported; only "auto" is supported',
        ),
        (400, 422),
    ),
    "json_object": Feature(
        {
            CHAT: {"response_format": {"type": "json_object"}},
            RESPONSES: {"text": {"format": {"type": "json_object"}}},
        },
        lambda r: form(r) == "json_object",
        ("Invalid parameter: 'response_format' of type 'json_object' is not supported with this model.",),
    ),
    "json_schema": Feature(
        {
            CHAT: {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            RESPONSES: {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
        },
        lambda r: form(r) == "json_schema",
        ("response_format: json_schema is not implemented", "This model does not support guided decoding"),
        (400, 501),
    ),
    "logprobs": Feature(
        {CHAT: {"logprobs": True, "top_logprobs": 2}},
        lambda r: bool(r.get("logprobs")),
        ("`logprobs` is not supported with this model", "This server does not support logprobs"),
        (400, 501),
    ),
    "logit_bias": Feature(
        {CHAT: {"logit_bias": {"5": 1}}},
        lambda r: bool(r.get("logit_bias")),
        ("Unsupported parameter: 'logit_bias'", "property 'logit_bias' is unsupported"),
    ),
    "n": Feature(
        {CHAT: {"n": 2}},
        lambda r: (r.get("n") or 1) > 1,
        ("'n' > 1 is not supported", "Only one completion choice is supported: n must be 1 (not supported: 'n')"),
        (400, 422),
    ),
    "seed": Feature(
        {CHAT: {"seed": 5}},
        lambda r: r.get("seed") is not None,
        ("Extra inputs are not permitted: seed", "Unrecognized request argument supplied: seed"),
        (400, 422),
    ),
    "images": Feature(
        {
            CHAT: {"content": [{"type": "image_url", "image_url": {"url": PNG}}]},
            RESPONSES: {"content": [{"type": "input_image", "image_url": PNG, "detail": "auto"}]},
            MESSAGES: {
                "content": [
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": PNG.partition(",")[2]},
                    }
                ]
            },
        },
        lambda r: parts(r, "image_url"),
        (
            "narrow is not a multimodal model",
            "At most 0 image(s) may be provided in one request.",
            "image input is not supported",
        ),
        (400, 500),
    ),
    "audio": Feature(
        {CHAT: {"content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]}},
        lambda r: parts(r, "input_audio"),
        ("At most 0 audio(s) may be provided in one request.", "audio input is not supported"),
    ),
    "files": Feature(
        {
            CHAT: {
                "content": [
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}
                ]
            },
            RESPONSES: {
                "content": [
                    {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}
                ]
            },
            MESSAGES: {
                "content": [
                    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}
                ]
            },
        },
        lambda r: parts(r, "file"),
        ("Unknown part type: file is not supported", "This model does not support file inputs"),
    ),
    "reasoning": Feature(
        {CHAT: {"reasoning_effort": "low"}, RESPONSES: {"reasoning": {"effort": "low"}}},
        lambda r: r.get("reasoning_effort") is not None,
        (
            "narrow does not support thinking",
            "Unsupported parameter: 'reasoning_effort' is not supported with this model.",
        ),
    ),
    "parallel_tool_calls": Feature(
        {
            CHAT: {**TOOLS[CHAT], "parallel_tool_calls": True},
            RESPONSES: {**TOOLS[RESPONSES], "parallel_tool_calls": True},
        },
        lambda r: bool(r.get("parallel_tool_calls")),
        ("parallel_tool_calls is not supported", "Unrecognized request argument supplied: parallel_tool_calls"),
    ),
    "context": Feature(
        {path: {"content": [{"type": "text", "text": LONG}]} for path in TOOLS},
        lambda r: len(str(r["messages"])) > len(LONG),
        (
            "This model's maximum context length is 2048 tokens. However, you requested 9000 tokens in the messages",
            "the request exceeds the available context size (2048 tokens), try increasing it",
            "The input (9000 tokens) is longer than the model's context length (2048 tokens).",
        ),
    ),
    "prefill": Feature(
        {path: {"prefill": "Well,"} for path in (CHAT, MESSAGES)},
        lambda r: r["messages"][-1]["role"] == "assistant",
        (
            "This model does not support assistant message prefill. The conversation must end with a user message.",
            "Cannot set `add_generation_prompt`: an assistant message as the last message is not supported",
        ),
    ),
}

FEATURES |= {
    "developer": Feature(
        {path: {"first": {"role": "developer", "content": "Be kind."}} for path in (CHAT, RESPONSES)},
        lambda r: any(each["role"] == "developer" for each in r["messages"]),
        (
            "Unexpected message role: developer",
            "messages[0].role: unknown variant `developer`, expected one of `system`, `user`, `assistant`, `tool`",
            "Chat template does not support the 'developer' message role.",
        ),
        (400, 422, 500),
    ),
    "image_by_address": Feature(
        {
            CHAT: {"content": [{"type": "image_url", "image_url": {"url": WEB}}]},
            RESPONSES: {"content": [{"type": "input_image", "image_url": WEB, "detail": "low"}]},
            MESSAGES: {"content": [{"type": "image", "source": {"type": "url", "url": WEB}}]},
        },
        lambda r: WEB in json.dumps(r["messages"]),
        (
            "image URLs are not currently supported, please use base64 encoded data instead",
            "The URL must be from one of the allowed domains: []",
            "Only base64 data URLs are supported for images",
        ),
        (400, 422),
    ),
    "stops": Feature(
        {CHAT: {"stop": STOPS}, MESSAGES: {"stop_sequences": STOPS}},
        lambda r: len(r.get("stop") or ()) > 4,
        (
            "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length 6.",
            "Number of stop sequences should not exceed 4",
        ),
        (400, 422),
    ),
    "long_answer": Feature(
        {CHAT: {"max_tokens": 20_000}, RESPONSES: {"max_output_tokens": 20_000}, MESSAGES: {"max_tokens": 20_000}},
        lambda r: max(r.get("max_tokens") or 0, r.get("max_completion_tokens") or 0) > 8192,
        (
            "max_tokens is too large: 20000. This model supports at most 8192 completion tokens",
            "max_tokens: 20000 > 8192, which is the maximum allowed number of output tokens for narrow",
        ),
    ),
    "max_completion_tokens": Feature(
        {CHAT: {"max_completion_tokens": 60}},
        lambda r: "max_completion_tokens" in r,
        ("Unrecognized request argument supplied: max_completion_tokens", "json: unknown field: max_completion_tokens"),
        (400, 422),
    ),
    "parts": Feature(
        {path: {"content": [{"type": "text", "text": "and more"}]} for path in TOOLS},
        lambda r: any(isinstance(each["content"], list) for each in r["messages"]),
        (
            "Invalid type for 'messages[0].content': expected a string, but got an array instead.",
            "messages[0]: data did not match any variant of untagged enum MessageContent",
        ),
        (400, 422),
    ),
    "one_tool": Feature(
        {
            CHAT: {**TOOLS[CHAT], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            RESPONSES: {**TOOLS[RESPONSES], "tool_choice": {"type": "function", "name": "f"}},
            MESSAGES: {**TOOLS[MESSAGES], "tool_choice": {"type": "tool", "name": "f"}},
        },
        lambda r: isinstance(r.get("tool_choice"), dict),
        ('`tool_choice` must either be a named tool, "auto", or "none".', "tool_choice is not supported"),
    ),
    "settings_of_sampling": Feature(
        {CHAT: {"top_k": 5, "min_p": 0.1}, MESSAGES: {"top_k": 5}},
        lambda r: "top_k" in r,
        (
            "Unrecognized request argument supplied: top_k",
            'Invalid JSON payload. Unknown name "top_k": Cannot find field.',
        ),
    ),
}
IMPLIES = {  # what a request for a feature asks of an engine too
    "tool_choice": ("tools",),
    "one_tool": ("tools", "tool_choice"),
    "parallel_tool_calls": ("tools",),
    "image_by_address": ("images", "parts"),
    **dict.fromkeys(("images", "audio", "files", "context"), ("parts",)),
}


def request_of(path: str, features: list[str], *, stream: bool, text: str = "hello") -> dict[str, Any]:
    """A body that asks for these, `auto`."""
    body: dict[str, Any] = {"model": "auto", "stream": stream}
    content: list[dict[str, Any]] = [{"type": "input_text" if path == RESPONSES else "text", "text": text}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    for name in features:
        for key, value in FEATURES[name].asks[path].items():
            if key == "content":
                content.extend(
                    {**each, "type": "input_text"} if each["type"] == "text" and path == RESPONSES else each
                    for each in value
                )
            elif key == "first":
                messages.insert(0, value)
            elif key == "prefill":
                messages.append({"role": "assistant", "content": value})
            else:
                body[key] = value
    if len(content) == 1:
        next(each for each in messages if each["content"] is content)["content"] = text
    body["input" if path == RESPONSES else "messages"] = messages
    if "max_completion_tokens" not in body:
        body.setdefault("max_output_tokens" if path == RESPONSES else "max_tokens", 40)
    return body


class Unable(able.Handler):
    """`lacks` maps what it cannot do to what it says; streams may say so in their first event, as SGLang's do."""

    lacks: Mapping[str, tuple[int, str]] = {}
    shapes = 4

    def do_POST(self) -> None:  # noqa: N802  (the library's name)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path != CHAT:
            self._json(404, {"detail": "Not Found"})
            return
        request = json.loads(body)
        for name, (status, said) in self.lacks.items():
            if FEATURES[name].seen(request):
                shaped = _shape(len(body) % self.shapes, said)
                if request.get("stream") and len(body) % 3 == 0:
                    self._stream(
                        iter([shaped if isinstance(shaped, dict) and "error" in shaped else {"error": shaped}])
                    )
                else:
                    self._json(status, shaped)
                return
        message = able.answer(request)
        if request.get("stream"):
            self._stream(able.chunks(request, message))
            return
        answer = able.whole(request, message)
        answer["choices"] = [{**answer["choices"][0], "index": each} for each in range(request.get("n") or 1)]
        self._json(200, answer)


def _shape(number: int, said: str) -> object:
    """OpenAI's, vLLM's older one, FastAPI's, Ollama's."""
    return (
        {"error": {"message": said, "type": "BadRequestError", "param": None, "code": 400}},
        {"object": "error", "message": said, "type": "BadRequestError", "param": None, "code": 400},
        {"detail": [{"loc": ["body"], "msg": said, "type": "extra_forbidden"}]},
        {"error": said},
    )[number]


def engines(chance: random.Random) -> tuple[ThreadingHTTPServer, ThreadingHTTPServer, list[set[str]]]:
    """Two engines, and what each lacks: every feature is lacked by the first, by the second, or by neither."""
    lacks: list[dict[str, tuple[int, str]]] = [{}, {}]
    for name, feature in FEATURES.items():
        which = chance.choice((0, 0, 1, 1, None))
        if which is not None:
            lacks[which][name] = chance.choice(feature.status), chance.choice(feature.says)
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), type("Engine", (Unable,), {"lacks": each})) for each in lacks]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    return servers[0], servers[1], [set(each) for each in lacks]


def requests(
    chance: random.Random, lacks: list[set[str]], count: int
) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """(path, body, features) that one of the engines at least can serve."""
    while count:
        path = chance.choice((CHAT, CHAT, RESPONSES, MESSAGES))
        open_to = [name for name, feature in FEATURES.items() if path in feature.asks]
        asked = chance.sample(open_to, chance.choice((0, 1, 1, 2, 3)))
        body = request_of(path, asked, stream=chance.random() < 0.4 and "n" not in asked)
        asked += [also for each in asked for also in IMPLIES.get(each, ())]
        if any(not lack & set(asked) for lack in lacks):
            count -= 1
            yield path, body, asked
