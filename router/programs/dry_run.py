"""What the steps of a program would read: the program runs, and nobody is asked.

Answers are as long as the earlier ones were. The prompts of steps that read nothing but the request are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from backends.dialects.chat import text_of
from backends.types import Report, Request, Whole
from policies.estimators.means import PRIOR_COMPLETION_TOKENS
from router.errors import InvalidRequest, PointsmanError
from router.gateway.serving import Gateway
from router.gateway.types import Attempt, Call, Decision, Timings
from router.programs.plans import RunPlan, Step
from router.programs.running import Run, StepReply
from router.types import Hold, Model, Principal

MESSAGE_TOKENS = 4  # of a chat template, around each message


class DryRun(Run):
    """A run that notes what each step would be sent. See Run."""

    def __init__(self, run: Run, attempt: Attempt) -> None:
        super().__init__(run.gateway, run.plan, run.go)
        self.attempt, self.prompts = attempt, dict[str, int]()

    async def ask(
        self, step: Step, fields: Mapping[str, object], request: Request, *, streams: bool = False
    ) -> StepReply:
        """See Run.ask. Sends nothing."""
        model, _ = step.usual()
        self.prompts[step.role] = tokens_of(fields, model)
        most = step.requirements.completion_tokens or model.max_output_tokens
        tokens = min(self.gateway.steps.tokens(self.plan.program, step.role, PRIOR_COMPLETION_TOKENS), most)
        words = "x" * max(1, round(tokens * model.bytes_per_token))
        message = {"role": "assistant", "content": words}
        body = msgspec.json.encode({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        return StepReply(step.role, self.attempt, Whole(body, Report()))


async def prompts_of(
    plan: RunPlan, gateway: Gateway, principal: Principal, call: Call, decision: Decision
) -> Mapping[str, int]:
    """Prompt tokens of the steps that would be taken for certain, by role.

    Raises: InvalidRequest where the program would refuse the request.
    """
    model = decision.model
    run = model.program.begin(gateway, call) if model.program is not None else None
    if not isinstance(run, Run):
        only = plan.steps[0]
        return {only.role: tokens_of(call.fields, only.usual()[0])}
    known = {step.role: tokens_of(call.fields, step.usual()[0]) for step in plan.steps if not step.usual_bytes}
    hold = Hold(decision.decision_id, model.name, plan.worst, 0)
    dry = DryRun(run, Attempt(decision, hold, model, principal, call, Timings(), run, run))
    request = Request(path=call.path, fields=call.fields, model=model.name, answers_as=model.name, stream=False)
    try:
        await dry.go(dry, request)
    except InvalidRequest:
        raise
    except PointsmanError:
        return known | dry.prompts
    return known | dry.prompts


def tokens_of(fields: Mapping[str, object], model: Model) -> int:
    """Of a chat request's own text, in the model's own tokenizer as a mean."""
    raw = fields.get("messages", ())
    messages: Any = msgspec.json.decode(raw) if isinstance(raw, msgspec.Raw) else raw
    size = sum([len(text_of(each).encode(errors="replace")) for each in messages])
    size += sum([len(msgspec.json.encode(fields[name])) for name in ("tools", "response_format") if name in fields])
    return round(size / model.bytes_per_token) + MESSAGE_TOKENS * len(messages)
