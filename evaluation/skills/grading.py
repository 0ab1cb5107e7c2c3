"""Graders: exact about content, forgiving about white space, a full stop and a sentence around the answer."""

from __future__ import annotations

import json
import re
from typing import Any

from evaluation.skills.types import Item

_LEAD_IN = re.compile(r"^.{0,120}?(?:\bis|\bare|=|:)\s+", re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_WRAPPING = " \t\r\n.\"'`*!"


def exact(item: Item, text: str) -> float:
    """1.0 when the text is the answer, alone or after a lead-in such as "The answer is"."""
    return float(any(_bare(reading) == _bare(item.answer) for reading in _readings(text)))


def number(item: Item, text: str) -> float:
    """1.0 when the text, after a lead-in, holds one number and it is the answer."""
    return float(any(_numbers(reading) == [float(item.answer)] for reading in _readings(text)))


def numbers(item: Item, text: str) -> float:
    """1.0 when the text, after a lead-in, holds exactly the answer's numbers in the answer's order."""
    wanted = [float(word) for word in re.findall(r"\d+", item.answer)]
    found = [[float(word) for word in re.findall(r"\d+", reading)] for reading in _readings(text)]
    return float(wanted in found)


def fields(item: Item, text: str) -> float:
    """The share of the answer's JSON fields that are right; 0.0 for invalid JSON or fields nobody asked for."""
    wanted, found = json.loads(item.answer), _json_object(text)
    if found is None or set(found) - set(wanted):
        return 0.0
    return sum(_same(found.get(name), value) for name, value in wanted.items()) / len(wanted)


def call(item: Item, text: str) -> float:
    """1.0 when the text holds the right tool with the right arguments, as JSON in any key order."""
    return float(_same(_json_object(text), json.loads(item.answer)))


def _readings(text: str) -> tuple[str, str]:
    text = text.strip()
    return text, _LEAD_IN.sub("", text, count=1)


def _bare(text: str) -> str:
    return " ".join(text.split()).strip(_WRAPPING)


def _numbers(text: str) -> list[float]:
    return [float(match.replace(",", "")) for match in _NUMBER.findall(text)]


def _json_object(text: str) -> dict[str, Any] | None:
    start, stop = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : stop + 1]) if start >= 0 else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _same(found: Any, wanted: Any) -> bool:
    """Equal in value and type, so that True is not 1 and "34" is not 34."""
    return json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)
