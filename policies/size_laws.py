"""What size, training tokens, date and family foretell of a model's quality, before its first answer.

The coefficients in size_laws.json were fitted by `python -m research.size_laws` on scores of open models, from the
repository of Sloth (Maia Polo et al., arXiv 2412.06540). A score is the mean over the tasks of both Open LLM
Leaderboards. Size and tokens enter with their product as in Sloth, the date as in Densing Law (arXiv 2412.04315).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from policies.types import Float

FILE = Path(__file__).with_name("size_laws.json")
FEATURES = ("log2_parameters", "log2_tokens", "their_product", "months", "is_tuned", "is_code")
SHRUNK = 0.8  # of what one measured sibling lies off, believed of a whole family
_TUNED = re.compile(r"(?i)(?<![a-z])(instruct|chat|it|sft|dpo|rlhf|tuned)(?![a-z])")
_CODE = re.compile(r"(?i)code|(?<![a-z])star-?coder")


def features_of(*, parameters: float, tokens: float, released: str, is_tuned: bool, is_code: bool) -> list[float]:
    """One value for each of FEATURES; `released` is YYYY-MM or a longer date."""
    size, read = math.log2(parameters / 1e9), math.log2(tokens / 1e12)
    months = 12.0 * (int(released[:4]) - 2023) + int(released[5:7])
    return [size, read, size * read, months, float(is_tuned), float(is_code)]


@cache
def fitted(file: Path = FILE) -> Mapping[str, Any]:
    """The shipped coefficients."""
    content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def family_key(family: str) -> str:
    """Qwen2.5, qwen-2.5 and QWEN2.5 are one."""
    return re.sub(r"[\s_-]", "", family.lower())


def foretold_logit(
    name: str, *, parameters: float | None, family: str | None, trained_tokens: float | None, released: str | None
) -> float | None:
    """Logit of the mean score; None where size, tokens or date is said neither here nor of the family."""
    known = fitted()["families"].get(family_key(family or ""), {})
    tokens, date = trained_tokens or known.get("tokens"), released or known.get("released")
    if not (parameters and tokens and date):
        return None
    words = f"{family or ''} {name}"
    is_tuned, is_code = _TUNED.search(words) is not None, _CODE.search(words) is not None
    features = features_of(parameters=parameters, tokens=tokens, released=date, is_tuned=is_tuned, is_code=is_code)
    law = fitted()["law"]
    standard = (np.array(features) - law["centre"]) / law["scale"]
    return float(law["level"] + standard @ np.array(law["slopes"]) + known.get("offset", 0.0))


def quality_of(logit: float) -> float:
    """Between the mean of the tasks' chance levels and 1."""
    chance: float = fitted()["law"]["chance"]
    return chance + (1.0 - chance) / (1.0 + math.exp(-logit))


def logit_of(quality: float | Float, *, chance: float, edge: float = 0.02) -> Float:
    """The other way; what is nearer to chance or to 1 than `edge` counts as this near."""
    share = np.clip((np.asarray(quality, np.float64) - chance) / (1.0 - chance), edge, 1.0 - edge)
    logits: Float = np.log(share / (1.0 - share))
    return logits


def anchored(
    foretold: Mapping[str, float], measured: Mapping[str, float], families: Mapping[str, str]
) -> dict[str, float]:
    """Quality by name from logits by name, each moved by what the measured members of its family lie off their own."""
    chance: float = fitted()["law"]["chance"]
    gaps: dict[str, list[float]] = {}
    for name in foretold.keys() & measured.keys():
        gaps.setdefault(families.get(name, ""), []).append(
            float(logit_of(measured[name], chance=chance)) - foretold[name]
        )
    moved = {family: SHRUNK * float(np.mean(each)) for family, each in gaps.items() if family}
    return {name: quality_of(logit + moved.get(families.get(name, ""), 0.0)) for name, logit in foretold.items()}
