"""roles: a planner says what to do, a caller does each step, and a summariser answers, with the request's tools."""

from __future__ import annotations

import re
from dataclasses import dataclass

from backends.types import Reply, Request
from router.gateway.eligibility import Requirements
from router.programs.answers import said
from router.programs.map_reduce import replace_bytes
from router.programs.plans import Part, RunPlan, Step, inner, room_bytes, same
from router.programs.running import Run, fields_of, kept_of, messages_of

NOTE_BYTES = 512  # of our own words
PLANNER = (
    "Do not answer yet. Say in at most {rounds} numbered lines which steps lead to the answer, each in one sentence."
)
CALLER = "Do this step alone, and give its result shortly: {step}"
SUMMARY = "Notes on the request above:\n{notes}\n\nNow answer it. Do not mention the notes."
MORE = 0.8  # how often a plan has one line more
_LINE = re.compile(r"^\s*(?:\d+[.):]|[-*])\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Roles:
    """`rounds` steps of a plan, at most."""

    planner: Part
    caller: Part
    summary: Part
    rounds: int
    note_tokens: int

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.planner, self.caller, self.summary)

    def plan(self, requirements: Requirements) -> RunPlan:
        """Plan, each step with the results before it, and the answer."""
        note = self._note_bytes
        steps = []
        for i in range(self.rounds + 1):
            role, part = (f"call {i}", self.caller) if i else ("plan", self.planner)
            size = requirements.prompt_bytes + NOTE_BYTES + i * note
            asked = inner(
                requirements, prompt_bytes=size, completion_tokens=self.note_tokens, messages=requirements.messages + 2
            )
            chance = 1.0 if i < 2 else MORE ** (i - 1)
            steps.append(Step(role, part, asked, i, chance, requirements.prompt_bytes + 100 * i + 100))
        size = requirements.prompt_bytes + NOTE_BYTES + (self.rounds + 1) * note
        last = replace_bytes(same(requirements), size, requirements.messages + 2)
        steps.append(
            Step("summarise", self.summary, last, self.rounds + 1, usual_bytes=requirements.prompt_bytes + 500)
        )
        return RunPlan(tuple(steps))

    @property
    def _note_bytes(self) -> int:
        return room_bytes(self.parts, 0.4 / (self.rounds + 1), 8 * self.note_tokens)

    async def run(self, run: Run, request: Request) -> Reply:
        """See Kind.run. A plan without lines is one step."""
        steps, messages = run.plan.steps, messages_of(request)
        short = {**kept_of(request), "max_tokens": self.note_tokens}

        async def ask(place: int, words: str) -> str:
            asked = {**short, "messages": [*messages, {"role": "user", "content": words}]}
            text = said((await run.ask(steps[place], asked, request)).choice)
            return text.encode(errors="replace")[: self._note_bytes].decode(errors="ignore")

        plan = await ask(0, PLANNER.format(rounds=self.rounds))
        notes: list[str] = []
        for i, step in enumerate((_LINE.findall(plan) or [plan])[: self.rounds]):
            before = "\n".join(notes)
            notes.append(await ask(i + 1, f"{before}\n{CALLER.format(step=step)}".strip()))
        asked = {"role": "user", "content": SUMMARY.format(notes="\n".join(notes))}
        fields = {**fields_of(request), "messages": [*messages, asked]}
        return (await run.ask(steps[-1], fields, request, streams=request.stream)).reply
