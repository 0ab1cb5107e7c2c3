"""Engines whose bytes are no text, begin with a mark, or never come to the end of an event: an answer, or an error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from backends.scripted import Line, event
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, chat
from tests.http.module import candidates, gateway_over

pytestmark = pytest.mark.unpublished("what they send is no JSON")
CHAT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 9, "completion_tokens": 5}
DONE = b"data: [DONE]\n\n"
MIB = b"x" * 2**20


def chunk(text: str, finish: str | None = None, **more: object) -> bytes:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    return event(
        {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "any", "choices": choices, **more}
    )


STREAMS: Mapping[str, tuple[bytes, ...]] = {
    "id": (chunk("Well.").replace(b'"c1"', b'"\xff\xfe"'), chunk("", "stop"), DONE),
    "finish": (chunk("Well."), chunk("", "stop").replace(b'"stop"', b'"\xffstop"'), DONE),
    "text": (chunk("Well.").replace(b"Well.", b"Well.\xf0\x9f"), chunk("", "stop"), DONE),
    "mark": (b"\xef\xbb\xbf" + chunk("Well."), chunk("", "stop"), DONE),
    "ends": tuple(bytes([each]) for each in (chunk("Well.") + chunk("", "stop") + DONE).replace(b"\n", b"\r\n")),
}


def plain(model: str) -> bytes:
    message = {"role": "assistant", "content": "Well."}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    said = {"id": "c1", "object": "chat.completion", "created": 1, "model": model, "choices": choices, "usage": USAGE}
    return json.dumps(said).encode()


PLAIN = {
    "id": plain("id").replace(b'"c1"', b'"\xff\xfe"'),
    "text": plain("text").replace(b"Well.", b"Well.\xf0\x9f"),
    "usage": plain("usage").replace(b"}}", b', "of": "\xff"}}'),
}
ENDLESS = {
    "comments": (b": " + MIB + b"\n\n",) * 40,
    "line": (b'data: {"x": "', *(MIB,) * 40),
}


def lines(model: str, body: Mapping[str, Any]) -> Line:
    if model in ENDLESS:
        return Line(verbatim=ENDLESS[model])
    return Line(verbatim=STREAMS[model] if body.get("stream") else (PLAIN[model],))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("odd-bytes")

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        made = candidates(folder, engine, {name: {} for name in (*STREAMS, *PLAIN, *ENDLESS)})
        for backend in made["backends"].values():
            backend["timeouts"]["first_byte_s"] = 20
        return made

    with gateway_over(folder, lines, settings) as (running, _):
        yield running


@pytest.fixture
def client(gateway: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=60) as client:
        yield client


@pytest.mark.parametrize("what", PLAIN)
def test_an_answer_with_bytes_that_are_no_text_is_delivered_as_text_and_charged(
    client: httpx.Client, what: str
) -> None:
    answer = client.post(CHAT, json=chat(model=what))
    assert answer.status_code == 200, answer.text
    said = json.loads(answer.content.decode())
    assert said["choices"][0]["message"]["content"].startswith("Well.")
    assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx(14e-6)


@pytest.mark.parametrize("what", STREAMS)
def test_a_stream_with_such_bytes_or_a_mark_before_it_is_a_stream_of_text(client: httpx.Client, what: str) -> None:
    answer = client.post(CHAT, json=chat(model=what, stream=True))
    assert answer.status_code == 200, answer.text
    events = [each for each in answer.content.decode().split("\n\n") if each]
    assert all(each.startswith("data: ") for each in events), events
    assert events[-1] == "data: [DONE]"
    said = [json.loads(each[6:]) for each in events[:-1]]
    assert said[0]["choices"][0]["delta"]["content"].startswith("Well.")
    assert said[1]["choices"][0]["finish_reason"].endswith("stop")


@pytest.mark.parametrize("what", ENDLESS)
def test_a_stream_that_never_comes_to_its_first_event_is_an_error_before_it_fills_the_memory(
    client: httpx.Client, what: str
) -> None:
    answer = client.post(CHAT, json=chat(model=what, stream=True))
    assert answer.status_code == 502
    assert "an event of more than 33554432 bytes" in answer.json()["error"]["message"]


def test_nothing_of_this_left_a_traceback(gateway: Running) -> None:
    assert "Traceback" not in gateway.log.read_text()
