"""Which models' quality moved, by the log alone: what `pointsman replay` prints and the page's Proof shows. Pure.

A model's answers are compared with what a regression over the whole log expects of its answers to such queries, so
that harder queries are no worse model. Judges count apart: one that is stricter than another is no change either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policies.change_points import change_of
from policies.ope import Logged, cross_fitted
from policies.types import Float
from router.learning.judgement import JudgedAnswer, choices_of, contexts_of

LEAST = 100  # judged answers of a model
ALPHA = 0.01  # chance of an alarm of any model in a report where nothing changed, at most
RIDGE = 1.0


def drift_of(answers: Sequence[JudgedAnswer]) -> list[dict[str, object]]:
    """By model, as JSON values: whether its quality moved, when and by how much; or why that cannot be said."""
    ordered = sorted(answers, key=lambda answer: answer.record.at_ms)
    if not ordered:
        return []
    names, choices = choices_of(ordered)
    residuals = _residuals(ordered, len(names), choices)
    known = [column for column in range(len(names)) if (choices == column).sum() >= LEAST]
    return [
        _of_model(
            names[column],
            [ordered[row] for row in np.flatnonzero(choices == column)],
            residuals[choices == column],
            ALPHA / max(1, len(known)),
        )
        for column in range(len(names))
    ]


def _residuals(answers: Sequence[JudgedAnswer], arms: int, choices: np.ndarray) -> Float:
    """(n,) score less what is expected of the model on the query, centred for each judge of each model."""
    scores = np.array([answer.score for answer in answers])
    logged = Logged(scores, np.ones(len(scores)), np.ones(len(scores)), np.array([a.feedback.weight for a in answers]))
    expected = cross_fitted(choices, contexts_of(answers), logged, arms=arms, ridge=RIDGE)
    residuals: Float = scores - expected[np.arange(len(scores)), choices]
    kinds = np.array([f"{choice} {answer.feedback.source}" for choice, answer in zip(choices, answers, strict=True)])
    for kind in np.unique(kinds):
        residuals[kinds == kind] -= residuals[kinds == kind].mean()
    return residuals


def _of_model(name: str, answers: Sequence[JudgedAnswer], residuals: Float, alpha: float) -> dict[str, object]:
    found: dict[str, object] = {"model": name, "answers": len(answers)}
    if len(answers) < LEAST:
        return found | {"refused": f"{len(answers)} answers of {name} were judged, {LEAST} are needed"}
    change = change_of(residuals)
    scores = [answer.score for answer in answers]
    return found | {
        "moved": change.p <= alpha,
        "p": change.p,
        "since_ms": answers[change.at].record.at_ms,
        "before": float(np.mean(scores[: change.at])),
        "after": float(np.mean(scores[change.at :])),
        "shift": change.shift,
        "shift_low": change.low,
        "shift_high": change.high,
    }
