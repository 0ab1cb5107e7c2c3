"""From the settings' programs and the models there are to programs that can run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from router.errors import SettingsError
from router.programs.best_of import BestOf
from router.programs.escalate import Escalate
from router.programs.map_reduce import MapReduce
from router.programs.plans import Part
from router.programs.program import Kind, model_of
from router.programs.refine import Refine
from router.programs.roles import Roles
from router.programs.vote import Vote
from router.settings import program_sections as sections
from router.types import Model

Sections = Mapping[str, sections.ProgramSection]


def program_models(
    programs: Sections, models: Sequence[Model], aliases: Mapping[str, float], *, is_whole: bool
) -> tuple[Model, ...]:
    """The programs as candidates. `is_whole`: no engine can still tell of a model, so that an unknown name is wrong.

    Raises: SettingsError with the path of a name that is nobody's.
    """
    known = {model.name: model for model in models}
    made: dict[str, Model] = {}

    def part(path: str, arm: str) -> Part:
        if arm == "auto" or arm.startswith("auto:"):
            able = tuple([model for model in models if "chat" in model.capabilities])
            return Part(arm, able, aliases.get(arm.removeprefix("auto:")) if arm != "auto" else None)
        if arm in programs:
            return Part(arm, (make(arm),))
        if arm not in known and is_whole:
            raise SettingsError(f"{path}: got {arm!r}, expected a model, a program, auto or auto:NAME", param=path)
        return Part(arm, (known[arm],) if arm in known else ())

    def make(name: str) -> Model:
        if name not in made:
            section = programs[name]
            found = {key: [part(f"programs.{name}.{key}", arm) for _, arm in group] for key, group in _grouped(section)}
            made[name] = model_of(name, _kind(section, found), any_length=section.kind == "map_reduce")
        return made[name]

    return tuple([make(name) for name in programs])


def _grouped(section: sections.ProgramSection) -> list[tuple[str, list[tuple[str, str]]]]:
    """The names of who is asked, by key."""
    arms = list(section.arms())
    return [(key, [each for each in arms if each[0] == key]) for key in dict.fromkeys(key for key, _ in arms)]


def _kind(section: sections.ProgramSection, found: Mapping[str, list[Part]]) -> Kind:
    """One for each kind of section."""
    match section:
        case sections.EscalateSection():
            return Escalate(tuple(found["of"]), section.risk, section.audit, section.buffer_tokens)
        case sections.VoteSection():
            return Vote(found["of"][0], section.n, section.at_once, section.stop == "majority")
        case sections.BestOfSection():
            patterns = tuple([re.compile(each) for each in section.matches])
            return BestOf(found["of"][0], section.n, section.at_once, section.checks, patterns, section.pick)
        case sections.MapReduceSection():
            chunk = None if section.chunk == "priced" else section.chunk
            mapped, reduced = found["map"][0], found["reduce"][0]
            return MapReduce(mapped, reduced, section.at_once, chunk, section.part_tokens, section.exact)
        case sections.RefineSection():
            return Refine(found["draft"][0], found["critic"][0], section.rounds, section.note_tokens)
        case sections.RolesSection():
            plan, call, last = (found[key][0] for key in ("plan", "call", "summarise"))
            return Roles(plan, call, last, section.rounds, section.note_tokens)
