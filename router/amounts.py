"""Money, periods and sizes as people write them, parsed exactly; the one grammar of files, command line and admin API.

Everything is bounded: what is too large for a ledger to count fails with ValueError.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Context, Decimal, Inexact, InvalidOperation
from typing import NamedTuple

from router.types import NANO_PER_USD, NanoUsd, show_usd

MOST_NANO_USD = 2**53  # about 9 million USD; Redis scripts count in doubles, exact up to here
MOST_SCALED = 10**18  # bytes of a size, weights of a model
SHORTEST_S, LONGEST_S = 30, 366 * 86_400
CALENDAR_S = {"day": 86_400, "week": 604_800, "month": 2_592_000, "year": 31_536_000}  # nominal lengths
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "y": 31_536_000}
_NAMED_S = {"minute": 60, "hour": 3_600, **CALENDAR_S}
_SIZE = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_COUNT = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_SPAN = re.compile(r"(rolling |calendar )?(?:([0-9]{1,9}) ?([smhdwy])|([a-z]+))")
_BUDGET = re.compile(r"(?P<limit>.+?) *(?:per|/) *(?P<period>.+?)(?P<soft>,? soft)?")
_NUMBER = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?) ?([A-Za-z]*)")
_EXACT = Context(prec=60, traps=[Inexact, InvalidOperation])
USD = "expected an amount in USD such as 0.15 or '5 USD'"
PERIOD = "expected a period: 30s … 1y (rolling), or day, week, month, year (calendar, UTC)"


def usd(value: object) -> NanoUsd:
    """Nano-USD of 0.15, "0.15", "$0.15" or "0.15 USD". A float counts as its shortest decimal form.

    Raises: ValueError for anything else, negative amounts, and fractions of a nano-USD.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(USD)
    text = repr(value) if isinstance(value, float) else str(value).strip().removeprefix("$").removesuffix("USD").strip()
    try:
        nano = _EXACT.multiply(Decimal(text), NANO_PER_USD)
    except (InvalidOperation, Inexact):
        raise ValueError(USD) from None
    if not nano.is_finite() or nano < 0:
        raise ValueError(f"{USD}, not negative")
    if nano > MOST_NANO_USD:
        raise ValueError(f"expected at most {show_usd(MOST_NANO_USD)} USD")
    if nano != int(nano):
        raise ValueError("expected at most nine decimals: the smallest amount is 0.000000001 USD")
    return NanoUsd(int(nano))


def per_million(usd_per_token: float) -> NanoUsd:
    """Nano-USD per million tokens of a list price per token, rounded up."""
    return NanoUsd(int((Decimal(repr(usd_per_token)) * NANO_PER_USD * 1_000_000).to_integral_value(ROUND_CEILING)))


class Period(NamedTuple):
    """How long a budget lasts: a rolling window, or a UTC calendar period of a nominal length."""

    seconds: int
    calendar: str | None = None  # "day", "week", "month", "year"

    def __str__(self) -> str:
        return self.calendar or show_period(self.seconds)


def period(value: object) -> Period:
    """Of "30s", "7d", "rolling month", "day". Raises: ValueError."""
    if isinstance(value, Period):
        return value
    match = _SPAN.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(PERIOD)
    kind, count, unit, name = match.groups()
    if name is None:
        return _bounded(int(count) * _UNIT_S[unit], calendar=kind == "calendar ")
    if name in CALENDAR_S and kind != "rolling ":
        return Period(CALENDAR_S[name], name)
    return _bounded(_NAMED_S.get(name, 0), calendar=kind == "calendar ")


def _bounded(seconds: int, *, calendar: bool) -> Period:
    if calendar or not SHORTEST_S <= seconds <= LONGEST_S:
        raise ValueError(PERIOD)
    return Period(seconds)


def budget(text: str) -> dict[str, object]:
    """The parts of "5 USD per day" or "100 USD per 30d soft". Raises: ValueError."""
    match = _BUDGET.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected a budget such as '5 USD per day' or '100 USD per 30d soft'")
    return {"limit": match["limit"], "period": match["period"], "hard": match["soft"] is None}


def size(value: object) -> int:
    """Bytes of 1048576, "16 MiB" or "20 MB". Raises: ValueError."""
    return int(_scaled(value, _SIZE, "expected a size such as 1048576, '16 MiB' or '20 MB'"))


def count(value: object) -> float:
    """7e9, 7000000000 or "7B". Raises: ValueError."""
    return float(_scaled(value, _COUNT, "expected a number such as 7000000000 or '7B'"))


def _scaled(value: object, units: dict[str, int], expected: str) -> Decimal:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MOST_SCALED:
        return Decimal(repr(value))
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2].upper() not in units:
        raise ValueError(expected)
    scaled = Decimal(match[1]) * units[match[2].upper()]
    if scaled > MOST_SCALED:
        raise ValueError(expected)
    return scaled


def show_period(seconds: int) -> str:
    """30s, 90m, 7d: the largest unit that divides."""
    for unit in ("d", "h", "m"):
        if seconds % _UNIT_S[unit] == 0:
            return f"{seconds // _UNIT_S[unit]}{unit}"
    return f"{seconds}s"
