"""best_of: several answers, weak checks of each, and the one that the checks speak for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from backends.types import Reply, Request
from policies.picks import Passed, Pick, pick
from router.gateway.eligibility import Requirements
from router.learning.graders.validators import grade_chat
from router.programs.answers import Tree, said, vote_of
from router.programs.plans import Part, RunPlan, Step, draws, same
from router.programs.running import Run, StepReply
from router.programs.vote import answers

MOST_MATCHED = 65_536  # characters of an answer that an operator's pattern sees


@dataclass(frozen=True, slots=True)
class BestOf:
    """n answers, all of them."""

    of: Part
    n: int
    at_once: int
    checks: tuple[str, ...]
    matches: tuple[re.Pattern[str], ...]
    how: Pick

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.of,)

    def plan(self, requirements: Requirements) -> RunPlan:
        """n steps side by side."""
        n = draws(self.of, self.n, requirements)
        return RunPlan(tuple([Step(f"draw {i + 1}", self.of, same(requirements)) for i in range(n)]), self.at_once)

    async def run(self, run: Run, request: Request) -> Reply:
        """See Kind.run. A draw that fails is left out; where all fail the last failure is told."""
        found = await answers(run, request, range(len(run.plan.steps)), self.at_once)
        drawn = [each for each in found if isinstance(each, StepReply)]
        if not drawn:
            raise next(each for each in reversed(found) if isinstance(each, Exception))
        asked = {key: msgspec.json.decode(raw) for key, raw in request.fields.items()}
        return drawn[pick(self.passed(asked, [each.choice for each in drawn]), self.how)].reply

    def passed(self, request: Mapping[str, Any], choices: Sequence[Tree]) -> Passed:
        """(n, m) which answer passed which check: its form, the operator's patterns, and agreement with each other."""
        columns = []
        if "schema" in self.checks or "tools" in self.checks:
            columns.append([self._fits(request, choice) for choice in choices])
        texts = [said(choice) for choice in choices]
        columns += [[each.search(text[:MOST_MATCHED]) is not None for text in texts] for each in self.matches]
        if "agree" in self.checks:
            votes = [vote_of(text) for text in texts]
            columns += [[vote == other for vote in votes] for other in votes]
        return np.array(columns, np.bool_).T.reshape(len(choices), len(columns))

    def _fits(self, request: Mapping[str, Any], choice: Tree) -> bool:
        grade = grade_chat(request, choice)
        is_tools = grade is not None and grade.source == "validator:tools"
        looked_at = ("tools" if is_tools else "schema") in self.checks
        return grade is None or not looked_at or grade.score > 0.5
