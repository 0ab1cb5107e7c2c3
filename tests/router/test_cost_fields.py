"""The worst case knows every field that can raise what a request costs, on every API and kind of engine."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.scripted import Line, Script
from router.errors import BudgetExceeded, InvalidRequest
from router.gateway.eligibility import IMAGE_TOKENS, Requirements, worst_tokens
from router.http.schemas import parse
from router.types import Budget, Model, NanoUsd, RateLimit
from tests.router.conftest import SMALL, model, open_house

CONTEXT = 100_000
MODEL = model("small", SMALL, context_tokens=CONTEXT, max_output_tokens=CONTEXT)
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10},
    "/v1/completions": {"prompt": "hi", "max_tokens": 10},
    "/v1/embeddings": {"input": "hi"},
    "/v1/responses": {"input": "hi", "max_output_tokens": 10},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10},
}
CHAT = "/v1/chat/completions"


def requirements(path: str = CHAT, **more: object) -> Requirements:
    return parse(path, json.dumps({"model": "auto", **BODIES[path], **more}).encode(), {}).requirements


def worst(path: str = CHAT, *, of: Model = MODEL, **more: object) -> tuple[int, int]:
    return worst_tokens(of, requirements(path, **more))


def with_part(**part: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, part]}]}


@pytest.mark.parametrize(
    "field",
    [
        {"max_completion_tokens": 4000},
        {"n_predict": 4000},
        {"num_predict": 4000},
        {"max_new_tokens": 4000},
        {"min_tokens": 4000},
        {"max_output_tokens": "4000"},
        {"max_length": 4000.0},
        {"options": {"num_predict": 4000}},
        {"parameters": {"max_new_tokens": 4000}},
        {"sampling_params": {"max_new_tokens": 4000}},
        {"generationConfig": {"maxOutputTokens": 4000}},
        {"extra_body": {"max_tokens": 4000}},
        {"reasoning": {"max_tokens": 4000}},
        {"thinking": {"type": "enabled", "budget_tokens": 4000}},
    ],
    ids=json.dumps,
)
def test_the_largest_of_the_limits_that_some_engine_reads_is_held(field: dict[str, object]) -> None:
    assert worst(**field)[1] == 4000
    assert worst(max_completion_tokens=1, max_tokens=4000)[1] == 4000
    assert worst(max_completion_tokens=4000, max_tokens=1)[1] == 4000


@pytest.mark.parametrize("value", [-1, "all", [], {}, 1e300])
def test_a_limit_that_is_none_holds_the_whole_context(value: object) -> None:
    assert worst(n_predict=value)[1] == CONTEXT


@pytest.mark.parametrize(
    "field",
    [{"n": 4}, {"best_of": 4}, {"num_beams": 4}, {"beam_width": 4}, {"sampling_params": {"n": 4}}],
    ids=json.dumps,
)
def test_every_way_to_ask_for_several_answers_counts(field: dict[str, object]) -> None:
    assert worst(**field)[1] == 40
    assert worst("/v1/completions", **field)[1] == 40


def test_too_many_answers_are_refused_however_they_are_asked_for() -> None:
    for field in ("n", "best_of", "num_beams"):
        with pytest.raises(InvalidRequest, match="at most 128"):
            requirements(**{field: 1000})


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/responses", {"previous_response_id": "resp_1"}),
        ("/v1/responses", {"conversation": "conv_1"}),
        ("/v1/responses", {"prompt": {"id": "pmpt_1"}}),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}),
        ("/v1/responses", {"tools": [{"type": "web_search"}], "max_tool_calls": 3}),
        (CHAT, {"documents": [{"text": "x"}]}),
        (CHAT, {"mm_processor_kwargs": {"max_pixels": 10**9}}),
        (CHAT, {"chat_template": "{% for i in range(9999) %}x{% endfor %}"}),
        (CHAT, with_part(type="video_url", video_url={"url": "http://x/y.mp4"})),
        (CHAT, with_part(type="input_audio", input_audio={"data": "", "format": "wav"})),
        (CHAT, with_part(type="file", file={"file_id": "file-1"})),
        (CHAT, with_part(type="something new")),
        ("/v1/messages", with_part(type="document", source={"type": "url", "url": "http://x/y.pdf"})),
        ("/v1/messages", with_part(type="tool_result", content=[{"type": "document", "source": {}}])),
        ("/v1/messages", {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]}),
        ("/v1/completions", {"prompt_embeds": "AAAA"}),
    ],
    ids=str,
)
def test_what_adds_tokens_nobody_can_foresee_holds_the_whole_context(path: str, field: dict[str, object]) -> None:
    assert worst(path)[0] < 1000
    assert requirements(path, **field).unforeseen
    assert worst(path, **field)[0] == CONTEXT


def test_fields_that_nobody_knows_hold_a_token_for_each_of_their_bytes() -> None:
    assert worst(vendor_text="x" * 5000)[0] - worst()[0] >= 5000


def test_a_prediction_may_be_charged_beside_the_completion() -> None:
    assert worst(prediction={"type": "content", "content": "x" * 500})[1] >= 510


def test_an_image_holds_what_engines_make_of_it_at_most_and_not_its_bytes() -> None:
    data = base64.b64encode(bytes(50_000)).decode()
    image = with_part(type="image_url", image_url={"url": f"data:image/png;base64,{data}"})
    assert IMAGE_TOKENS < worst(**image)[0] < IMAGE_TOKENS + 1000
    source = {"type": "base64", "media_type": "image/png", "data": data}
    in_result = with_part(type="tool_result", content=[{"type": "image", "source": source}])
    for path, body in (("/v1/messages", with_part(type="image", source=source)), ("/v1/messages", in_result)):
        assert requirements(path, **body).images == 1
        assert IMAGE_TOKENS < worst(path, **body)[0] < IMAGE_TOKENS + 1000


def test_every_text_of_a_batch_may_fill_a_context() -> None:
    small = replace(MODEL, context_tokens=100)
    assert worst("/v1/embeddings", of=small, input=["x" * 500] * 3)[0] == 300
    assert worst("/v1/completions", of=small, prompt=["x" * 500] * 3) == (300, 30)


def test_what_the_operator_lays_over_a_request_counts_too() -> None:
    assert worst(of=replace(MODEL, extra_body={"max_tokens": 4000}))[1] == 4000
    assert worst(of=replace(MODEL, defaults={"max_new_tokens": 4000, "n": 2}))[1] == 8000
    assert worst(of=replace(MODEL, drop_fields=frozenset({"max_tokens"})))[1] == CONTEXT
    assert worst(of=replace(MODEL, extra_body={"vllm_xargs": {"anyprec_bits": 3}}))[1] == 10


NAMES = st.sampled_from(
    ["max_tokens", "n_predict", "min_tokens", "options", "best_of", "num_beams", "reasoning", "tools", "input_x"]
)
VALUES: Any = st.integers(-5, 200) | st.sampled_from(["7", "x", None, True, [], {}, 1.5, {"num_predict": 50}, ["a"]])


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_no_field_makes_the_worst_case_smaller_or_is_an_error_of_ours(more: dict[str, object]) -> None:
    try:
        prompt, completion = worst(**{**more, "max_tokens": 10})
    except InvalidRequest:
        return
    assert prompt >= worst()[0]
    assert completion >= 10


HOSTED = ("web_search", "web_search_preview", "file_search", "code_interpreter", "image_generation", "mcp", "new_one")


@pytest.mark.parametrize("kind", HOSTED)
def test_a_hosted_tool_without_a_limit_of_calls_has_no_bound(kind: str) -> None:
    assert requirements("/v1/responses", tools=[{"type": kind}]).fee == kind
    assert not requirements("/v1/responses", tools=[{"type": kind}], max_tool_calls=2).fee
    assert not requirements("/v1/messages", tools=[{"type": kind, "max_uses": 2}]).fee
    assert requirements("/v1/messages", tools=[{"type": kind, "max_uses": 2}, {"type": kind}]).fee


@pytest.mark.parametrize("tool", [{"type": "function"}, {"name": "f"}, {"type": "bash_20250124"}, {"type": "custom"}])
def test_tools_that_the_client_runs_itself_cost_nothing(tool: dict[str, object]) -> None:
    for path in (CHAT, "/v1/responses", "/v1/messages"):
        asked = requirements(path, tools=[tool])
        assert (asked.fee, asked.unforeseen) == ("", "")


HARD = Budget("tenant:acme", NanoUsd(10**12), 3600)
REMOTE = model("small", SMALL, local=False, capabilities=frozenset({"chat", "tools", "responses"}))
SEARCHES = {"tools": [{"type": "web_search"}]}


@pytest.mark.anyio
async def test_fees_without_a_bound_are_refused_under_a_hard_budget_and_only_there(tmp_path: Path) -> None:
    async with open_house(tmp_path, small=REMOTE) as house:
        await house.read(**SEARCHES)
        house.principal = replace(house.principal, budgets=(replace(HARD, hard=False),))
        await house.read(**SEARCHES)
        house.principal = replace(house.principal, budgets=(HARD,))
        with pytest.raises(InvalidRequest, match="web_search adds fees without a bound") as refused:
            await house.ask(**SEARCHES)
        assert refused.value.status == 400
        await house.read(**SEARCHES, max_tool_calls=1)
        assert (await house.spent(HARD))[1] == 0


@pytest.mark.anyio
async def test_a_model_of_one_s_own_has_no_fees(tmp_path: Path) -> None:
    own = replace(REMOTE, local=True)
    async with open_house(tmp_path, small=own) as house:
        house.principal = replace(house.principal, budgets=(HARD,))
        answer, _ = await house.read(**SEARCHES)
        assert answer.attempt.hold.amount >= own.price.of(own.context_tokens, 0)


@pytest.mark.anyio
async def test_what_nobody_can_foresee_is_held_or_refused_as_the_settings_say(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        house.principal = replace(house.principal, budgets=(HARD,))
        answer, _ = await house.read(documents=[{"text": "x"}])
        assert answer.attempt.hold.amount >= answer.attempt.model.price.of(4096, 0)
        house.gateway.decider.options = replace(house.gateway.decider.options, refuse_unforeseen=True)
        with pytest.raises(InvalidRequest, match=r"documents adds tokens nobody can foresee"):
            await house.ask(documents=[{"text": "x"}])
        await house.read()


def obeying(field: str) -> Script:
    """An engine that reads one field, and writes as much as it allows."""

    def script(_model: str, body: Any) -> Line:
        tokens = int(body.get(field) or 16)
        return Line(text="word " * tokens, prompt_tokens=20, completion_tokens=tokens)

    return script


@pytest.mark.anyio
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n_predict", "min_tokens"])
async def test_whichever_limit_an_engine_obeys_its_answer_is_paid_and_was_held(tmp_path: Path, field: str) -> None:
    async with open_house(tmp_path) as house:
        house.principal = replace(house.principal, budgets=(HARD,))
        house.scripts["small"]._script = obeying(field)
        answer, _ = await house.read(model="small", **{"max_completion_tokens": 1, field: 4000})
        assert answer.cost == answer.attempt.model.price.of(20, 4000)
        assert answer.cost <= answer.attempt.hold.amount
        assert [entry.kind for entry in await house.stores.audit.read()] == []


@pytest.mark.anyio
async def test_what_an_engine_reports_beyond_the_hold_is_charged_in_full_and_seen(tmp_path: Path) -> None:
    line = Line(text="word " * 500, prompt_tokens=20, completion_tokens=500)
    tight = Budget("tenant:acme", NanoUsd(40_000), 3600)
    async with open_house(tmp_path, lines={"small": line}) as house:
        house.principal = replace(house.principal, budgets=(tight,), limits=(RateLimit("tenant:acme", None, 10_000),))
        answer, _ = await house.read(model="small", max_tokens=10)
        assert answer.cost == answer.attempt.model.price.of(20, 500) > answer.attempt.hold.amount
        assert await house.spent(tight) == (answer.cost, 0)
        over = [entry for entry in await house.stores.audit.read() if entry.kind == "hold.over"]
        assert [entry.detail["charged"] for entry in over] == [answer.cost]
        with pytest.raises(BudgetExceeded):
            await house.ask(model="small", max_tokens=10)


@pytest.mark.anyio
async def test_a_completion_s_usual_length_is_said_to_the_engine(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        call = parse("/v1/completions", b'{"model": "small", "prompt": "hi"}', {})
        await (await house.gateway.answer(house.principal, call)).close()
        assert house.scripts["small"].sent[-1]["max_tokens"] == 16
