"""What steps of programs were like, as this process has seen them: from it a plan tells what the next run will be."""

from __future__ import annotations

from collections.abc import Iterable

RUNS = 4.0  # that the usual chance of a step counts for


class StepHistory:
    """Tokens of answers by program and kind of step, and how often each step was begun."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], tuple[int, int]] = {}  # how many, and tokens of all
        self._runs: dict[str, int] = {}
        self._begun: dict[tuple[str, str], int] = {}

    def answered(self, program: str, role: str, tokens: int) -> None:
        """One answer of a step, e.g. "map 3"."""
        key = program, _kind(role)
        answers, total = self._answers.get(key, (0, 0))
        self._answers[key] = answers + 1, total + tokens

    def ran(self, program: str, roles: Iterable[str]) -> None:
        """A run that gave an answer, with the steps that it began."""
        self._runs[program] = self._runs.get(program, 0) + 1
        for role in roles:
            self._begun[program, role] = self._begun.get((program, role), 0) + 1

    def tokens(self, program: str, role: str, usual: float) -> float:
        """Of an answer, as a mean; `usual` before any was seen."""
        answers, total = self._answers.get((program, _kind(role)), (0, 0))
        return total / answers if answers else usual

    def chance(self, program: str, role: str, usual: float) -> float:
        """That a step is begun; `usual` counts for RUNS runs. A step that is always begun stays so."""
        if usual >= 1.0:
            return 1.0
        return (usual * RUNS + self._begun.get((program, role), 0)) / (RUNS + self._runs.get(program, 0))


def _kind(role: str) -> str:
    return role.rstrip("0123456789 ")
