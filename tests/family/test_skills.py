"""The graded skills: drawn from a seed, graded exactly, split by content."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from backends.family.sizes import CONTEXT_TOKENS
from evaluation.skills import LEVELS, SKILLS, Item, grade, sample
from evaluation.skills.facts import SIZES as FACT_SIZES
from evaluation.skills.facts import table
from research.tokens import encode_answer, encode_chat

FACTS = ("extension", "partcode", "translation", "harbour")


def items(n: int, *, seed: int = 0, split: str = "test", skills: list[str] | None = None) -> list[Item]:
    return sample(n, rng=np.random.default_rng(seed), split=split, skills=skills)


def test_there_are_at_least_twelve_skills_with_five_difficulties_each() -> None:
    assert len(SKILLS) >= 12
    drawn = items(len(SKILLS) * len(LEVELS) * 2)
    assert {(item.skill, item.difficulty) for item in drawn} == {(name, level) for name in SKILLS for level in LEVELS}


def test_a_seed_always_draws_the_same_items() -> None:
    assert items(500, seed=3) == items(500, seed=3)


def test_other_seeds_draw_other_items() -> None:
    assert items(500, seed=3) != items(500, seed=4)


@pytest.mark.parametrize("skill", SKILLS)
def test_a_grader_accepts_the_right_answer_in_the_ways_people_write_it(skill: str) -> None:
    for item in items(50, skills=[skill]):
        for text in (item.answer, f" {item.answer}\n", f"{item.answer}.", f"The answer is {item.answer}."):
            assert grade(item, text) == 1.0, (item, text)


@pytest.mark.parametrize("skill", SKILLS)
def test_a_grader_rejects_another_items_answer(skill: str) -> None:
    drawn = items(100, skills=[skill])
    wrong = [
        (item, other) for item, other in zip(drawn, drawn[1:] + drawn[:1], strict=True) if item.answer != other.answer
    ]
    assert wrong
    for item, other in wrong:
        assert grade(item, other.answer) < 1.0, (item, other.answer)


@pytest.mark.parametrize("skill", SKILLS)
def test_a_grader_gives_nothing_for_silence_or_for_more_than_the_answer(skill: str) -> None:
    for item, other in zip(items(20, skills=[skill]), items(20, skills=[skill], seed=1), strict=True):
        assert grade(item, "") == 0.0
        if item.answer != other.answer and not item.answer.startswith("{"):
            assert grade(item, f"{item.answer} or {other.answer}") == 0.0


def test_json_fields_earn_their_share_and_numbers_in_quotes_do_not() -> None:
    item = Item("extract", 2, "…", '{"name": "Ada Tazo", "age": 34}')
    assert grade(item, '{"age": 34, "name": "Ada Tazo"}') == 1.0
    assert grade(item, '{"name": "Ada Tazo", "age": "34"}') == 0.5
    assert grade(item, '{"name": "Ada Tazo", "age": 34, "city": "Rome"}') == 0.0
    assert grade(item, '{"name": "Ada Tazo", "age": 34') == 0.0


def test_a_tool_call_needs_the_right_tool_and_every_argument() -> None:
    item = Item("tool", 1, "…", '{"name": "book_room", "arguments": {"guests": 4}}')
    assert grade(item, 'Sure: {"arguments": {"guests": 4}, "name": "book_room"}') == 1.0
    assert grade(item, '{"name": "book_room", "arguments": {"guests": 4, "city": "Rome"}}') == 0.0
    assert grade(item, '{"name": "book_seat", "arguments": {"guests": 4}}') == 0.0


def test_no_test_prompt_is_ever_trained_on() -> None:
    tested = {item.prompt for seed in range(3) for item in items(3000, seed=seed)}
    trained = {item.prompt for seed in range(3) for item in items(9000, seed=seed, split="train")}
    assert not tested & trained


@pytest.mark.parametrize("skill", ["addition", "product", "compare", "parity", "gap", "sorting"])
def test_splits_share_no_numbers_whatever_the_wording(skill: str) -> None:
    def numbers(item: Item) -> tuple[str, ...]:
        found = re.findall(r"\d+", item.prompt)
        return tuple(sorted(found) if skill in ("addition", "product", "compare") else found)

    tested = {numbers(item) for item in items(1000, skills=[skill])}
    assert not tested & {numbers(item) for item in items(4000, split="train", skills=[skill])}


def test_every_fact_is_trained_on_and_only_its_wording_is_held_out() -> None:
    things = {thing for thing, _ in table("harbour", 1)}
    trained = {item.prompt for item in items(6000, split="train", skills=["harbour"]) if item.difficulty == 1}
    assert all(any(thing in prompt for prompt in trained) for thing in things)
    assert not trained & {item.prompt for item in items(500, skills=["harbour"])}


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_table_has_one_value_for_each_thing(name: str) -> None:
    for level, size in FACT_SIZES.items():
        assert len(dict(table(name, level))) == size


def test_every_prompt_and_answer_fit_the_context() -> None:
    for item in items(10_000):
        assert len(encode_chat(item.prompt)) + len(encode_answer(item.answer)) <= CONTEXT_TOKENS


def test_tool_prompts_hold_valid_json_schemas() -> None:
    for item in items(50, skills=["tool"]):
        schemas = json.loads(item.prompt.removeprefix("Tools: ").split("\n")[0])
        called = json.loads(item.answer)
        (chosen,) = [schema for schema in schemas if schema["name"] == called["name"]][:1]
        assert set(called["arguments"]) == set(chosen["parameters"]["properties"])


def test_an_unknown_skill_is_refused() -> None:
    with pytest.raises(KeyError):
        items(1, skills=["mind reading"])
