"""`pointsman onboard`: a new model answers the prompts that tell most about it, and its grades go to the gateway.

The known models' expected scores on each prompt are asked of the gateway; prompts that say most of how good the new one
is altogether are chosen, see policies/estimators/prompt_selection.py. Each answer is graded and fed back,
so the live policies learn it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.estimators.prompt_selection import c_optimal_prompts
from policies.identity import Skills, Vector
from policies.types import Float
from router.errors import SettingsError
from router.learning.graders.validators import Grade, grade_exact, grade_json, grade_regex

Post = Callable[[str, Mapping[str, Any]], dict[str, Any]]
"""(path, body) -> the gateway's answer. Raises: PointsmanError."""

RANK = 6
NOISE = 0.15  # variance of a grade around what is expected of a model
GRADERS = ("answer", "regex", "schema")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question that can be graded without a person."""

    text: str
    grade: Callable[[str], Grade]


@dataclass(frozen=True, slots=True)
class Onboarded:
    """What became of it."""

    asked: int
    mean_score: float
    level: float  # estimated mean score over all prompts
    sigma: float  # its standard deviation
    rivals: dict[str, float]  # mean expected score of the models already known


def read_prompts(path: Path) -> list[Prompt]:
    """JSON lines with "prompt" and one of "answer", "regex", "schema". Raises: SettingsError naming the line."""
    if not path.is_file():
        raise SettingsError(f"there is no file of prompts {path}", param=str(path))
    prompts = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip():
            prompts.append(_prompt(line, f"{path}:{number}"))
    return prompts


def family_prompts(count: int) -> list[Prompt]:
    """Prompts of the embedded family's skills, each with its own grader."""
    from evaluation.skills import grade, sample  # noqa: PLC0415  # only where no file was given

    def graded(item: Any) -> Callable[[str], Grade]:
        return lambda answer: Grade(grade(item, answer), "validator:exact", 1.0)

    return [Prompt(item.prompt, graded(item)) for item in sample(count, rng=np.random.default_rng(0))]


def _prompt(line: str, place: str) -> Prompt:
    try:
        written = json.loads(line)
        text = str(written["prompt"])
        given = next(key for key in GRADERS if key in written)
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise SettingsError(
            f'{place}: expected JSON with "prompt" and one of {", ".join(GRADERS)}', param=place
        ) from error
    wanted = written[given]
    if given == "regex":
        try:
            re.compile(str(wanted))
        except re.error as error:
            raise SettingsError(f"{place}: {wanted!r} is not a regular expression: {error}", param=place) from error
    if given == "schema" and not isinstance(wanted, dict):
        raise SettingsError(f"{place}: the schema is {wanted!r}, expected an object", param=place)
    graders: dict[str, Callable[[str], Grade]] = {
        "answer": lambda answer: grade_exact(answer, str(wanted)),
        "regex": lambda answer: grade_regex(answer, str(wanted)),
        "schema": lambda answer: grade_json(answer, wanted),
    }
    return Prompt(text, graders[given])


def onboard(
    model: str, prompts: Sequence[Prompt], *, count: int, post: Post, on_progress: Callable[[str], None]
) -> Onboarded:
    """Choose, ask, grade, feed back; `on_progress(what)` hears of each call.

    Raises: SettingsError where no prompt or more than there are were asked for, or there is no other model;
    PointsmanError from the gateway.
    """
    if count < 1:
        raise SettingsError(f"{count} prompts were asked for, expected at least one", param="prompts")
    if count > len(prompts):
        raise SettingsError(f"{count} prompts were asked for, there are {len(prompts)}", param="prompts")
    rivals, expected = _expected(model, prompts, post, on_progress)
    skills = Skills.of(expected, RANK)(expected)
    prior = Vector(np.eye(skills.shape[1])[0] * expected.mean(), np.eye(skills.shape[1]) * 0.1)
    rows = c_optimal_prompts(np.full_like(expected, np.nan), expected, count=count)
    scores = np.array([_ask(model, prompts[row], post, on_progress) for row in rows])
    found = prior.updated(skills[rows], scores, noise=NOISE)
    centre = skills.mean(axis=0)
    return Onboarded(
        asked=count,
        mean_score=float(scores.mean()),
        level=float(np.clip(centre @ found.mean, 0.0, 1.0)),
        sigma=float(np.sqrt(centre @ found.covariance @ centre)),
        rivals=dict(zip(rivals, expected.mean(axis=0).tolist(), strict=True)),
    )


def _expected(
    model: str, prompts: Sequence[Prompt], post: Post, on_progress: Callable[[str], None]
) -> tuple[list[str], Float]:
    """(names of the other models (M,), their expected scores (N, M)) from the gateway's own estimates."""
    rivals: list[str] = []
    rows = []
    for prompt in prompts:
        decision = post("/v1/route", _chat("auto", prompt))
        quality = {each["model"]: each["quality"] for each in decision["candidates"] if each.get("quality") is not None}
        quality.pop(model, None)
        rivals = rivals or sorted(quality)
        rows.append([quality.get(name, 0.5) for name in rivals])
        on_progress("estimating")
    if not rivals:
        raise SettingsError(f"there is no other model than {model} to compare with", param="model")
    return rivals, np.array(rows, np.float64)


def _ask(model: str, prompt: Prompt, post: Post, on_progress: Callable[[str], None]) -> float:
    answer = post("/v1/chat/completions", {**_chat(model, prompt), "temperature": 0})
    grade = prompt.grade(answer["choices"][0]["message"].get("content") or "")
    post("/v1/feedback", {"response_id": answer["id"], "score": grade.score, "comment": grade.source})
    on_progress("asking")
    return grade.score


def _chat(model: str, prompt: Prompt) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": prompt.text}]}
