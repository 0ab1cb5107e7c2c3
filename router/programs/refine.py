"""refine: a draft, what a critic says of it, and the draft again with that in view."""

from __future__ import annotations

from dataclasses import dataclass

from backends.types import Reply, Request
from router.gateway.eligibility import Requirements
from router.programs.answers import said
from router.programs.map_reduce import replace_bytes
from router.programs.plans import Part, RunPlan, Step, inner, room_bytes, same
from router.programs.running import Run, fields_of, kept_of, messages_of

DRAFT_BYTES = 8_192  # of a draft, that a critic and the next draft read at most
NOTE_BYTES = 512  # of our own words
CRITIC = (
    "Read the answer above as a strict reviewer. List what is wrong or missing, shortly. If nothing is, reply OK alone."
)
AGAIN = "A reviewer said of your answer:\n{note}\n\nGive the whole answer again, improved. Do not mention the review."
MORE = 0.7  # how often there is something to say


@dataclass(frozen=True, slots=True)
class Refine:
    """`rounds` of critique, at most."""

    draft: Part
    critic: Part
    rounds: int
    note_tokens: int

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.critic, self.draft)

    def plan(self, requirements: Requirements) -> RunPlan:
        """Draft, and for each round critic and draft."""
        longer = requirements.prompt_bytes + self._draft_bytes + NOTE_BYTES
        note = inner(
            requirements, prompt_bytes=longer, completion_tokens=self.note_tokens, messages=requirements.messages + 3
        )
        again = replace_bytes(same(requirements), longer + self._note_bytes, requirements.messages + 3)
        steps = [Step("draft 1", self.draft, same(requirements), 0)]
        usual = requirements.prompt_bytes + 1_000
        for i in range(self.rounds):
            steps.append(Step(f"critic {i + 1}", self.critic, note, 2 * i + 1, MORE**i, usual))
            steps.append(Step(f"draft {i + 2}", self.draft, again, 2 * i + 2, MORE ** (i + 1), usual))
        return RunPlan(tuple(steps))

    @property
    def _draft_bytes(self) -> int:
        return room_bytes(self.parts, 0.3, DRAFT_BYTES)

    @property
    def _note_bytes(self) -> int:
        return room_bytes(self.parts, 0.1, 8 * self.note_tokens)

    async def run(self, run: Run, request: Request) -> Reply:
        """See Kind.run."""
        steps, fields, messages = run.plan.steps, fields_of(request), messages_of(request)
        answer = await run.ask(steps[0], fields, request)
        for i in range(self.rounds):
            if answer.choice["message"].get("tool_calls"):
                return answer.reply  # the client has to run them first
            draft = {"role": "assistant", "content": _cut(said(answer.choice), self._draft_bytes)}
            review = {
                **kept_of(request),
                "messages": [*messages, draft, {"role": "user", "content": CRITIC}],
                "max_tokens": self.note_tokens,
            }
            note = said((await run.ask(steps[2 * i + 1], review, request)).choice)
            if note.strip(" .!\n").upper() in ("OK", ""):
                return answer.reply
            asked = {"role": "user", "content": AGAIN.format(note=_cut(note, self._note_bytes))}
            again = {**fields, "messages": [*messages, draft, asked]}
            streams = request.stream and i == self.rounds - 1
            answer = await run.ask(steps[2 * i + 2], again, request, streams=streams)
        return answer.reply


def _cut(text: str, most_bytes: int) -> str:
    return text.encode(errors="replace")[:most_bytes].decode(errors="ignore")
