"""Weekdays, dates, clock times and units."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable

from evaluation.skills import grading
from evaluation.skills.types import Draw, Skill
from evaluation.skills.words import phrased

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
_LATER = ("What day is {n} days after {d}?", "Today is {d}. What day is it in {n} days?")
_EARLIER = ("What day is {n} days before {d}?", "Today is {d}. What day was it {n} days ago?")
_ADD_DAYS = ("What date is {n} days after {d}?", "Add {n} days to {d}.", "{d} plus {n} days is which date?")
_SPAN = {1: 10, 2: 20, 3: 40, 4: 70, 5: 100}
_ARRIVAL = (
    "A train leaves at {t} and takes {n}. When does it arrive?",
    "A film starts at {t} and lasts {n}. When does it end?",
    "What time is it {n} after {t}?",
)
_UNITS = {
    1: (("m", "cm", 100), ("km", "m", 1000), ("kg", "g", 1000), ("cm", "mm", 10)),
    2: (("cm", "m", 0.01), ("m", "km", 0.001), ("g", "kg", 0.001), ("mm", "cm", 0.1)),
    3: (("hours", "minutes", 60), ("minutes", "seconds", 60), ("dozens", "pieces", 12)),
    4: (("days", "hours", 24), ("weeks", "days", 7), ("feet", "inches", 12), ("stone", "pounds", 14)),
    5: (("weeks", "hours", 168), ("degrees Celsius", "degrees Fahrenheit", 1.8), ("days", "minutes", 1440)),
}
_CONVERT = ("Convert {a} {s} to {t}.", "How many {t} are {a} {s}?", "{a} {s} in {t}?")


def _weekday(generator: random.Random, level: int) -> Draw:
    start, days = generator.randrange(7), generator.randint(1, _SPAN[level])
    back = generator.random() < 0.4
    prompt = phrased(generator, _EARLIER if back else _LATER, n=days, d=_DAYS[start])
    return Draw(prompt, _DAYS[(start - days if back else start + days) % 7], f"{start}{back}{days}")


def _day(generator: random.Random) -> datetime.date:
    return datetime.date(2000, 1, 1) + datetime.timedelta(days=generator.randrange(14610))


def _date(generator: random.Random, level: int) -> Draw:
    day = _day(generator)
    if level == 1:
        prompt = phrased(generator, ("Write {d} as an ISO date.", "ISO date for {d}?"), d=_spelled(day))
        return Draw(prompt, day.isoformat(), day.isoformat())
    if level == 5:
        prompt = phrased(generator, ("What weekday is {d}?", "On which day of the week falls {d}?"), d=day.isoformat())
        return Draw(prompt, _DAYS[day.weekday()], day.isoformat())
    days = generator.randint(1, {2: 9, 3: 31, 4: 150}[level])
    later = day + datetime.timedelta(days=days)
    return Draw(phrased(generator, _ADD_DAYS, n=days, d=day.isoformat()), later.isoformat(), f"{day}+{days}")


def _spelled(day: datetime.date) -> str:
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def _clock(generator: random.Random, level: int) -> Draw:
    start = generator.randrange(1440)
    spans: dict[int, Callable[[], int]] = {
        1: lambda: 60 * generator.randint(1, 5),
        2: lambda: generator.choice((15, 30, 45, 60, 90)),
        3: lambda: generator.randint(2, 59),
        4: lambda: generator.randint(61, 240),
        5: lambda: generator.randint(61, 1439),
    }
    minutes = spans[level]()
    end = (start + minutes) % 1440
    prompt = phrased(generator, _ARRIVAL, t=_time(start), n=_span(minutes))
    return Draw(prompt, _time(end), f"{start}+{minutes}")


def _time(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _span(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    return " ".join([f"{hours} h"] * (hours > 0) + [f"{rest} min"] * (rest > 0))


def _unit(generator: random.Random, level: int) -> Draw:
    source, target, factor = generator.choice(_UNITS[level])
    amount = generator.randint(2, 999 if level < 4 else 400)
    value = amount * factor + (32 if target == "degrees Fahrenheit" else 0)
    written = f"{value:.3f}".rstrip("0").rstrip(".")
    return Draw(phrased(generator, _CONVERT, a=amount, s=source, t=target), written, f"{amount}{source}{target}")


SKILLS = (
    Skill("weekday", "the weekday up to 10, 20, 40, 70 and 100 days away", _weekday, grading.exact, share=2.5),
    Skill("date", "ISO dates, adding days, the weekday of a date", _date, grading.exact, share=1.3),
    Skill("clock", "clock times plus a span", _clock, grading.exact),
    Skill("unit", "unit conversion, by tens up to weeks and degrees", _unit, grading.number),
)
