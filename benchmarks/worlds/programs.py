"""Programs of a world, by a generator of their own: a world without any is what it was before there were programs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from benchmarks.worlds.clients import ClientRequest
from router.programs.factory import program_models
from router.settings.program_sections import ProgramSection
from router.types import DecisionRecord, LogEntry, Model, SettlementRecord

BLOCK = 1_000  # seeds: every second block of so many has programs
_SECTIONS = TypeAdapter(dict[str, ProgramSection])


def programs_for(seed: int, requests: Sequence[ClientRequest]) -> Mapping[str, Any]:
    """Some, or none; half of the requests then ask for one of them."""
    chance = random.Random(f"{seed}/programs")
    if seed // BLOCK % 2 == 0:
        return {}

    def arm() -> str:
        return chance.choice(("small", "large", "auto"))

    n = chance.randint(1, 4)
    kinds: tuple[dict[str, Any], ...] = (
        {"kind": "vote", "of": arm(), "n": n, "at_once": chance.randint(1, 3)},
        {"kind": "best_of", "of": arm(), "n": n, "at_once": chance.randint(1, 3)},
        {"kind": "escalate", "of": ["small", "large"], "buffer_tokens": chance.choice((1, 512))},
        {"kind": "refine", "draft": arm(), "critic": arm(), "rounds": chance.randint(1, 2), "note_tokens": 32},
        {"kind": "roles", "plan": arm(), "call": arm(), "summarise": arm(), "rounds": 2, "note_tokens": 32},
    )
    programs = {f"p-{each['kind']}": each for each in chance.sample(kinds, chance.randint(1, 3))}
    for request in requests:
        if chance.random() < 0.5:
            request.model = chance.choice(list(programs))
    return programs


def programs_over(programs: Mapping[str, Any], models: tuple[Model, ...]) -> tuple[Model, ...]:
    """As candidates."""
    return program_models(_SECTIONS.validate_python(programs), models, {}, is_whole=True) if programs else ()


def is_step(record: DecisionRecord) -> bool:
    """Of a run that is another decision."""
    return record.metadata.get("run", record.decision_id) != record.decision_id


def costs_of_steps(log: Sequence[LogEntry]) -> Mapping[str, int]:
    """By run: what its steps cost, as each was logged."""
    runs = {e.decision_id: e.metadata["run"] for e in log if isinstance(e, DecisionRecord) and "run" in e.metadata}
    costs = {
        e.decision_id: e.cost for e in log if isinstance(e, SettlementRecord) and e.decision_id in runs
    }  # some twice
    found: dict[str, int] = {}
    for step, cost in costs.items():
        found[runs[step]] = found.get(runs[step], 0) + cost
    return found
