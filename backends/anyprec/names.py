"""The one grammar of widths: MODEL@3bit, MODEL@3bit+ADAPTER, and what a request calls its width."""

from __future__ import annotations

import re
from dataclasses import dataclass

WIDTH_KEY = "anyprec_bits"  # in a request's vllm_xargs, an adapter's metadata and an engine's list of models
_NAME = re.compile(r"(?P<model>.+)@(?P<bits>[1-9][0-9]?)bit(?:\+(?P<adapter>.+))?")


@dataclass(frozen=True, slots=True)
class WidthName:
    """A width of a model, perhaps with an adapter that compensates it; str() gives the name."""

    model: str
    bits: int  # 1 … 99
    adapter: str = ""

    def __str__(self) -> str:
        return f"{self.model}@{self.width}"

    @property
    def width(self) -> str:
        """3bit, 3bit+ADAPTER."""
        return f"{self.bits}bit" + (f"+{self.adapter}" if self.adapter else "")


def width_name(model: str, bits: int, adapter: str = "") -> str:
    """MODEL@3bit, MODEL@3bit+ADAPTER."""
    return str(WidthName(model, bits, adapter))


def parsed_width(name: str) -> WidthName | None:
    """The parts of such a name; None for every other. The last @ counts: a model's own name may have one."""
    found = _NAME.fullmatch(name)
    return None if found is None else WidthName(found["model"], int(found["bits"]), found["adapter"] or "")
