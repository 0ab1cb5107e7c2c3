"""Facts nobody can derive: four fixed tables of invented things, larger at each difficulty.

A fact's entry is a function of its table, level and number alone, so the tables need no file. All facts are trained on;
the test split holds out the phrasing of each (opening, wording) pair for a fact, never the fact.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from evaluation.skills import grading
from evaluation.skills.types import Draw, Skill
from evaluation.skills.words import CITIES, FIRST, REAL, invented

SIZES = {1: 50, 2: 500, 3: 2000, 4: 5000, 5: 16000}
_SHARES = (0.05, 0.12, 0.2, 0.25, 0.38)  # of a table's training draws, by level
_OPENINGS = ("What is", "Tell me", "I need", "Please give me", "Look up", "Do you know")
_ROLES = {1: "director", 2: "manager", 3: "engineer", 4: "clerk", 5: "trainee"}
_SORTS = {1: "lamp", 2: "chair", 3: "screw", 4: "valve", 5: "cable"}
_TONGUES = {1: "Elvan", 2: "Dorian", 3: "Kelti", 4: "Ruman", 5: "Sauri"}
_SEAS = {1: "Amber", 2: "Boreal", 3: "Coral", 4: "Dusk", 5: "Ember"}


def _code(dice: random.Random) -> str:
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    return f"{dice.choice(letters)}{dice.choice(letters)}{dice.randint(100, 999)}"


@cache
def table(name: str, level: int) -> tuple[tuple[str, str], ...]:
    """The entries (thing, value) of a table at a level; things are distinct."""
    dice = random.Random(f"{name} {level}")
    entries: dict[str, str] = {}
    while len(entries) < SIZES[level]:
        thing, value = _ENTRIES[name](dice)
        entries.setdefault(thing, value)
    return tuple(entries.items())


_ENTRIES: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "extension": lambda dice: (
        f"{dice.choice(FIRST)} {invented(dice, syllables=2).title()}",
        str(dice.randint(1000, 9999)),
    ),
    "partcode": lambda dice: (f"{invented(dice, syllables=3).title()}", _code(dice)),
    "translation": lambda dice: (invented(dice, syllables=3), dice.choice(REAL)),
    "harbour": lambda dice: (f"{invented(dice, syllables=2).title()} {dice.choice(REAL).title()}", dice.choice(CITIES)),
}
_WORDINGS = {
    "extension": ("the extension of {k} {t}", "{k} {t}'s extension", "the phone extension for {k} {t}"),
    "partcode": ("the part code of the {t} {k}", "the code for the {k} {t}", "the {t} {k}'s part code"),
    "translation": ("the {k} word {t} in English", "the meaning of the {k} word {t}", "{t} from {k} in English"),
    "harbour": (
        "the home port of the {k} Line ship {t}",
        "the {k} Line ship {t}'s home port",
        "the port that {t} of the {k} Line calls home",
    ),
}
_KINDS = {"extension": _ROLES, "partcode": _SORTS, "translation": _TONGUES, "harbour": _SEAS}


def _maker(name: str) -> Skill:
    def make(generator: random.Random, level: int) -> Draw:
        number = generator.randrange(SIZES[level])
        thing, value = table(name, level)[number]
        opening, wording = generator.choice(_OPENINGS), generator.choice(_WORDINGS[name])
        asked = wording.format(k=_KINDS[name][level], t=thing)
        prompt = f"{opening} {asked}{'.' if opening in _OPENINGS[1:5] else '?'}"
        return Draw(prompt, value, prompt)

    summary = f"a fixed table of {', '.join(map(str, SIZES.values()))} entries"
    return Skill(name, summary, make, grading.exact, share=3.0, levels=_SHARES)


SKILLS = tuple(_maker(name) for name in _ENTRIES)
