"""Graders that need no person."""

from __future__ import annotations

import json

import pytest

from router.learning.graders.schema import violations
from router.learning.graders.validators import grade_chat, grade_exact, grade_json, grade_regex, grade_tool_calls

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}


def call(arguments: object, name: str = "weather") -> dict[str, object]:
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": written}}


@pytest.mark.parametrize(
    ("arguments", "name", "problem"),
    [
        ({"city": "Rome"}, "wether", "unknown_tool"),
        ({"days": 2}, "weather", "missing_argument"),
        ({"city": "Rome", "hour": 3}, "weather", "extra_argument"),
        ({"city": 7}, "weather", "ill_typed_argument"),
        ({"city": "Rome", "days": 0}, "weather", "ill_typed_argument"),
        ({"city": "Rome", "unit": "K"}, "weather", "ill_typed_argument"),
        ('{"city": "Rome"', "weather", "invalid_json"),
        ('["Rome"]', "weather", "ill_typed_argument"),
    ],
)
def test_each_class_of_wrong_tool_call_is_named(arguments: object, name: str, problem: str) -> None:
    grade = grade_tool_calls([call(arguments, name)], [WEATHER])
    assert grade.score == 0.0
    assert [each.split(":")[0] for each in grade.problems] == [problem]


def test_a_right_tool_call_passes_and_weighs_less_than_a_failure() -> None:
    passed = grade_tool_calls([call({"city": "Rome", "days": 3, "unit": "C"})], [WEATHER])
    failed = grade_tool_calls([call({})], [WEATHER])
    assert (passed.score, passed.problems) == (1.0, ())
    assert passed.reliability < failed.reliability


def test_the_same_call_again_is_a_repeat_whatever_the_order_of_its_arguments() -> None:
    first, second = call('{"city": "Rome", "days": 2}'), call('{"days": 2, "city": "Rome"}')
    assert grade_tool_calls([second], [WEATHER], before=[first]).problems[0].startswith("repeated_call")
    assert grade_tool_calls([first, second], [WEATHER]).score == 0.0
    assert grade_tool_calls([call({"city": "Oslo"})], [WEATHER], before=[first]).score == 1.0


def test_exact_answers_are_compared_without_case_and_white_space() -> None:
    assert grade_exact(" Forty  two\n", "forty two").score == 1.0
    assert grade_exact("forty-two", "forty two").score == 0.0


def test_a_regular_expression_may_match_anywhere() -> None:
    assert grade_regex("the answer is 42.", r"\b42\b").score == 1.0
    assert grade_regex("the answer is 421.", r"\b42\b").score == 0.0


def test_a_broken_regular_expression_is_refused() -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        grade_regex("x", "(")


def test_json_that_is_none_fails_with_the_reason() -> None:
    assert grade_json("{'a': 1}").problems[0].startswith("invalid_json")


@pytest.mark.parametrize(
    ("value", "schema", "kinds"),
    [
        ({"a": 1}, {"type": "object", "additionalProperties": False, "properties": {}}, ["extra"]),
        ([1, "x"], {"type": "array", "items": {"type": "integer"}}, ["type"]),
        (True, {"type": "integer"}, ["type"]),
        (2.0, {"type": "integer"}, []),
        (None, {"type": ["string", "null"]}, []),
        ({"at": 5}, {"properties": {"at": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"type": "string"}}}, ["type"]),
        (3, {"anyOf": [{"type": "string"}, {"maximum": 2}]}, ["value"]),
        (3, {"anyOf": [{"type": "string"}, {"maximum": 5}]}, []),
        ("abc", {"maxLength": 2, "enum": ["ab"]}, ["value", "value"]),
        ([], {"minItems": 1}, ["value"]),
        ({"a": {"a": {}}}, {"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, ["missing"]),
        (1, {"x-unknown": True}, []),
    ],
)
def test_a_value_is_checked_against_its_schema(value: object, schema: dict[str, object], kinds: list[str]) -> None:
    assert sorted(each.kind for each in violations(value, schema)) == sorted(kinds)


def test_a_schema_that_refers_to_itself_ends() -> None:
    assert violations(1, {"$ref": "#"}) == []
    assert violations(1, {"allOf": [{"$ref": "#"}] * 3, "minimum": 0}) == []


def test_an_empty_answer_fails() -> None:
    grade = grade_chat({"messages": []}, {"finish_reason": "stop", "message": {"content": ""}})
    assert grade is not None
    assert grade.problems[0].startswith("empty_answer")


def test_a_plain_answer_says_nothing_of_itself() -> None:
    assert grade_chat({"messages": []}, {"finish_reason": "stop", "message": {"content": "hello"}}) is None


def test_the_response_format_asked_for_is_checked() -> None:
    schema = {"type": "object", "required": ["name"]}
    request = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    good = grade_chat(request, {"finish_reason": "stop", "message": {"content": '{"name": "Ada"}'}})
    bad = grade_chat(request, {"finish_reason": "stop", "message": {"content": "{}"}})
    assert good is not None
    assert bad is not None
    assert (good.score, bad.score) == (1.0, 0.0)


def test_a_call_made_earlier_in_the_conversation_counts_as_repeated() -> None:
    request = {"tools": [WEATHER], "messages": [{"role": "assistant", "tool_calls": [call({"city": "Rome"})]}]}
    grade = grade_chat(request, {"message": {"tool_calls": [call({"city": "Rome"})]}})
    assert grade is not None
    assert grade.problems[0].startswith("repeated_call")
