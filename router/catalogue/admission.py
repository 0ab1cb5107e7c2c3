"""Which compressed variants may receive traffic: verdicts on file, and how one is reached from paired samples.

A verdict file that cannot be read counts as none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.intervals import Interval, interval_of
from router.types import Model

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A variant against its parent on the same prompts."""

    model: str
    parent: str
    prompts: int
    quality: float  # of the variant, in [0, 1]
    parent_quality: float
    difference: Interval  # variant less parent, paired, in points of quality
    slowdown: Interval  # the variant's time over the parent's, geometric mean of pairs
    refusals: Interval | None  # what the variant refuses and the parent does not, less the other way; a share
    reasons: tuple[str, ...]  # why not; empty when admitted

    @property
    def admitted(self) -> bool:
        """Whether it may receive traffic."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Samples:
    """Paired answers: element i of each array belongs to prompt i."""

    scores: Floats  # (n, 2) variant, parent, in [0, 1]
    seconds: Floats  # (n, 2)
    refused: Floats  # (m, 2) 1 where refused; m may be 0


def judge(model: str, parent: str, samples: Samples, *, max_loss: float, max_slowdown: float) -> Verdict:
    """Admit what is, at 95 %, no more than `max_loss` worse, not slower than `max_slowdown` and refuses no more.

    Differences are paired, with Student's interval; time is compared as the geometric mean of the pairs' ratios. One
    prompt says nothing of refusals.
    Raises: ValueError below 20 prompts, where an interval says nothing.
    """
    if len(samples.scores) < 20:
        raise ValueError(f"{len(samples.scores)} prompts are too few for a verdict, at least 20 are needed")
    difference = interval_of(samples.scores[:, 0] - samples.scores[:, 1])
    logs = interval_of(np.log(samples.seconds[:, 0] / samples.seconds[:, 1]))
    mean, low, high = (float(np.exp(x)) for x in (logs.mean, logs.low, logs.high))
    slowdown = replace(logs, mean=mean, low=low, high=high)
    refusals = interval_of(samples.refused[:, 0] - samples.refused[:, 1]) if len(samples.refused) > 1 else None
    reasons = []
    if difference.low < -max_loss:
        reasons.append(f"may be {-difference.low:.3f} worse than {parent}, allowed are {max_loss:g}")
    if slowdown.low > max_slowdown:
        reasons.append(f"is {slowdown.mean:.2f} times as slow as {parent}, allowed are {max_slowdown:g}")
    if refusals is not None and refusals.low > 0:
        reasons.append(f"refuses {refusals.mean:.1%} more than {parent}")
    quality, parent_quality = (float(mean) for mean in samples.scores.mean(axis=0))
    return Verdict(
        model, parent, len(samples.scores), quality, parent_quality, difference, slowdown, refusals, tuple(reasons)
    )


_REFUSAL = re.compile(
    r"\b(i('m| am) (sorry|unable|not able)|i (can(no|')t|won't|will not)\b|as an ai\b|i must decline)", re.IGNORECASE
)


def is_refusal(text: str) -> bool:
    """Whether an answer declines: an empty one, or one that says so in its first 200 characters."""
    return not text.strip() or _REFUSAL.search(text[:200]) is not None


class Admissions:
    """Verdicts in a folder, one file a model."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, verdict: Verdict) -> Path:
        """Write a verdict; it takes the place of an earlier one. Raises: OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(verdict.model)
        path.write_text(json.dumps(asdict(verdict) | {"admitted": verdict.admitted}, indent=2))
        return path

    def admits(self, model: str) -> bool:
        """Whether there is a verdict and it is a yes."""
        try:
            return json.loads(self._path(model).read_text()).get("admitted") is True
        except (OSError, ValueError):
            return False

    def _path(self, model: str) -> Path:
        return self._folder / f"{re.sub(r'[^A-Za-z0-9@._-]', '_', model)}.json"


def parent_of(model: Model, models: Sequence[Model]) -> Model | None:
    """What a variant is compared with: its parent if that is served, else the widest variant of the same parent."""
    relatives = [each for each in models if each.name != model.name and each.name == model.parent]
    if not relatives:
        relatives = [each for each in models if each.name != model.name and each.parent == model.parent]
    return max(relatives, key=lambda each: each.bits or 16, default=None)
