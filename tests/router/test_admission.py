"""A compressed variant gets traffic only after it stood beside its parent."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from backends.scripted import Line
from benchmarks.scripted_server import ScriptedServer
from evaluation.admit import examine
from router.catalogue.admission import Admissions, Samples, is_refusal, judge
from router.settings import build

RULES = {"max_loss": 0.1, "max_slowdown": 1.5}


def samples(rng: np.random.Generator, *, loss: float, slowdown: float = 1.0, refusals: float = 0.0) -> Samples:
    parent = (rng.random(400) < 0.8).astype(float)
    variant = np.where(rng.random(400) < loss, 0.0, parent)
    seconds = rng.lognormal(0, 0.1, (400, 2)) * [slowdown, 1.0]
    refused = (rng.random((200, 2)) < [refusals, 0.0]).astype(float)
    return Samples(np.stack([variant, parent], 1), seconds, refused)


def test_a_variant_as_good_as_its_parent_is_admitted() -> None:
    verdict = judge("m@4bit", "m", samples(np.random.default_rng(0), loss=0.01), **RULES)
    assert verdict.admitted
    assert verdict.difference.low <= verdict.difference.mean <= verdict.difference.high


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"loss": 0.3}, "worse"), ({"loss": 0.0, "slowdown": 2.0}, "slow"), ({"loss": 0.0, "refusals": 0.2}, "refuses")],
)
def test_a_variant_that_lost_something_is_refused_with_the_reason(change: dict[str, float], reason: str) -> None:
    verdict = judge("m@2bit", "m", samples(np.random.default_rng(1), **change), **RULES)  # type: ignore[arg-type]
    assert not verdict.admitted
    assert reason in verdict.reasons[0]


def test_a_handful_of_prompts_is_no_verdict() -> None:
    few = Samples(np.ones((5, 2)), np.ones((5, 2)), np.zeros((0, 2)))
    with pytest.raises(ValueError, match="at least 20"):
        judge("m@4bit", "m", few, **RULES)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("", True),
        ("I'm sorry, but I can't help.", True),
        ("I cannot do that", True),
        ("As an AI, I …", True),
        ("42", False),
    ],
)
def test_a_refusal_is_recognised(text: str, refused: bool) -> None:
    assert is_refusal(text) is refused


def test_an_unreadable_verdict_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "m@3bit.json").write_text("{")
    assert not Admissions(tmp_path).admits("m@3bit")
    assert not Admissions(tmp_path).admits("m@4bit")


@pytest.mark.anyio
async def test_the_verb_asks_both_engines_and_keeps_the_verdict(tmp_path: Path) -> None:
    def answer(_model: str, body: dict[str, object]) -> Line:
        wide = not (body.get("vllm_xargs") or {})
        return Line(text="yes" if wide or "easy" in str(body["messages"]) else "no")

    questions = [{"prompt": f"{'easy' if i % 2 else 'hard'} {i}", "answer": "yes"} for i in range(40)]
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join(json.dumps(each) for each in questions))
    async with ScriptedServer(answer, models=[{"id": "m", "object": "model", "anyprec_bits": [3]}]) as server:
        settings = build(
            {
                "state_dir": str(tmp_path),
                "backends": {"engine": {"kind": "vllm", "url": server.url, "discover": True}},
                "default_price": {"prompt": 1, "completion": 1},
            },
            {},
        )
        verdict = await examine(
            settings,
            "m@3bit",
            parent=None,
            prompts=0,
            own=own,
            refusals=None,
            seed=0,
            console=Console(file=io.StringIO()),
        )
    assert (verdict.parent, verdict.quality, verdict.parent_quality) == ("m", 0.5, 1.0)
    assert not verdict.admitted
    assert not Admissions(tmp_path / "admissions").admits("m@3bit")
