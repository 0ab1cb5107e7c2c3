"""What engines get wrong: the client has an answer in its API's shape, and every request is settled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from tests.http.conftest import Running, chat
from tests.http.module import candidates, gateway_over

CHAT = "/v1/chat/completions"
LINES = {
    "good": Line(text="a good answer"),
    "hangs": Line(trouble="hang"),
    "resets": Line(trouble="reset"),
    "fails": Line(trouble="500"),
    "html": Line(trouble="html"),
    "garbage": Line(trouble="garbage"),
    "busy": Line(trouble="busy", retry_after_s=7),
    "refuses": Line(trouble="refuse"),
    "breaks": Line(text="one two three four", trouble="half chunk", trouble_after=2),
    "dies": Line(text="one two three four", trouble="error event", trouble_after=2),
    "stalls": Line(text="one two three four", trouble="hang", trouble_after=2),
    "uncounted": Line(text="twelve characters", reports_usage=False),
    "slow": Line(text="late but whole", delay_s=0.3),
}


ONLY_CHAT = {"capabilities": ["chat"]}
NO_ANSWERS = {
    "no-choices": b'{"id": "x", "object": "chat.completion", "choices": 5}',
    "no-message": b'{"id": "x", "object": "chat.completion", "choices": [{"message": [1], "finish_reason": "stop"}]}',
}  # which other protocols cannot be made of
LINES |= {name: Line(verbatim=(said,)) for name, said in NO_ANSWERS.items()}

# An engine that cannot be reached is left alone for a while: a test that needs its trouble anew has one of its own.
LINES |= {
    f"{name}-{use}": line for name, line in LINES.items() if line.trouble for use in ("stream", "first", "second")
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, ScriptedServer]]:
    folder = tmp_path_factory.mktemp("bad-engines")

    def settings(engine: ScriptedServer) -> dict[str, Any]:
        made = candidates(folder, engine, {name: ONLY_CHAT if name in NO_ANSWERS else {} for name in LINES})
        made["models"][0]["price"] = {"prompt": 9, "completion": 9}  # the good one is the most expensive: tried last
        for backend in made["backends"].values():
            backend["timeouts"]["idle_s"] = 0.5
            backend["breaker"] = {"failures": 1_000}  # each test sees the trouble, not the breaker
        return made

    with gateway_over(folder, by_model(LINES), settings) as both:
        yield both


@pytest.fixture
def client(both: tuple[Running, ScriptedServer]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=both[0].url, headers=both[0].headers, timeout=30) as client:
        yield client


def events_of(response: httpx.Response) -> list[Any]:
    """The data of a stream's events, decoded; [DONE] as it is."""
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def text_of(events: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for each in events
        if each != "[DONE]"
        for choice in each.get("choices", [])
    )


def held(client: httpx.Client) -> float:
    """Holds that are open now, by /metrics."""
    found = re.search(r"^pointsman_holds\S* (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.parametrize(
    ("model", "status"),
    [("hangs", 504), ("resets", 502), ("fails", 502), ("html", 502), ("garbage", 502), ("busy", 429)],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_before_its_first_byte_is_an_error_of_the_gateway(
    client: httpx.Client, model: str, status: int, stream: bool
) -> None:
    response = client.post(CHAT, json=chat(model=f"{model}-stream" if stream else model, stream=stream))
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert held(client) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_engines_429_stays_one_and_says_when_to_come_back(client: httpx.Client, stream: bool) -> None:
    for _ in range(3):  # nobody else waits for the first
        response = client.post(CHAT, json=chat(model="busy", stream=stream))
        assert (response.status_code, response.headers["retry-after"]) == (429, "7")
        assert response.json()["error"]["code"] == "rate_limit_exceeded"


def test_an_engines_429_stays_one_where_the_others_failed_otherwise(client: httpx.Client) -> None:
    response = client.post(CHAT, json=chat(routing={"allowed_models": ["busy-first", "fails-first"]}))
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")


def test_an_engine_that_refuses_the_request_is_believed(client: httpx.Client) -> None:
    response = client.post(CHAT, json=chat(model="refuses"))
    assert response.status_code == 400
    assert "The script refuses this." in response.json()["error"]["message"]
    assert held(client) == 0


@pytest.mark.parametrize("bad", ["hangs", "resets", "fails", "html", "garbage", "busy"])
@pytest.mark.parametrize("stream", [False, True])
def test_another_model_answers_where_the_first_one_fails(client: httpx.Client, bad: str, stream: bool) -> None:
    bad = f"{bad}-second" if stream else f"{bad}-first"
    body = chat(stream=stream, routing={"allowed_models": [bad, "good"]})
    response = client.post(CHAT, json=body)
    assert response.status_code == 200
    assert response.headers["x-pointsman-model"] == "good"
    text = text_of(events_of(response)) if stream else response.json()["choices"][0]["message"]["content"]
    assert text == "a good answer"


@pytest.mark.parametrize("model", ["breaks", "dies", "stalls"])
def test_an_answer_that_breaks_off_ends_with_an_error_and_is_never_begun_anew(client: httpx.Client, model: str) -> None:
    response = client.post(CHAT, json=chat(stream=True, routing={"allowed_models": [model, "good"]}))
    assert response.status_code == 200
    events = events_of(response)
    assert text_of(events) == "one two"
    assert [each for each in events if each != "[DONE]"][-1]["error"]["message"]
    assert held(client) == 0


def test_an_answer_without_usage_is_charged_by_its_text(client: httpx.Client) -> None:
    response = client.post(CHAT, json=chat(model="uncounted"))
    assert response.status_code == 200
    assert float(response.headers["x-pointsman-cost-usd"]) > 0


def test_a_stream_without_usage_is_charged_by_its_text(client: httpx.Client) -> None:
    body = chat(model="uncounted", stream=True, stream_options={"include_usage": True})
    response = client.post(CHAT, json=body)
    assert text_of(events_of(response)) == "twelve characters"
    assert held(client) == 0


def test_a_slow_first_byte_within_the_limit_is_waited_for(client: httpx.Client) -> None:
    response = client.post(CHAT, json=chat(model="slow"))
    assert response.json()["choices"][0]["message"]["content"] == "late but whole"


def test_when_every_model_fails_the_client_is_told_once_and_nothing_is_charged(client: httpx.Client) -> None:
    body = chat(routing={"allowed_models": ["fails", "garbage", "html"]})
    response = client.post(CHAT, json=body)
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "upstream_error"
    assert held(client) == 0


def test_no_trouble_leaves_a_traceback(both: tuple[Running, ScriptedServer]) -> None:
    assert "Traceback" not in both[0].log.read_text()


@pytest.mark.parametrize("model", NO_ANSWERS)
def test_an_answer_that_cannot_be_said_in_the_clients_protocol_is_a_502_in_its_shape(
    client: httpx.Client, model: str
) -> None:
    asked = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "input": "x"}
    for path in ("/v1/messages", "/v1/responses"):
        answer = client.post(path, json=asked)
        assert answer.status_code == 502, answer.text
        assert answer.json()["error"]["message"]
        assert (answer.json().get("type") == "error") is (path == "/v1/messages")
