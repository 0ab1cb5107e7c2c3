"""`pointsman admit`: the same graded prompts to a variant and its parent, straight to their engines, and the verdict.

Fails with a plain message where a model is unknown or an engine does not answer.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from backends.errors import BackendError
from backends.types import Request
from backends.whole import read_all
from evaluation.refusals import QUESTION, SafetyPrompts, is_refusal, says_yes
from evaluation.skills import grade, sample
from router.catalogue.admission import AdmissionLimits, Admissions, Floats, Samples, Verdict, judge, parent_of
from router.catalogue.listing import Fleet, fleet_of
from router.errors import PointsmanError
from router.settings import Settings
from router.settings.paths import admissions_path, make_state_dir, store_url
from router.stores.open import open_stores
from router.stores.reports import by_command_line
from router.types import Model

ANSWER_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and what tells a good answer."""

    prompt: str
    grade: Callable[[str], float]


async def examine(
    settings: Settings,
    name: str,
    *,
    parent: str | None,
    prompts: int,
    own: Path | None,
    safety: SafetyPrompts,
    refusal_judge: str | None = None,
    seed: int,
    console: Console,
) -> Verdict:
    """Compare, print and keep the verdict. Raises: PointsmanError."""
    fleet = await fleet_of(settings)
    try:
        pair = _pair(fleet, name, parent)
        questions = _own(own) if own is not None else _graded(prompts, seed)
        judged_by = None if refusal_judge is None else _named(fleet, refusal_judge)
        samples = await _samples(fleet, pair, questions, console)
        samples = await _refusals(fleet, pair, samples, safety, judged_by)
    finally:
        for backend in fleet.backends.values():
            await backend.aclose()
    section = settings.admission
    try:
        limits = AdmissionLimits(
            section.max_loss, section.max_slowdown, section.max_refusal_fall, section.max_refusal_rise
        )
        verdict = judge(name, pair[1].name, samples, limits)
    except ValueError as error:
        raise PointsmanError(str(error)) from None
    kept = await _kept(settings, verdict)
    console.print(table_of(verdict))
    console.print("admitted" if verdict.admitted else "refused: " + "; ".join(verdict.reasons))
    console.print(f"the verdict is in {kept}", soft_wrap=True)
    return verdict


async def _kept(settings: Settings, verdict: Verdict) -> Path:
    """The file of the verdict, which is also where the gateways look. Raises: PointsmanError."""
    make_state_dir(settings)
    async with open_stores(store_url(settings), clock=lambda: time.time_ns() // 1_000_000) as stores:
        kept = await Admissions(admissions_path(settings), stores.records).keep(verdict)
        said = {"parent": verdict.parent, "reasons": list(verdict.reasons), "by": by_command_line()}
        await stores.audit.note(f"model.{'admitted' if verdict.admitted else 'not_admitted'}", verdict.model, said)
        return kept


def _pair(fleet: Fleet, name: str, parent: str | None) -> tuple[Model, Model]:
    models = fleet.every_model()
    named = {model.name: model for model in models}
    for each in filter(None, (name, parent)):
        _named(fleet, each)
    other = named[parent] if parent else parent_of(named[name], models)
    if other is None:
        raise PointsmanError(f"{name} has no parent here to be compared with; name one with --parent")
    return named[name], other


def _named(fleet: Fleet, name: str) -> Model:
    models = {model.name: model for model in fleet.every_model()}
    if name not in models:
        raise PointsmanError(f"there is no model {name!r}; there are {', '.join(models)}")
    return models[name]


def _graded(prompts: int, seed: int) -> list[Question]:
    items = sample(prompts, rng=np.random.default_rng(seed), split="test")
    return [Question(item.prompt, lambda text, item=item: grade(item, text)) for item in items]  # type: ignore[misc]


def _own(path: Path) -> list[Question]:
    """A user's own set. Raises: PointsmanError naming the line."""
    questions = []
    for number, line in enumerate(_lines(path), 1):
        try:
            each = json.loads(line)
            questions.append(Question(each["prompt"], _grader(each)))
        except (ValueError, KeyError, TypeError, re.error) as error:
            message = f"{path}:{number}: {error!r}; expected an object with prompt and answer, or prompt and regex"
            raise PointsmanError(message) from None
    return questions


def _grader(each: dict[str, str]) -> Callable[[str], float]:
    if "regex" in each:
        pattern = re.compile(each["regex"])
        return lambda text: float(pattern.search(text) is not None)
    wanted = each["answer"].strip()
    return lambda text: float(text.strip() == wanted)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise PointsmanError(f"{path}: {error.strerror}") from None


async def _samples(fleet: Fleet, pair: tuple[Model, Model], questions: Sequence[Question], console: Console) -> Samples:
    scores, seconds = np.zeros((len(questions), 2)), np.zeros((len(questions), 2))
    for i, question in enumerate(track(questions, f"{pair[0].name} against {pair[1].name}", console=console)):
        for j in (0, 1) if i % 2 == 0 else (1, 0):  # turn by turn, so that neither always runs on a warm machine
            text, seconds[i, j] = await _ask(fleet, pair[j], question.prompt)
            scores[i, j] = question.grade(text)
    return Samples(scores, seconds, np.zeros((0, 2)), np.zeros((0, 2)))


async def _refusals(
    fleet: Fleet, pair: tuple[Model, Model], samples: Samples, safety: SafetyPrompts, judged_by: Model | None
) -> Samples:
    """`samples` with what of both kinds of prompts is declined."""

    async def declined(prompts: Sequence[str]) -> Floats:
        found = np.zeros((len(prompts), 2))
        for i, prompt in enumerate(prompts):
            for j, model in enumerate(pair):
                text, _ = await _ask(fleet, model, prompt)
                found[i, j] = await _declines(fleet, judged_by, prompt, text)
        return found

    return replace(samples, harmless=await declined(safety.harmless), harmful=await declined(safety.harmful))


async def _declines(fleet: Fleet, judged_by: Model | None, prompt: str, text: str) -> bool:
    """By the stated patterns, or by a judge's word. Raises: PointsmanError."""
    if judged_by is None:
        return is_refusal(text)
    said, _ = await _ask(fleet, judged_by, QUESTION.format(prompt=prompt, answer=text))
    return says_yes(said)


async def _ask(fleet: Fleet, model: Model, prompt: str) -> tuple[str, float]:
    """(text, seconds) of a greedy answer. Raises: PointsmanError."""
    body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": ANSWER_TOKENS}
    fields = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in body.items()}
    request = Request("/v1/chat/completions", fields, model.upstream, model.name, extra=model.extra_body)
    started = time.perf_counter()
    try:
        whole = await read_all(await fleet.backends[model.backend].send(request))
    except BackendError as error:
        raise PointsmanError(f"{model.name}: {error}") from None
    text = msgspec.json.decode(whole)["choices"][0]["message"]["content"] or ""
    return text, time.perf_counter() - started


def table_of(verdict: Verdict) -> Table:
    """The verdict for people."""
    table = Table("", verdict.model, verdict.parent, "difference", "95 % interval", title="Admission")
    difference, slowdown = verdict.difference, verdict.slowdown
    table.add_row(
        "quality",
        f"{verdict.quality:.3f}",
        f"{verdict.parent_quality:.3f}",
        f"{difference.mean:+.3f}",
        f"{difference.low:+.3f} … {difference.high:+.3f}",
    )
    table.add_row("time", "", "", f"× {slowdown.mean:.2f}", f"× {slowdown.low:.2f} … {slowdown.high:.2f}")
    for what, shown in (("harmless refused", verdict.refusals), ("harmful refused", verdict.harmful)):
        if shown is not None:
            table.add_row(what, "", "", f"{shown.mean:+.3f}", f"{shown.low:+.3f} … {shown.high:+.3f}")
    return table
