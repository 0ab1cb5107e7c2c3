"""The one grammar of widths: MODEL@3bit, MODEL@3.25bit, MODEL@3bit+ADAPTER, and what a request calls its width.

A fractional width is the mean of a profile, which gives every layer a whole width. It has one or two decimals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WIDTH_KEY = "anyprec_bits"  # in a request's vllm_xargs, an adapter's metadata and an engine's list of models
FLOOR_KEY = "anyprec_floor"  # beside it: whether the width is the least, and a wider one of the batch may serve
_BITS = r"[1-9][0-9]?(?:\.[0-9]?[1-9])?"
_WIDTH = re.compile(_BITS)
_NAME = re.compile(rf"(?P<model>.+)@(?P<bits>{_BITS})bit(?:\+(?P<adapter>.+))?")


@dataclass(frozen=True, slots=True)
class WidthName:
    """A width of a model, perhaps with an adapter that compensates it; str() gives the name."""

    model: str
    bits: float  # 1 … 99, with at most two decimals; whole ones are int
    adapter: str = ""

    def __str__(self) -> str:
        return f"{self.model}@{self.width}"

    @property
    def width(self) -> str:
        """3bit, 3.25bit, 3bit+ADAPTER."""
        return f"{self.bits:.12g}bit" + (f"+{self.adapter}" if self.adapter else "")


def width_name(model: str, bits: float, adapter: str = "") -> str:
    """MODEL@3bit, MODEL@3.25bit, MODEL@3bit+ADAPTER."""
    return str(WidthName(model, bits, adapter))


def parsed_width(name: str) -> WidthName | None:
    """The parts of such a name; None for every other. The last @ counts: a model's own name may have one."""
    found = _NAME.fullmatch(name)
    return None if found is None else WidthName(found["model"], _number(found["bits"]), found["adapter"] or "")


def width_of(value: object) -> float | None:
    """A number as a width of this grammar, int where it is whole; None for what is none: true, 0, 3.125, 1e9, "3"."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    text = f"{value:.12g}"
    return _number(text) if _WIDTH.fullmatch(text) else None


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)
