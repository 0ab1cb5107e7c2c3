"""The sections about programs: several calls under one name, one plan and one bill."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from router.settings.scalars import Positive
from router.terms import Name, Section, Share

MOST_CALLS = 32
Calls = Annotated[int, Field(ge=1, le=MOST_CALLS)]
Risk = Annotated[float, Field(gt=0.0, lt=1.0)]


def _pattern(text: str) -> str:
    """Raises: ValueError where it is no regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression ({error})") from None
    return text


class _Program(Section):
    _parts: ClassVar[tuple[str, ...]] = ("of",)

    at_once: Calls = Field(default=4, description="Calls side by side, at most.")

    def arms(self) -> Iterator[tuple[str, str]]:
        """(key, the name of who does it) of every part that calls: a model, another program, auto or auto:NAME."""
        for key in self._parts:
            found = getattr(self, key)
            yield from ((key, name) for name in ((found,) if isinstance(found, str) else found))


class EscalateSection(_Program):
    """Asks the first; where its answer is not sure enough, or breaks the request's own rules, the next."""

    kind: Literal["escalate"] = Field(description="escalate: the cheap one first, the next where it is not sure.")
    of: Annotated[tuple[Name, ...], Field(min_length=2, max_length=8)] = Field(description="Who is asked, in order.")
    risk: Risk = Field(default=0.1, description="Bound on the share of wrong answers returned unescalated.")
    audit: Share = Field(
        default=0.1, description="Share of unsure answers returned all the same, so that the threshold stays unbiased."
    )
    buffer_tokens: Positive = Field(
        default=512, description="Tokens of a stream held back to be judged; a longer one is let go."
    )


class VoteSection(_Program):
    """Asks the same several times; the answer that most agree on is returned."""

    kind: Literal["vote"] = Field(description="vote: the answer that most agree on.")
    of: Name = Field(description="Who is asked.")
    n: Calls = Field(default=5, description="Answers.")
    stop: Literal["majority", "never"] = Field(
        default="majority", description="majority: no call is begun that could not change the outcome."
    )


class BestOfSection(_Program):
    """Asks several times and picks by weak checks of each answer."""

    kind: Literal["best_of"] = Field(description="best_of: the answer that weak checks speak for.")
    of: Name = Field(description="Who is asked.")
    n: Calls = Field(default=4, description="Answers.")
    checks: tuple[Literal["schema", "tools", "agree"], ...] = Field(
        default=("schema", "tools", "agree"),
        description="What is checked: response_format, calls of tools, and agreement with each other answer.",
    )
    matches: tuple[Annotated[str, AfterValidator(_pattern)], ...] = Field(
        default=(), description="Regular expressions of your own that a right answer should match."
    )
    pick: Literal["b4", "codet", "majority"] = Field(
        default="b4", description="How: B4's posterior, CodeT's score, or the most checks passed."
    )


class MapReduceSection(_Program):
    """Splits a long input, asks about every part, and puts the answers together."""

    _parts = ("map", "reduce")

    kind: Literal["map_reduce"] = Field(description="map_reduce: every part of a long input, then all answers.")
    map: Name = Field(description="Who reads the parts.")
    reduce: Name = Field(description="Who puts the answers together.")
    chunk: Literal["priced"] | Positive = Field(
        default="priced", description="Tokens of a part; priced: the cheapest size that the contexts allow."
    )
    part_tokens: Positive = Field(default=128, description="Longest answer about one part.")
    exact: Literal["sum", "count", "max", "merge"] | None = Field(
        default=None, description="Put together by code in place of a model: numbers, or the distinct answers."
    )


class RefineSection(_Program):
    """A draft, a critic and the draft again."""

    _parts = ("draft", "critic")

    kind: Literal["refine"] = Field(description="refine: a draft, what a critic says of it, and a better one.")
    draft: Name = Field(description="Who writes.")
    critic: Name = Field(description="Who criticises.")
    rounds: Annotated[int, Field(ge=1, le=8)] = Field(default=1, description="Rounds of critique, at most.")
    note_tokens: Positive = Field(default=256, description="Longest critique.")


class RolesSection(_Program):
    """A planner, a caller for each step of its plan, and a summariser who has the request's tools."""

    _parts = ("plan", "call", "summarise")

    kind: Literal["roles"] = Field(description="roles: plan, do each step, then answer.")
    plan: Name = Field(description="Who plans.")
    call: Name = Field(description="Who does each step.")
    summarise: Name = Field(description="Who answers.")
    rounds: Annotated[int, Field(ge=1, le=8)] = Field(default=3, description="Steps of a plan, at most.")
    note_tokens: Positive = Field(default=256, description="Longest plan, and longest result of a step.")


ProgramSection = Annotated[
    EscalateSection | VoteSection | BestOfSection | MapReduceSection | RefineSection | RolesSection,
    Field(discriminator="kind", description=""),
]
