"""`pointsman onboard` against a running gateway."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cli import main
from evaluation.onboard import Prompt, onboard, read_prompts
from router.errors import SettingsError
from router.learning.graders.validators import Grade
from router.stores.open import open_stores
from router.types import Feedback
from tests.http.conftest import engine, serving, settings_for

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": "What is 1 + 1?", "regex": "(2"}, "is not a regular expression"),
        ({"prompt": "What is 1 + 1?", "schema": "number"}, "expected an object"),
    ],
)
def test_a_grader_that_cannot_grade_is_refused_by_its_line(line: dict[str, str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(SettingsError, match=rf"prompts\.jsonl:1: .*{said}"):
        read_prompts(path)


@pytest.mark.parametrize("count", [0, -2])
def test_asking_no_prompt_at_all_is_refused_before_the_gateway_is_asked(count: int) -> None:
    with pytest.raises(SettingsError, match="expected at least one"):
        onboard("new", [], count=count, post=lambda path, body: {}, on_progress=print)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    lines = [{"prompt": f"What is {i} + 1?", "answer": "42" if i % 2 else str(i)} for i in range(12)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


async def test_a_new_arm_is_asked_graded_and_fed_back(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with engine(text="41") as old, engine(text="42") as new:
        async with serving(tmp_path, settings_for(tmp_path, {"old": old, "new": new})) as gateway:
            target = ["--url", gateway.url, "--key", gateway.key]
            words = ["onboard", "new", "--prompts", "5", "--from", str(file), *target]
            assert await asyncio.to_thread(main, words) == 0
            kept = await judged(f"sqlite:///{tmp_path / 'state' / 'pointsman.db'}")
    out = capsys.readouterr().out
    assert "new: 5 prompts of 12, mean grade" in out
    assert "beside old" in out
    assert kept == 5


async def judged(url: str) -> int:
    """Judgements in the log of a gateway."""
    async with open_stores(url, clock=lambda: time.time_ns() // 1_000_000) as stores:
        return len([entry async for _, entry in stores.log.tail("", follow=False) if isinstance(entry, Feedback)])


def test_prompts_that_are_neither_easy_nor_hard_for_the_known_models_are_asked() -> None:
    asked: list[str] = []

    def post(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        text = body["messages"][0]["content"]
        if path == "/v1/route":
            quality = 0.5 if "open" in text else 0.97
            rows = [{"model": "a", "quality": quality}, {"model": "b", "quality": quality - 0.01}]
            return {"candidates": rows}
        asked.append(text)
        return {"id": "1", "choices": [{"message": {"content": "yes"}}]}

    def feedback_or(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return {} if path == "/v1/feedback" else post(path, body)

    prompts = [Prompt(f"{'open' if i % 2 else 'easy'} {i}", read_grade) for i in range(12)]
    onboard("c", prompts, count=3, post=feedback_or, on_progress=lambda _: None)
    assert [text.split()[0] for text in asked] == ["open", "open", "open"]


def read_grade(answer: str) -> Grade:
    from router.learning.graders.validators import grade_exact

    return grade_exact(answer, "yes")


def test_a_prompt_without_a_way_to_grade_it_is_refused_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "c"}\n')
    with pytest.raises(SettingsError, match=r"prompts\.jsonl:2: expected JSON"):
        read_prompts(path)


def test_more_prompts_than_there_are_is_refused() -> None:
    with pytest.raises(SettingsError, match="2 prompts were asked for, there are 0"):
        onboard("c", [], count=2, post=lambda path, body: {}, on_progress=lambda _: None)
