"""What the log proves: how the live policies did over time, and what one model for everything would have earned.

Every figure is router.learning.judgement's, as `pointsman replay` prints it. Where the log says too little there is a
sentence in place of a number. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise

from backends.anyprec.names import parsed_width
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
from router.learning.quality_drift import drift_of
from router.types import PROGRAMS, LogEntry

LIVE = "live"
OTHERS = (  # policies beside one model for everything, each with its own defaults
    *("random", "cheapest", "best", "neighbours"),
    *("preference", "epsilon", "linucb", "thompson"),
)
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
        "by": quality_by(answers),
        "drift": drift_of(answers),
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


def quality_by(answers: Sequence[JudgedAnswer]) -> dict[str, list[dict[str, object]]]:
    """Quality and cost of the answers that each model, width and program gave, whatever it was asked."""
    groups: dict[str, dict[str, list[JudgedAnswer]]] = {"model": {}, "width": {}, "program": {}}
    for answer in answers:
        name = answer.record.model
        groups["model"].setdefault(name, []).append(answer)
        groups["width"].setdefault(_width(answer), []).append(answer)
        groups["program"].setdefault(name if answer.record.backend == PROGRAMS else "", []).append(answer)
    return {
        by: [{"name": name, "answers": len(those), **_live(those)} for name, those in sorted(found.items())]
        for by, found in groups.items()
    }


def _width(answer: JudgedAnswer) -> str:
    """As the model's name says it, else as it was known of the arm."""
    record = answer.record
    found, arm = parsed_width(record.model), record.context.arms[record.context.names.index(record.model)]
    if found is not None:
        return found.width
    return "" if arm.bits is None else f"{arm.bits:g}bit"


def _period(answers: Sequence[JudgedAnswer]) -> dict[str, object]:
    found: dict[str, object] = {
        "since_ms": answers[0].record.at_ms,
        "until_ms": answers[-1].record.at_ms,
        "answers": len(answers),
    }
    return found | _live(answers)


def _live(answers: Sequence[JudgedAnswer]) -> dict[str, object]:
    """Means with their intervals, or why there are none."""
    try:
        values = live_value(answers)
    except TooFewAnswers as error:
        return {"refused": str(error)}
    means = {metric: value["mean"] for metric, value in values.items()}
    return {metric: asdict(mean) for metric, mean in means.items() if isinstance(mean, Value)}
