"""Programs whose engines write what is hardly JSON: the run ends with an answer, and is charged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, chat
from tests.http.module import candidates, gateway_over

pytestmark = pytest.mark.unpublished("they lie")
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
TEXTS = {"letter": b'"forty-two \\ud83d"'}
USAGES = {
    "none": b'{"prompt_tokens": NaN, "completion_tokens": "x"}',
    "infinite": b'{"prompt_tokens": 1e999, "completion_tokens": Infinity}',
    "list": b"[1, 2]",
    "long": b'{"prompt_tokens": ' + b"9" * 400 + b', "completion_tokens": 7}',
}
DEEP = {"deep": b'{"prompt_tokens": ' + b"[" * 5000 + b"]" * 5000 + b"}"}
PROGRAMS = {
    "sure": {"kind": "escalate", "of": ["small", "large"], "risk": 0.1},
    "vote": {"kind": "vote", "of": "small", "n": 3},
    "best": {"kind": "best_of", "of": "small", "n": 3},
    "draft": {"kind": "refine", "draft": "small", "critic": "large"},
    "agent": {"kind": "roles", "plan": "large", "call": "small", "summarise": "small"},
    "digest": {"kind": "map_reduce", "map": "small", "reduce": "large"},
}
BODIES: Mapping[str, dict[str, Any]] = {
    CHAT: chat(max_tokens=60),
    RESPONSES: {"input": "What is 17 + 25?", "max_output_tokens": 60},
    MESSAGES: {"messages": [{"role": "user", "content": "What is 17 + 25?"}], "max_tokens": 60},
}


def lines(_model: str, body: Mapping[str, Any]) -> Line:
    lie = str(body.get("user") or "none")
    text, usage = (
        TEXTS.get(lie, b'"forty-two"'),
        (USAGES | DEEP).get(lie, b'{"prompt_tokens": 9, "completion_tokens": 3}'),
    )
    head = b'{"id": "c1", "created": 1, "model": "any", "object": '
    if not body.get("stream"):
        choice = b'"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": %b}}]'
        return Line(verbatim=(head + b'"chat.completion", ' + choice % text + b', "usage": ' + usage + b"}",))
    delta = b'"choices": [{"index": 0, "finish_reason": "stop", "delta": {"content": %b}}]}' % text
    last = b'"choices": [], "usage": ' + usage + b"}"
    chunks = [b"data: " + head + b'"chat.completion.chunk", ' + each + b"\n\n" for each in (delta, last)]
    return Line(verbatim=(*chunks, b"data: [DONE]\n\n"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("lying-programs")

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        only_chat = {"capabilities": ["chat"]}
        return candidates(folder, engine, {"small": only_chat, "large": only_chat}) | {"programs": PROGRAMS}

    with gateway_over(folder, lines, settings) as (running, _):
        yield running


@pytest.mark.parametrize("lie", [*USAGES, *TEXTS])
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("path", BODIES)
def test_a_program_answers_whatever_its_engines_write_beside_their_answers(
    gateway: Running, path: str, program: str, lie: str
) -> None:
    liar = {"metadata": {"user_id": lie}} if path == MESSAGES else {"user": lie}
    for stream in (False, True):
        body = {**BODIES[path], **liar, "model": program, "temperature": 0.9, "stream": stream}
        answer = httpx.post(gateway.url + path, json=body, headers=gateway.headers, timeout=60)
        assert answer.status_code == 200, answer.text
        assert "forty-two" in answer.content.decode()
        assert "error" not in answer.text.replace('"error":null', "").replace('"error": null', "")
        if not stream:
            json.loads(answer.content)
            assert float(answer.headers["x-pointsman-cost-usd"]) > 0


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("path", BODIES)
def test_an_answer_nested_beyond_reading_is_given_as_it_is_or_failed(gateway: Running, path: str, program: str) -> None:
    liar = {"metadata": {"user_id": "deep"}} if path == MESSAGES else {"user": "deep"}
    body = {**BODIES[path], **liar, "model": program, "temperature": 0.9}
    answer = httpx.post(gateway.url + path, json=body, headers=gateway.headers, timeout=60)
    assert answer.status_code in {200, 502}, answer.text


def test_nothing_of_this_left_a_traceback_or_a_hold(gateway: Running) -> None:
    assert "Traceback" not in gateway.log.read_text()
    assert "pointsman_holds 0" in httpx.get(f"{gateway.url}/metrics").text
