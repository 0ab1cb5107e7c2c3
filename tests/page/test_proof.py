"""Proof: every figure is what `pointsman replay` and the spend report say, and where too little is known it is said."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cli import main
from router.http.proofs import Prover
from router.learning.judgement import judged_answers
from router.learning.proof import over_time, proof_of, quality_by
from router.stores.open import open_stores
from router.stores.reports import KnownNames, SpendLine, grouped
from tests.http.conftest import Running
from tests.page.conftest import ADMIN, ANSWERS, client, fill, gateway_in, give_key, opened
from tests.page.test_decisions import asked
from tests.policies.test_judgement import make_entries

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def report_of(gateway: Running) -> dict[str, Any]:
    with client(gateway, ADMIN) as admin:
        assert admin.post("/admin/v1/proof").status_code == 202
        for _ in range(3000):
            found: dict[str, Any] = admin.get("/admin/v1/proof").json()
            if not found["making"]:
                assert found["failed"] is None
                return dict(found["report"])
            time.sleep(0.1)
    raise AssertionError("no report came")


@pytest.mark.timeout(600)  # the report's process stands behind all others of the machine
def test_every_figure_is_what_replay_says(proven: tuple[Running, Path], tmp_path: Path) -> None:
    gateway, folder = proven
    report = report_of(gateway)
    (tmp_path / "large.yaml").write_text("policy: {name: fixed, options: {fixed: {arm: large}}}\n")
    (tmp_path / "small.yaml").write_text("policy: {name: fixed, options: {fixed: {arm: small}}}\n")
    wanted = [part for name in ("large", "small") for part in ("--policy", str(tmp_path / f"{name}.yaml"))]
    assert main(["replay", f"sqlite:///{folder}/state/pointsman.db", *wanted, "--out", str(tmp_path / "out")]) == 0
    reported = json.loads((tmp_path / "out" / "judgement.json").read_text())
    assert report["answers"] == reported.pop("answers") == ANSWERS
    assert report["drift"] == reported.pop("drift")
    assert report["by"] == reported.pop("by")
    assert report["over_time"] == reported.pop("over_time")
    of_replay = {f"always {name.removesuffix('.yaml')}": each for name, each in reported.pop("savings").items()}
    assert {name: report["savings"][name] for name in of_replay} == of_replay
    assert [each["model"] for each in report["drift"]] == ["large", "small"]
    for label, judged in reported.items():
        assert report["judged"]["live" if label == "live" else f"always {label.removesuffix('.yaml')}"] == judged
    large = report["judged"]["always large"]
    saving, live = report["savings"]["always large"], report["judged"]["live"]
    assert saving["saved"] == pytest.approx(1 - live["cost_usd"]["mean"]["mean"] / large["cost_usd"]["dr"]["mean"])
    assert saving["saved_low"] < saving["saved"] < saving["saved_high"]


def test_the_page_shows_the_report_and_the_spend_report(browser: Browser, proven: tuple[Running, Path]) -> None:
    gateway, _ = proven
    with client(gateway, ADMIN) as admin:
        body = {"model": "small@4bit", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}
        assert admin.post("/v1/chat/completions", json=body).is_success
        (line,) = admin.get("/admin/v1/spend?by=model").json()["data"]
    with opened(browser, gateway) as page:
        give_key(page, ADMIN)
        page.click("nav a[href='#proof']")
        page.wait_for_selector("[aria-label='Spend by tenant'] td:has-text('default')")
        page.select_option("#by", "model")
        row = page.locator("[aria-label='Spend by model'] tr", has_text=line["model"])
        assert f"{line['cost_nanousd']:.1f} nUSD" in row.inner_text()
        for by, name in (("width", "4bit"), ("program", "no program")):
            page.select_option("#by", by)
            page.wait_for_selector(f"[aria-label='Spend by {by}'] td:text-is('{name}')")
        page.click("text=Make it anew")
        page.wait_for_selector("[aria-label='Policies compared'] td:has-text('always large')", timeout=60_000)
        assert page.locator("svg.chart").count() == 2
        assert page.locator("[aria-label='Drift of quality'] tr", has_text="small").count() == 1
        page.select_option("#quality-by", "width")
        assert page.locator("[aria-label='Quality by width'] td", has_text="as they are").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [390, 1440])
def test_what_is_spent_and_foretold_is_in_the_window(
    browser: Browser, proven: tuple[Running, Path], width: int
) -> None:
    gateway, _ = proven
    with client(gateway, ADMIN) as admin:
        asked(admin, model="small@4bit")
    with opened(browser, gateway, width=width) as page:
        give_key(page, ADMIN)
        page.click("nav a[href='#proof']")
        page.wait_for_selector("[aria-label='Spend by tenant'] td")
        foretold = page.locator("[aria-label='Spend by tenant'] th:has-text('In 30 days')")
        assert foretold.is_visible()
        assert page.locator("[aria-label='Spend by tenant']").evaluate("e => e.scrollWidth - e.clientWidth") == 0


@pytest.mark.timeout(600)
def test_every_worker_says_that_a_report_is_being_made_and_no_reader_finds_none(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with gateway_in(tmp_path, server={"workers": 2}) as found, ThreadPoolExecutor(1) as aside:
        aside.submit(asyncio.run, fill(f"sqlite:///{tmp_path}/state/pointsman.db")).result()

        def ask(verb: str = "GET") -> dict[str, Any]:  # over a connection of its own: another worker may answer
            with client(found, ADMIN) as admin:
                return dict(admin.request(verb, "/admin/v1/proof").json())

        known = None
        for _ in range(2):
            assert ask("POST")["making"]
            while (state := ask())["making"]:
                assert known is None or state["report"]
            known = state["report"]
            for state in (ask() for _ in range(8)):
                assert (state["making"], state["failed"], state["report"]) == (False, None, known)
            assert known["answers"] == ANSWERS


def test_a_report_whose_gateway_ended_meanwhile_is_not_waited_for(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as aside:  # the browser's loop may run in this thread
        aside.submit(asyncio.run, ending(tmp_path)).result()


async def ending(folder: Path) -> None:
    async def never() -> bytes:
        await asyncio.Event().wait()
        return b""

    now = [1_000_000]
    async with open_stores(f"sqlite:///{folder}/one.db", clock=lambda: now[0]) as stores:
        ended, other = (Prover(stores.archive, never, clock=lambda: now[0]) for _ in range(2))
        await ended.start()
        assert (await other.progress()).making
        now[0] += 60_000
        told = await other.progress()
        assert (told.making, told.failed) == (False, "the gateway that made a report ended before it was done")
        await other.start()
        assert (await ended.progress()).making


def test_only_admins_see_a_proof_or_have_one_made(gateway: Running) -> None:
    with client(gateway) as tenant:
        assert tenant.get("/admin/v1/proof").status_code == 403
        assert tenant.post("/admin/v1/proof").status_code == 403


def test_too_little_evidence_is_said_in_place_of_numbers() -> None:
    found = proof_of(make_entries(20))
    assert "20 answers were judged, 50 are needed" in str(found["refused"])
    assert (found["judged"], found["savings"], found["over_time"]) == ({}, {}, [])
    never = proof_of(make_entries(explore=0.02))
    savings = never["savings"]
    assert isinstance(savings, dict)
    assert "are needed: log more traffic" in savings["always large"]
    assert proof_of([])["answers"] == 0


def test_spend_by_width_and_program_sums_to_the_whole() -> None:
    lines = [
        SpendLine("2026-12-01", "acme", "", "k", model, 1, 10, 5, cost)
        for model, cost in (
            ("small@3bit", 7),
            ("large@3bit", 30),
            ("large", 200),
            ("vote5", 1000),
            ("stored:small@3bit", 0),
        )
    ]
    assert {line.width: (line.requests, line.cost_nanousd) for line in grouped(lines, ["width"])} == {
        "": (2, 1200),
        "3bit": (3, 37),
    }
    named = KnownNames(widths={"large": "4bit"})
    assert {line.width for line in grouped(lines, ["width"], known=named)} == {"", "3bit", "4bit"}
    by_program = grouped(lines, ["program"], known=KnownNames(["vote5"]))
    assert {line.program: line.cost_nanousd for line in by_program} == {"vote5": 1000, "": 237}


def test_quality_by_group_is_the_plain_mean_of_its_answers_or_a_sentence() -> None:
    answers = judged_answers(make_entries(400))
    found = quality_by(answers)
    (whole,) = found["program"]
    assert (whole["name"], whole["answers"]) == ("", 400)
    for each in found["model"]:
        scores = [answer.score for answer in answers if answer.record.model == each["name"]]
        quality = each["quality"]
        assert isinstance(quality, dict)
        assert quality["mean"] == pytest.approx(sum(scores) / len(scores))
    assert "50 are needed" in str(quality_by(answers[:30])["width"][0]["refused"])


def test_quality_over_time_is_of_periods_of_equally_many_answers() -> None:
    periods = over_time(judged_answers(make_entries(320)))
    assert [period["answers"] for period in periods] == [53, 54, 53, 53, 54, 53]
    assert all("quality" in period for period in periods)
