"""escalate: the cheap arm first; the next where its answer is not sure enough, or breaks the request's own rules.

How sure is told by the answer's own token probabilities, where the engine sends them, and a threshold learned from
judged answers (policies.escalation). A logged share of unsure answers is returned all the same, so that what is
learned is not only of sure ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from backends.errors import BackendError
from backends.types import Reply, Request, Whole
from policies.signature import HAS_LOGPROBS, chat_signature
from router.errors import NoCandidate, PointsmanError, UpstreamFailed
from router.gateway.eligibility import Requirements
from router.learning.graders.validators import grade_chat
from router.programs.answers import Tree, choice_in
from router.programs.buffered import Buffered, silenced
from router.programs.plans import Part, RunPlan, Step, same
from router.programs.running import Run, StepReply, fields_of

NEXT = 0.35  # how often the next arm is asked, before anything is known
TOP_LOGPROBS = 5


@dataclass(frozen=True, slots=True)
class Escalate:
    """Arms in the order in which they are asked; the last one's answer is always returned."""

    of: tuple[Part, ...]
    risk: float
    audit: float
    buffer_tokens: int

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.of

    def plan(self, requirements: Requirements) -> RunPlan:
        """One step after the other, each less likely than the one before."""
        asked = same(requirements)
        return RunPlan(tuple([Step(f"try {i + 1}", part, asked, i, NEXT**i) for i, part in enumerate(self.of)]))

    async def run(self, run: Run, request: Request) -> Reply:
        """See Kind.run. Should an arm fail, the next is asked; should none follow, the answer held back is returned."""
        held_back: Reply | None = None
        problem: Exception | None = None
        for step in run.plan.steps:
            is_last = step is run.plan.steps[-1]
            try:
                answer = await run.ask(step, self._fields(step, request, is_last), request, streams=request.stream)
                if is_last:
                    return answer.reply
                reply, choice, whole = await self._read(run, answer, request)
            except (BackendError, NoCandidate, UpstreamFailed) as error:
                problem = error
                continue
            except PointsmanError:
                if held_back is None:
                    raise
                break
            if not whole or self._may_return(run, step, request, choice):
                return reply
            await run.end(answer)
            held_back = reply
        if held_back is None:
            raise problem or NoCandidate(f"nobody of {run.attempt.model.name} answered")
        return held_back

    def _fields(self, step: Step, request: Request, is_last: bool) -> Mapping[str, object]:
        fields = fields_of(request)
        able = all("logprobs" in model.capabilities for model in step.part.may(step.requirements))
        if is_last or not able or _wants_logprobs(request):
            return fields
        return {**fields, "logprobs": True, "top_logprobs": TOP_LOGPROBS}

    async def _read(self, run: Run, answer: StepReply, request: Request) -> tuple[Reply, Tree, bool]:
        """(what the client may see, the choice, whether all of it is there): a long stream is let go unjudged."""
        quiet = not _wants_logprobs(request)
        if isinstance(answer.reply, Whole):
            choice = answer.choice
            return silenced(answer.reply) if quiet else answer.reply, choice, True
        buffered = Buffered(answer.reply, quiet=quiet)
        whole = await buffered.fill(self.buffer_tokens)
        if answer.reply.report.failure is not None:
            await run.end(answer)
            raise UpstreamFailed(answer.reply.report.failure)
        return buffered, choice_in(buffered.seen), whole

    def _may_return(self, run: Run, step: Step, request: Request, choice: Tree) -> bool:
        """Whether this answer is sure enough, or is returned by chance; which is noted for what is learned of it."""
        asked: dict[str, Any] = {key: msgspec.json.decode(raw) for key, raw in request.fields.items()}
        grade = grade_chat(asked, choice)
        if grade is not None and grade.score < 0.5:
            return False
        try:
            signature = chat_signature(choice)
        except ValueError:
            return True
        if not signature[HAS_LOGPROBS]:
            return True
        attempt, arm = run.attempt, step.part.arm
        sure = run.gateway.decider.escalation().returns(attempt.model.name, arm, signature, risk=self.risk)
        drawn = int(attempt.decision.decision_id[-8:], 16) / 2**32 < self.audit  # ids are drawn at random
        if sure or drawn:
            attempt.signature, attempt.answered = signature.astype("<f4").tobytes(), arm
            attempt.returned = 1.0 if sure else self.audit
        return sure or drawn


def _wants_logprobs(request: Request) -> bool:
    return bytes(request.fields.get("logprobs", b"")) == b"true"
