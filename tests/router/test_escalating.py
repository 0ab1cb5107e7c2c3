"""An answer that its own signature predicts to fail is held back, charged, and a dearer model asked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from backends.scripted import Line
from router.types import Feedback
from tests.router.conftest import House, now_ms, open_house

pytestmark = pytest.mark.anyio


def logprobs(confidence: float) -> dict[str, Any]:
    """Four tokens, each chosen with this probability before one other."""
    top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in (("a", confidence), ("b", 1 - confidence))]
    return {"content": [{**top[0], "top_logprobs": top} for _ in range(4)]}


def choice(text: str, confidence: float) -> Line:
    answer = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": logprobs(confidence),
    }
    return Line(text=text, fields={"choices": [answer]})


async def teach(house: House, *, sure: float, unsure: float) -> None:
    """120 judged answers of small: right where it was sure."""
    for i in range(120):
        right = i % 2 == 0
        house.scripts["small"]._script = lambda _m, _b, right=right: choice("x", sure if right else unsure)  # type: ignore[misc]
        answer, _ = await house.read(f"question {i}", routing={"policy": "cascade", "allowed_models": ["small"]})
        await house.stores.log.judge(
            Feedback(answer.attempt.decision.decision_id, now_ms(), float(right), tenant="acme")
        )
    await house.until(lambda: house.learning.learned == 120)
    await house.learning.refit()


async def test_an_unsure_answer_is_held_back_and_a_sure_one_returned(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="cascade", lines={"large": choice("large knows", 0.99)}) as house:
        await teach(house, sure=0.97, unsure=0.55)
        house.scripts["small"]._script = lambda _m, _b: choice("small guesses", 0.55)
        unsure, body = await house.read("a hard one")
        assert json.loads(body)["choices"][0]["message"]["content"] == "large knows"
        assert unsure.before > 0
        assert unsure.total > unsure.bill().spend.cost
        house.scripts["small"]._script = lambda _m, _b: choice("small knows", 0.97)
        sure, body = await house.read("an easy one")
        assert json.loads(body)["choices"][0]["message"]["content"] == "small knows"
        assert sure.before == 0


async def test_when_the_dearer_model_fails_the_answer_held_back_is_returned(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="cascade", lines={"large": Line(text="never", trouble="500")}) as house:
        await teach(house, sure=0.97, unsure=0.55)
        house.scripts["small"]._script = lambda _m, _b: choice("small guesses", 0.55)
        _, body = await house.read("a hard one")
        assert json.loads(body)["choices"][0]["message"]["content"] == "small guesses"


async def test_logprobs_nobody_asked_for_do_not_reach_the_client(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="cascade", lines={"small": choice("fine", 0.9)}) as house:
        _, silent = await house.read(routing={"allowed_models": ["small"]})
        _, asked = await house.read(logprobs=True, routing={"allowed_models": ["small"]})
        assert json.loads(silent)["choices"][0]["logprobs"] is None
        assert len(json.loads(asked)["choices"][0]["logprobs"]["content"]) == 4
        assert house.scripts["small"].sent[0]["top_logprobs"] == 5
