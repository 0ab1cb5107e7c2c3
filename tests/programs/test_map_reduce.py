"""An input longer than any context is read in parts; what cannot be split is refused before anything is spent."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from backends.scripted import Line
from router.errors import InvalidRequest
from router.gateway.eligibility import text_bytes
from router.programs.explaining import plan_of, shown
from router.programs.map_reduce import combined
from router.programs.splitting import longest, parts_of, question_of
from tests.programs.conftest import DAY, programs_in
from tests.router.conftest import House, model

pytestmark = pytest.mark.anyio
DIGEST = {"digest": {"kind": "map_reduce", "map": "small", "reduce": "large", "part_tokens": 32}}
QUESTION = "Who wrote it?"


def pages(count: int) -> str:
    return "\n\n".join(f"Page {i}. " + "The rain fell on the harbour and nobody came. " * 12 for i in range(count))


def finder(needle: str) -> Any:
    """A script that says the needle where its part holds it, else none; of answers it says the first real one."""

    def script(_model: str, body: Any) -> Line:
        text = body["messages"][-1]["content"]
        if "Answers from the parts" in text:
            lines = [line.partition("] ")[2] for line in text.splitlines() if line.startswith("[part")]
            return Line(text=next((line for line in lines if line != "none"), "none"))
        return Line(text=needle if needle in text else "none")

    return script


def content(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def tell(house: House, needle: str) -> None:
    for script in house.scripts.values():
        script._script = finder(needle)


async def test_a_needle_in_ten_contexts_is_found_and_the_reduce_step_sees_sources(tmp_path: Path) -> None:
    small = model("small", 10**8, context_tokens=1024, max_output_tokens=256)
    async with programs_in(tmp_path, DIGEST, small=small, large=model("large", 10**9)) as house:
        tell(house, "Ada Lovelace")
        text = f"{pages(60)}\n\nIt was written by Ada Lovelace.\n\n{pages(10)}\n\n{QUESTION}"
        answer, body = await house.read(text, model="digest")
        assert len(text) > 10 * 1024 * 3
        assert content(body) == "Ada Lovelace"
        reduced = house.scripts["large"].sent[-1]["messages"][-1]["content"]
        assert "[part 1, bytes 0-" in reduced
        assert reduced.endswith(QUESTION)
        assert all(sent["messages"][-1]["content"].endswith(QUESTION) for sent in house.scripts["small"].sent)
        assert await house.spent(DAY) == (answer.total, 0)


@pytest.mark.parametrize(("price", "parts"), [(10**9, 6), (11 * 10**7, 1)])
async def test_one_large_context_is_read_at_once_only_where_that_is_cheaper(
    tmp_path: Path, price: int, parts: int
) -> None:
    small = model("small", 10**8, context_tokens=1024, max_output_tokens=256)
    large = model("large", price, context_tokens=65_536, max_output_tokens=256)
    programs = {"digest": {**DIGEST["digest"], "map": "auto", "reduce": "small"}}
    async with programs_in(tmp_path, programs, small=small, large=large) as house:
        tell(house, "Ada Lovelace")
        _, body = await house.read(f"{pages(20)}\n\nBy Ada Lovelace.\n\n{QUESTION}", model="digest", max_tokens=32)
        assert content(body) == "Ada Lovelace"
        sent = [len(house.scripts[name].sent) for name in ("small", "large")]
        assert sent == ([parts + 1, 0] if parts > 1 else [0, 1])


async def test_every_step_stays_within_the_plan(tmp_path: Path) -> None:
    small = model("small", 10**8, context_tokens=1024, max_output_tokens=256)
    wide = model("large", 10**9, context_tokens=65_536, max_output_tokens=256)
    async with programs_in(tmp_path, DIGEST, small=small, large=wide) as house:
        chance = random.Random(0)
        for _ in range(20):
            words = [
                chance.choice(("rain", "häfen", "日本", "\n", "\n\n", "a" * 300))
                for _ in range(chance.randrange(50, 600))
            ]
            call = house.call(" ".join(words) + f"\n\n{QUESTION}", model="digest")
            answer = await house.gateway.answer(house.principal, call)
            await answer.close()
            assert answer.total <= answer.attempt.hold.amount
        assert (await house.spent(DAY))[1] == 0


async def test_a_short_input_is_one_step(tmp_path: Path) -> None:
    async with programs_in(tmp_path, DIGEST) as house:
        _, body = await house.read("Short.", model="digest")
        assert content(body) == "hello from small"
        assert not house.scripts["large"].sent


async def test_a_split_that_leaves_no_room_for_the_question_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    small = model("small", 10**8, context_tokens=1024, max_output_tokens=256)
    async with programs_in(tmp_path, DIGEST, small=small, large=model("large", 10**9)) as house:
        long = [{"role": "system", "content": "Rule. " * 400}, {"role": "user", "content": pages(30)}]
        with pytest.raises(InvalidRequest) as refused:
            await house.read(model="digest", messages=long)
        assert refused.value.code == "cannot_split"
        assert await house.spent(DAY) == (0, 0)
        assert not house.scripts["small"].sent


async def test_what_the_reduce_step_could_not_hold_is_refused(tmp_path: Path) -> None:
    tiny = model("small", 10**8, context_tokens=256, max_output_tokens=64)
    async with programs_in(tmp_path, DIGEST, small=tiny, large=model("large", 10**9, context_tokens=512)) as house:
        with pytest.raises(InvalidRequest):
            await house.read(pages(100), model="digest")
        assert await house.spent(DAY) == (0, 0)


async def test_the_plan_says_what_the_steps_read_and_why_the_parts_have_their_size(tmp_path: Path) -> None:
    small = model("small", 10**8, context_tokens=1024, max_output_tokens=256)
    async with programs_in(tmp_path, DIGEST, small=small, large=model("large", 10**9)) as house:
        call = house.call(f"{pages(70)}\n\n{QUESTION}", model="digest", max_tokens=64)
        digest = next(each for each in house.gateway.decider.catalogue.models if each.name == "digest")
        plan = plan_of(digest, call.requirements)
        assert plan is not None
        reported: dict[str, Any] = shown(plan, house.gateway, {})
        answer = await house.gateway.answer(house.principal, call)
        await answer.close()
        maps = house.scripts["small"].sent
        assert [step["step"] for step in reported["steps"]] == [*(f"map {i + 1}" for i in range(len(maps))), "reduce"]
        read = sum(len(sent["messages"][-1]["content"].encode()) for sent in maps) / 4
        planned = sum(step["prompt_tokens"] for step in reported["steps"][:-1])
        assert abs(planned - read) < 0.1 * read
        assert float(reported["worst_usd"]) * 1e9 == answer.attempt.hold.amount
        assert 0 < float(reported["expected_usd"]) < float(reported["worst_usd"])
        assert "small holds" in reported["why"]


async def test_exact_reducers_are_code(tmp_path: Path) -> None:
    program = {"most": {**DIGEST["digest"], "exact": "max"}}
    small = model("small", 10**8, context_tokens=1024, max_output_tokens=256)
    async with programs_in(tmp_path, program, small=small, large=model("large", 10**9)) as house:
        numbers = iter(range(1, 1000))
        house.scripts["small"]._script = lambda _m, _b: Line(text=f"It is {next(numbers)}.")
        answer, body = await house.read(pages(20), model="most")
        assert content(body) == str(len(house.scripts["small"].sent))
        assert not house.scripts["large"].sent
        assert await house.spent(DAY) == (answer.total, 0)


def test_numbers_are_summed_counted_and_compared_and_answers_merged() -> None:
    answers = ["3", "none", "It has 1,200 of them", "0", "None."]
    assert combined(answers, "sum") == "1203"
    assert combined(answers, "max") == "1200"
    assert combined(answers, "count") == "2"
    assert combined(["b", "a", "none", "b"], "merge") == "b\na"
    assert combined(["none"], "merge") == "none"


def test_parts_lose_nothing_and_none_is_longer_than_planned() -> None:
    chance = random.Random(0)
    for _ in range(400):
        words = [
            chance.choice(("word", "wörd", "日本語", "\n\n", "\n", ". ", "x" * 90))
            for _ in range(chance.randrange(1, 400))
        ]
        text, count = " ".join(words).encode(), chance.randrange(1, 20)
        parts = parts_of(text, count)
        assert b"".join(parts) == text
        assert len(parts) <= count
        assert max(map(len, parts)) <= longest(len(text), count)
        assert all(part.decode() for part in parts)


def test_the_question_is_a_short_end_or_a_short_beginning() -> None:
    text = "word " * 200
    assert question_of(f"{text}\n\nWho?") == (text, "Who?")
    assert question_of(f"Who?\n\n{text}") == (text, "Who?")
    assert question_of(f"Who?\n{text}")[1] == "Who?"
    assert question_of(text) == (text, "")


async def test_a_text_is_never_longer_than_the_bytes_it_was_planned_by(tmp_path: Path) -> None:
    async with programs_in(tmp_path, DIGEST) as house:
        for text in ("plain", "ü" * 50, '"' * 50, "\n" * 50, "日本" * 50):
            assert text_bytes(house.call(text).requirements) >= len(text.encode())
