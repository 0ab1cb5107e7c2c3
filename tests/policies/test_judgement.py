"""A gateway's log, and what another policy would have earned on it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from cli import main
from policies.ope import Value
from policies.registry import build
from policies.types import Arm
from router.learning.judgement import judge_policy, judged_answers
from router.stores.open import open_stores
from router.types import DecisionRecord, Feedback, LogEntry, NanoUsd, SettlementRecord
from tests.policies.worlds import make_record

MODELS = ("small", "large")
ARMS = tuple(Arm(name, 0.0, 0.0) for name in MODELS)
USD = {"small": 1e-5, "large": 1e-4}


def make_entries(count: int = 400, explore: float = 0.4) -> list[LogEntry]:
    """The live policy prefers the small model; the large one is right 90 % of the time, the small one 60 %."""
    rng = np.random.default_rng(1)
    entries: list[LogEntry] = []
    for i in range(count):
        probabilities = (1 - explore / 2, explore / 2)
        chosen = int(rng.random() > probabilities[0])
        score = float(rng.random() < (0.6, 0.9)[chosen])
        entries += make_answer(f"{i:06d}", i, chosen, probabilities, score, rng.normal(size=8).astype("<f2"))
    return entries


def make_answer(
    key: str, at_ms: int, chosen: int, probabilities: tuple[float, float], score: float, vector: np.ndarray
) -> list[LogEntry]:
    decision = make_record(key, ARMS, model=MODELS[chosen], at_ms=at_ms, vector=vector, probabilities=probabilities)
    cost = NanoUsd(round(USD[MODELS[chosen]] * 1e9))
    paid = SettlementRecord(key, at_ms, MODELS[chosen], cost, 50, 20, "settled", latency_ms=9.0, first_byte_ms=3.0)
    return [decision, paid, Feedback(key, at_ms, score, tenant="acme")]


def test_another_policy_is_judged_within_its_interval() -> None:
    judged = judge_policy(build("fixed", (), {"arm": "large"}), make_entries())
    for estimator in ("ips", "snips", "dr"):
        value = judged["quality"][estimator]
        assert isinstance(value, Value)
        assert value.low <= 0.9 <= value.high
    cost = judged["cost_usd"]["snips"]
    assert isinstance(cost, Value)
    assert cost.mean == pytest.approx(1e-4)


def test_a_log_without_exploration_is_refused_for_the_model_it_never_tried() -> None:
    judged = judge_policy(build("fixed", (), {"arm": "large"}), make_entries(explore=0.02))
    assert "are needed: log more traffic" in str(judged["quality"]["refused"])


def test_pinned_unsettled_and_unjudged_requests_are_left_out() -> None:
    entries = make_entries(3)
    pinned = make_answer("pinned", 9, 0, (1.0, 0.0), 1.0, np.ones(8, "<f2"))
    assert isinstance(pinned[0], DecisionRecord)
    pinned[0] = replace(pinned[0], policy="pinned")
    unjudged = make_answer("unjudged", 9, 0, (1.0, 0.0), 1.0, np.ones(8, "<f2"))[:2]
    unsettled = make_answer("unsettled", 9, 0, (1.0, 0.0), 1.0, np.ones(8, "<f2"))[::2]
    assert len(judged_answers([*entries, *pinned, *unjudged, *unsettled])) == 3


async def fill(url: str) -> None:
    async with open_stores(url, clock=lambda: time.time_ns() // 1_000_000) as stores:
        for entry in make_entries(120):
            if isinstance(entry, Feedback):
                await stores.log.judge(entry)
            else:
                await stores.log.remember(entry)


def test_the_command_reads_the_store_of_a_gateway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import anyio

    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    anyio.run(fill, url)
    assert main(["replay", url, "--policy", "random", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "120 judged answers" in out
    assert "random" in out
    assert "dr" in out
    written = json.loads((tmp_path / "out" / "judgement.json").read_text())
    assert written["answers"] == 120
    assert written["random"]["quality"]["dr"]["low"] < written["random"]["quality"]["dr"]["high"]


@pytest.mark.parametrize("verb", ["replay", "export"])
def test_a_store_that_is_not_there_is_refused_and_not_made(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "gatway.db", tmp_path / "log.parquet"
    arguments = {"replay": ["--policy", "random", "--out", str(out)], "export": [str(out)]}
    assert main([verb, f"sqlite:///{path}", *arguments[verb]]) == 2
    assert f"there is no store {path}" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policy: {name: neighbours, options: {neighbours: {k: 0}}}", "k is 0"),
        ("policy: {name: neighbours, options: {neighbours: {kk: 3}}}", "no option 'kk'"),
        ("policy: {name: fixed}", "needs the option arm"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_log_is_read(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["replay", "sqlite:////nowhere.db", "--policy", str(tmp_path / "mine.yaml")]) == 2
    assert said in capsys.readouterr().err
