"""What the log proves: how the live policies did over time, and what one model for everything would have earned.

Every figure is router.learning.judgement's, as `pointsman replay` prints it. Where the log says too little there is a
sentence in place of a number. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise

from policies.ope import TooFewAnswers, Value
from router.learning.judgement import (
    JudgedAnswer,
    Judgement,
    as_json,
    built,
    judge_policy,
    judged_answers,
    live_value,
)
from router.types import LogEntry

LIVE = "live"
OTHERS = ("random", "neighbours")  # policies beside one model for everything
PERIODS = 12  # of the quality over time, at most …
LEAST = 50  # … with so many judged answers each
ESTIMATOR = "dr"  # that savings rest on


def proof_of(entries: Sequence[LogEntry]) -> dict[str, object]:
    """The report, as JSON values."""
    answers = judged_answers(entries)
    found: dict[str, object] = {
        "entries": len(entries),
        "answers": len(answers),
        "since_ms": entries[0].at_ms if entries else None,
        "until_ms": entries[-1].at_ms if entries else None,
        "over_time": over_time(answers),
    }
    if len(answers) < LEAST:
        why = f"{len(answers)} answers were judged, {LEAST} are needed: give feedback (POST /v1/feedback)"
        return found | {"refused": why, "judged": {}, "savings": {}}
    models = sorted({name for answer in answers for name in answer.record.context.names})
    judged = {LIVE: live_value(answers)}
    judged |= {f"always {name}": judge_policy(built("fixed", {"arm": name}), entries) for name in models}
    judged |= {name: judge_policy(built(name, {}), entries) for name in OTHERS}
    return found | {"judged": as_json(judged), "savings": savings(judged)}


def savings(judged: Mapping[str, Judgement]) -> dict[str, object]:
    """By label: the share of the other's cost that the live policies saved, and the quality they gave for it.

    Intervals are those of both estimates together, which is wider than needed and never narrower.
    """
    live = judged[LIVE]
    return {label: _saving(live, other) for label, other in judged.items() if label != LIVE}


def _saving(live: Judgement, other: Judgement) -> object:
    costs, qualities = other["cost_usd"].get(ESTIMATOR), other["quality"].get(ESTIMATOR)
    cost, quality = live["cost_usd"]["mean"], live["quality"]["mean"]
    if not (isinstance(costs, Value) and isinstance(qualities, Value)):
        return str(other["cost_usd"].get("refused") or other["quality"].get("refused"))
    if not (isinstance(cost, Value) and isinstance(quality, Value)) or costs.low <= 0.0:
        return "the cost of the other is not known well enough to divide by"
    return {
        "saved": 1.0 - cost.mean / costs.mean,
        "saved_low": 1.0 - cost.high / costs.low,
        "saved_high": 1.0 - cost.low / costs.high,
        "quality": quality.mean - qualities.mean,
        "quality_low": quality.low - qualities.high,
        "quality_high": quality.high - qualities.low,
    }


def over_time(answers: Sequence[JudgedAnswer]) -> list[dict[str, object]]:
    """Quality and cost of periods of equally many judged answers; none where there are fewer than LEAST."""
    ordered = sorted(answers, key=lambda answer: answer.record.at_ms)
    periods = min(PERIODS, len(ordered) // LEAST)
    bounds = [round(len(ordered) * i / periods) for i in range(periods + 1)] if periods else []
    return [_period(ordered[start:end]) for start, end in pairwise(bounds)]


def _period(answers: Sequence[JudgedAnswer]) -> dict[str, object]:
    found: dict[str, object] = {
        "since_ms": answers[0].record.at_ms,
        "until_ms": answers[-1].record.at_ms,
        "answers": len(answers),
    }
    try:
        values = live_value(answers)
    except TooFewAnswers as error:
        return found | {"refused": str(error)}
    means = {metric: value["mean"] for metric, value in values.items()}
    return found | {metric: asdict(mean) for metric, mean in means.items() if isinstance(mean, Value)}
