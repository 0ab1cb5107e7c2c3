"""What an engine reports is charged within bounds, our own count where it cannot be, and what did not fit is seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.scripted import Line
from router.gateway.metering import CountedPart
from router.types import Budget, NanoUsd, Offer, Price, Spend
from tests.router.conftest import SMALL, House, open_house

pytestmark = pytest.mark.anyio
TEXT = "forty bytes of text, or ten tokens of it"
BUDGET = Budget("tenant:acme", NanoUsd(10**12), 3600)


async def charged(folder: Path, usage: object, *, stream: bool = False, **more: Any) -> tuple[Spend, House, list[Any]]:
    """What an answer with this usage is charged, and what the audit log says."""
    line = Line(text=TEXT, usage=usage, **more.pop("line", {}))
    async with open_house(folder, lines={"small": line}) as house:
        house.principal = replace(house.principal, budgets=(BUDGET,))
        answer, _ = await house.read(model="small", stream=stream, **more)
        spend = answer.bill().spend
        assert answer.cost == spend.cost
        assert await house.spent(BUDGET) == (spend.cost, 0)
        return spend, house, await house.stores.audit.read()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("usage", "prompt", "completion"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 12}, 9, 12),
        ({"prompt_tokens": 9, "completion_tokens": 12.0}, 9, 12),
        ({"prompt_tokens": 9, "completion_tokens": 3}, 9, 3),  # a quarter of ten and more
        ({"prompt_tokens": 9, "completion_tokens": 4096}, 9, 4096),  # the context
    ],
)
async def test_a_report_within_bounds_stands_exactly(
    tmp_path: Path, usage: object, prompt: int, completion: int, stream: bool
) -> None:
    spend, _, _ = await charged(tmp_path, usage, stream=stream)
    assert (spend.prompt_tokens, spend.completion_tokens, spend.estimated) == (prompt, completion, False)
    assert spend.cost == -(-(prompt + completion) * SMALL // 1_000_000)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "completion", [None, 0, 2, -100_000_000, 4097, 2**64 - 1, 0.5, "12", [], True, 2**40], ids=repr
)
async def test_a_report_out_of_bounds_gives_way_to_our_own_count(
    tmp_path: Path, completion: object, stream: bool
) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": completion}
    spend, _, audit = await charged(tmp_path, usage, stream=stream)
    assert (spend.prompt_tokens, spend.completion_tokens, spend.estimated) == (9, 10, True)
    assert [entry.kind for entry in audit] == ["usage.estimated"]
    assert audit[0].detail["completion_counted"] == 10


@pytest.mark.parametrize("usage", [{}, {"total_tokens": 20}, b"null", b'"x"', {"prompt_tokens": 0}], ids=repr)
async def test_nothing_reported_is_not_free(tmp_path: Path, usage: object) -> None:
    spend, _, audit = await charged(tmp_path, usage)
    assert spend.prompt_tokens > 0
    assert (spend.completion_tokens, spend.estimated) == (10, True)
    assert [entry.kind for entry in audit] == ["usage.estimated"]


async def test_an_answer_of_nothing_that_reports_nothing_completed_is_no_doubt(tmp_path: Path) -> None:
    async with open_house(tmp_path, lines={"small": Line(text="", usage={"prompt_tokens": 9})}) as house:
        answer, _ = await house.read(model="small")
        assert (answer.bill().spend.completion_tokens, answer.bill().doubts) == (0, ())


async def test_far_above_what_can_be_seen_is_charged_and_shown(tmp_path: Path) -> None:
    spend, _, audit = await charged(tmp_path, {"prompt_tokens": 9, "completion_tokens": 500})
    assert (spend.completion_tokens, spend.estimated) == (500, False)
    assert [entry.kind for entry in audit] == ["usage.unexplained"]
    assert audit[0].detail["completion_reported"] == 500


async def test_what_the_report_itself_explains_is_no_doubt(tmp_path: Path) -> None:
    usage = {
        "prompt_tokens": 900,
        "completion_tokens": 500,
        "prompt_tokens_details": {"cached_tokens": 880},
        "completion_tokens_details": {"reasoning_tokens": 480},
    }
    _, _, audit = await charged(tmp_path, usage)
    assert audit == []


async def test_who_leaves_early_is_charged_our_count_without_a_doubt_about_the_engine(tmp_path: Path) -> None:
    async with open_house(tmp_path, lines={"small": Line(text=TEXT)}) as house:
        answer = await house.ask(model="small", stream=True)
        async for _ in answer:
            break
        await answer.close()
        assert answer.bill().spend.estimated
        assert answer.bill().doubts == ()


async def test_a_schema_or_tools_that_the_engine_does_not_read_do_not_make_its_report_too_small(
    tmp_path: Path,
) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"description": "long " * 200}}}
    spend, _, _ = await charged(tmp_path, {"prompt_tokens": 9, "completion_tokens": 12}, response_format=schema)
    assert (spend.prompt_tokens, spend.estimated) == (9, False)


async def test_a_prompt_that_is_cut_may_be_reported_as_it_was_read(tmp_path: Path) -> None:
    async with open_house(tmp_path, lines={"small": Line(usage={"prompt_tokens": 50, "completion_tokens": 4})}) as h:
        cut, _ = await h.read("word " * 1000, model="small", truncate_prompt_tokens=50)
        whole, _ = await h.read("word " * 1000, model="small")
    assert cut.bill().spend.prompt_tokens == 50
    assert whole.bill().spend.prompt_tokens > 1000


async def test_a_metric_counts_what_did_not_fit_each_time_and_the_audit_log_within_bounds(tmp_path: Path) -> None:
    from router.telemetry.metrics import PrometheusMetrics

    async with open_house(tmp_path, lines={"small": Line(text=TEXT, usage={})}) as house:
        house.gateway._doubts._metrics = metrics = PrometheusMetrics()
        for _ in range(70):
            await house.read(model="small")
        entries = await house.stores.audit.read(limit=1000)
    assert b'pointsman_doubts_total{kind="usage.estimated",model="small"} 70.0' in metrics.text()
    assert 60 <= len(entries) <= 70


@given(
    reported=st.none() | st.integers(0, 2**40),
    unseen=st.integers(0, 2**40),
    counted=st.integers(0, 10**6),
    most=st.integers(1, 10**6),
)
def test_what_is_charged_is_never_below_a_quarter_of_our_count_nor_above_the_context(
    reported: int | None, unseen: int, counted: int, most: int
) -> None:
    part = CountedPart.of(reported, unseen, counted, least=counted / 4, most=most)
    assert min(counted / 4, most) <= part.tokens <= most
    if reported is not None and counted / 4 <= reported <= most:
        assert part.tokens == reported


@pytest.mark.parametrize(
    "make",
    [
        lambda: Spend(NanoUsd(-1), 0, 0, "settled"),
        lambda: Spend(NanoUsd(0), -1, 0, "settled"),
        lambda: Spend(NanoUsd(0), 0, -1, "settled"),
        lambda: Offer("m", NanoUsd(-1), 0),
        lambda: Offer("m", NanoUsd(0), -1),
        lambda: Price(NanoUsd(-1), NanoUsd(0)),
        lambda: Price(NanoUsd(0), NanoUsd(-1)),
    ],
)
def test_the_types_refuse_what_is_below_zero(make: Any) -> None:
    with pytest.raises(ValueError, match="-1"):
        make()


async def test_a_stream_s_usage_event_names_the_cost_of_the_whole(tmp_path: Path) -> None:
    head = {"id": "1", "model": "m"}
    said = [
        {**head, "choices": [{"delta": {"content": word}}], "usage": {"prompt_tokens": 9, "completion_tokens": n}}
        for n, word in enumerate(("one", " two", " three"), start=1)
    ]
    said.append({**head, "choices": [{"delta": {}, "finish_reason": "stop"}], "usage": said[-1]["usage"]})
    said.append({**head, "choices": [], "usage": said[-1]["usage"]})
    pieces = (*(b"data: " + json.dumps(each).encode() + b"\n\n" for each in said), b"data: [DONE]\n\n")
    async with open_house(tmp_path, lines={"small": Line(verbatim=pieces)}) as house:
        answer, body = await house.read(model="small", stream=True, stream_options={"include_usage": True})
    costs = [json.loads(e[6:])["usage"].get("cost") for e in body.decode().split("\n\n") if '"usage"' in e]
    assert {cost for cost in costs if cost is not None} == {(answer.cost or 0) / 1e9}
    assert costs[-1] is not None
