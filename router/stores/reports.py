"""What was spent, by tenant, team, key, model and day, and what happened to money and keys: ports of the stores."""

from __future__ import annotations

import csv
import getpass
import io
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Protocol

from backends.anyprec.names import parsed_width
from backends.types import COUNTED
from router.types import NANO_PER_USD

GROUPS = ("day", "tenant", "team", "key", "model", "width", "program")


@dataclass(frozen=True, slots=True)
class SpendLine:
    """What one group spent. A field that was not grouped by is None."""

    day: str | None  # UTC, e.g. 2026-11-23
    tenant: str | None
    team: str | None  # "" where there is none
    key: str | None  # id
    model: str | None
    width: str | None = field(default=None, kw_only=True)  # of the model; "" where it has none
    program: str | None = field(default=None, kw_only=True)  # the model, where it is a program; "" where it is none
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost_nanousd: int
    cached: int = 0  # of these tokens, by kind
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_prompt: int = 0
    image_prompt: int = 0
    reasoning: int = 0
    audio_completion: int = 0
    image_completion: int = 0
    searches: int = 0
    saved_nanousd: int = 0  # that stored answers cost when they were made


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that happened to money or keys."""

    position: str
    at_ms: int
    kind: str  # "hold.expired", "hold.released", "hold.late", "hold.over", "budget.80%", "key.created", …
    subject: str  # a decision id, or a tenant, team or key
    detail: Mapping[str, object]


KINDS = (*COUNTED, "saved_nanousd")  # of tokens, as everything else names them, and what was saved
_ONCE = {"written": "cache_write", "written_1h": "cache_write_1h"}  # names in stores of before December 2026


def kinds_of(found: Mapping[str, int]) -> dict[str, Any]:
    """The kinds of a spend line as a store has them."""
    kinds = dict.fromkeys((_ONCE.get(name, name) for name in found), 0)
    for name, count in found.items():
        kinds[_ONCE.get(name, name)] += count
    return kinds


_SUMS = tuple(each.name for each in fields(SpendLine) if each.name not in GROUPS)


class Spending(Protocol):
    """Settled spend."""

    async def lines(self, *, since: str, until: str) -> list[SpendLine]:
        """One line for each day in since..until (inclusive), tenant, team, key and model. Raises: StoreUnavailable."""


class Audit(Protocol):
    """What happened, in order."""

    async def note(self, kind: str, subject: str, detail: Mapping[str, object]) -> None:
        """Append. Raises: StoreUnavailable."""

    async def read(self, *, after: str = "", limit: int = 100) -> list[AuditEntry]:
        """Entries after a position, oldest first. Raises: StoreUnavailable."""


def by_command_line() -> str:
    """Who acts, where a verb of the command line does: `by` of an audit entry."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        who = str(os.getuid())
    return f"command line of {who}"


@dataclass(frozen=True, slots=True)
class KnownNames:
    """What settings say of names of models: which are programs, and the widths of those whose names do not tell."""

    programs: Collection[str] = ()
    widths: Mapping[str, str] = field(default_factory=dict)

    def width(self, model: str) -> str:
        """Such as 3bit; "" where there is none."""
        found = parsed_width(model)
        return self.widths.get(model, "") if found is None else found.width


NO_NAMES = KnownNames()


def grouped(lines: Iterable[SpendLine], by: Sequence[str], *, known: KnownNames = NO_NAMES) -> list[SpendLine]:
    """Sums over what is not in `by` (of GROUPS), most expensive first, days ascending."""
    sums: dict[SpendLine, SpendLine] = {}
    for line in lines:
        names: dict[str, Any] = {name: _name(line, name, known) if name in by else None for name in GROUPS}
        group = replace(_NOTHING, **names)
        sums[group] = _plus(sums.get(group, group), line)
    return sorted(sums.values(), key=lambda line: (line.day or "", -line.cost_nanousd))


_NOTHING = SpendLine(None, None, None, None, None, 0, 0, 0, 0)


def _name(line: SpendLine, of: str, known: KnownNames) -> str | None:
    """Of the group that a line belongs to."""
    model = line.model or ""
    if of == "width":
        return known.width(model)
    if of == "program":
        return model if model in known.programs else ""
    name: str | None = getattr(line, of)
    return name


def _plus(a: SpendLine, b: SpendLine) -> SpendLine:
    return replace(a, **{name: getattr(a, name) + getattr(b, name) for name in _SUMS})


def as_rows(lines: Iterable[SpendLine]) -> list[dict[str, object]]:
    """JSON rows, with what was charged and saved in USD beside the exact amounts."""
    usd = [(line, line.cost_nanousd / NANO_PER_USD, line.saved_nanousd / NANO_PER_USD) for line in lines]
    return [{**asdict(line), "cost_usd": cost, "saved_usd": saved} for line, cost, saved in usd]


_FORMULAS = frozenset("=+-@\t\r\n")


def as_csv(lines: Iterable[SpendLine]) -> str:
    """The same as CSV with a header."""
    out = io.StringIO()
    names = [f.name for f in fields(SpendLine)] + ["cost_usd", "saved_usd"]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _inert(value) for name, value in row.items()} for row in as_rows(lines))
    return out.getvalue()


def _inert(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: names are their owners' to choose."""
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULAS else value
