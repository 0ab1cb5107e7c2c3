"""An answer that is not sure enough, or breaks the request's own rules, is charged and the next arm asked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from backends.scripted import Line
from policies.registry import ESCALATION
from policies.signature import WIDTH
from router.types import Feedback, SettlementRecord
from tests.programs.conftest import DAY, programs_in, with_programs
from tests.router.conftest import House, model, now_ms

pytestmark = pytest.mark.anyio
SURE = {"sure": {"kind": "escalate", "of": ["small", "large"], "risk": 0.1, "audit": 0.0}}
AUDITED = {"sure": {**SURE["sure"], "audit": 1.0}}


def logprobs(confidence: float) -> dict[str, Any]:
    """Four tokens, each chosen with this probability before one other."""
    top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in (("a", confidence), ("b", 1 - confidence))]
    return {"content": [{**top[0], "top_logprobs": top} for _ in range(4)]}


def choice(text: str, confidence: float) -> Line:
    """Plain, or as a stream of one event for the text and one for the end."""
    answer = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "delta": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": logprobs(confidence),
    }
    return Line(text="text", fields={"choices": [answer]})


def streamed(text: str, confidence: float) -> Line:
    """A stream with logprobs in its first event."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "any"}
    token = {
        **head,
        "choices": [{"index": 0, "delta": {"content": text}, "logprobs": logprobs(confidence), "finish_reason": None}],
    }
    last = {**head, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]}
    usage = {**head, "choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}}
    events = tuple(b"data: " + json.dumps(each).encode() + b"\n\n" for each in (token, last, usage))
    return Line(verbatim=(*events, b"data: [DONE]\n\n"))


def content(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def says(house: House, name: str, line: Line) -> None:
    house.scripts[name]._script = lambda _m, _b: line


async def teach(house: House, *, sure: float, unsure: float, programs: Any = SURE) -> None:
    """120 judged answers of the program's first arm: right where it was sure. Then the programs are these."""
    with_programs(house, AUDITED)
    house.learning.policy(ESCALATION)
    for i in range(120):
        right = i % 2 == 0
        says(house, "small", choice("x", sure if right else unsure))
        answer, _ = await house.read(f"question {i}", model="sure")
        await house.stores.log.judge(
            Feedback(answer.attempt.decision.decision_id, now_ms(), float(right), tenant="acme")
        )
    await house.until(lambda: house.learning.learned == 120)
    await house.learning.refit()
    with_programs(house, programs)


async def test_an_unsure_answer_is_held_back_and_a_sure_one_returned(tmp_path: Path) -> None:
    async with programs_in(tmp_path, SURE, lines={"large": choice("large knows", 0.99)}) as house:
        await teach(house, sure=0.97, unsure=0.55)
        says(house, "small", choice("small guesses", 0.55))
        unsure, body = await house.read("a hard one", model="sure")
        assert content(body) == "large knows"
        says(house, "small", choice("small knows", 0.97))
        sure, body = await house.read("an easy one", model="sure")
        assert content(body) == "small knows"
        assert unsure.total > sure.total
        assert (await house.spent(DAY))[1] == 0


async def test_a_share_of_unsure_answers_is_returned_all_the_same_and_says_so(tmp_path: Path) -> None:
    async with programs_in(tmp_path, AUDITED, lines={"large": choice("large knows", 0.99)}) as house:
        await teach(house, sure=0.97, unsure=0.55, programs=AUDITED)
        says(house, "small", choice("small guesses", 0.55))
        answer, body = await house.read("a hard one", model="sure")
        assert content(body) == "small guesses"
        log = [each async for _, each in house.stores.log.tail("", follow=False) if isinstance(each, SettlementRecord)]
        mine = next(each for each in log if each.decision_id == answer.attempt.decision.decision_id)
        assert (mine.answered, mine.returned, len(mine.signature)) == ("small", 1.0, 4 * WIDTH)


async def test_when_the_next_arm_fails_the_answer_held_back_is_returned(tmp_path: Path) -> None:
    async with programs_in(tmp_path, SURE, lines={"large": Line(text="never", trouble="500")}) as house:
        await teach(house, sure=0.97, unsure=0.55)
        says(house, "small", choice("small guesses", 0.55))
        _, body = await house.read("a hard one", model="sure")
        assert content(body) == "small guesses"


async def test_when_the_first_arm_fails_the_next_is_asked(tmp_path: Path) -> None:
    async with programs_in(tmp_path, SURE, lines={"small": Line(trouble="reset")}) as house:
        answer, body = await house.read("a question", model="sure")
        assert content(body) == "hello from large"
        assert await house.spent(DAY) == (answer.total, 0)


async def test_an_answer_that_breaks_the_response_format_escalates(tmp_path: Path) -> None:
    lines = {"small": Line(text="no json"), "large": Line(text='{"a": 1}')}
    async with programs_in(tmp_path, SURE, lines=lines) as house:
        _, body = await house.read("as JSON", model="sure", response_format={"type": "json_object"})
        assert content(body) == '{"a": 1}'


async def test_logprobs_are_asked_for_only_where_the_arm_has_them(tmp_path: Path) -> None:
    bare = model("small", 10**8, capabilities=frozenset({"chat"}))
    async with programs_in(tmp_path, SURE, small=bare, large=model("large", 10**9)) as house:
        await house.read("a question", model="sure")
        assert "logprobs" not in house.scripts["small"].sent[0]


async def test_logprobs_nobody_asked_for_do_not_reach_the_client(tmp_path: Path) -> None:
    async with programs_in(tmp_path, SURE, lines={"small": choice("fine", 0.99)}) as house:
        _, silent = await house.read("q", model="sure")
        _, asked = await house.read("q", model="sure", logprobs=True)
        assert json.loads(silent)["choices"][0]["logprobs"] is None
        assert len(json.loads(asked)["choices"][0]["logprobs"]["content"]) == 4
        assert house.scripts["small"].sent[0]["top_logprobs"] == 5


async def test_a_stream_is_held_back_judged_and_escalated(tmp_path: Path) -> None:
    async with programs_in(tmp_path, SURE) as house:
        await teach(house, sure=0.97, unsure=0.55)
        says(house, "small", streamed("guess", 0.55))
        answer, body = await house.read("a hard one", model="sure", stream=True)
        assert b"guess" not in body
        assert body.count(b"[DONE]") == 1
        assert b": 1/2 small" in body
        says(house, "small", streamed("sure", 0.97))
        again, body = await house.read("an easy one", model="sure", stream=True)
        assert b'"sure"' in body
        assert b"top_logprobs" not in body
        assert answer.total > again.total
        assert (await house.spent(DAY))[1] == 0


async def test_a_stream_longer_than_the_buffer_is_let_go(tmp_path: Path) -> None:
    short = {"sure": {**SURE["sure"], "buffer_tokens": 3}}
    async with programs_in(
        tmp_path, short, lines={"small": Line(text="a b c d e f g", trouble="reset", trouble_after=6)}
    ) as house:
        answer, body = await house.read("q", model="sure", stream=True)
        assert body.count(b'"content"') == 6
        assert answer.report.failure
        assert (await house.spent(DAY))[1] == 0
