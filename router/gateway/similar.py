"""Which questions are compared at all, and what must be the same about the requests that they are asked in. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from router.gateway.eligibility import Requirements
from router.learning.likeness import is_comparable

AUDIT = (
    0.1  # of the questions that a stored answer would do for, asked all the same: how often it is wrong is told by them
)
NEAREST = 2  # stored questions in the same words that are looked at, beside the nearest
_TALK = ("messages", "input", "prompt")  # the first that a request has
_PARTS = frozenset({"role", "content", "type"})  # of a message that is a question and no more
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(slots=True)
class Likeness:
    """How a request stands to others that are stored."""

    group: str  # of requests that differ in their question alone
    asks: str  # the question's fingerprint
    sure: float = 0.0  # that the nearest stored question has the same answer
    said: str | None = None  # by the stored answer, where the question is asked all the same


def before_the_question(
    fields: dict[str, msgspec.Raw], text: str, requirements: Requirements
) -> tuple[str, bytes] | None:
    """(the field it stands in, all of that before it), where a request ends with a question that may be compared."""
    field = next((name for name in _TALK if name in fields), None)
    if (
        field is None
        or requirements.images
        or requirements.choices != 1
        or "tools" in requirements.capabilities
        or not is_comparable(text)
    ):
        return None
    try:
        if bytes(fields[field]).startswith(b'"'):
            return (field, b"") if msgspec.json.decode(fields[field]) == text else None
        *before, last = _items(fields[field])
        said: Any = msgspec.json.decode(last)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not said.keys() <= _PARTS or said.get("role") != "user":
        return None
    return (field, b"\0".join([bytes(each) for each in before])) if said.get("content") == text else None
