"""A plan as the caller sees it before anything runs: JSON values, money in USD."""

from __future__ import annotations

from router.gateway.eligibility import Requirements
from router.gateway.serving import Gateway
from router.gateway.types import usd
from router.programs.plans import RunPlan, Step
from router.programs.program import NamedProgram
from router.types import Model, NanoUsd


def plan_of(model: Model, needs: Requirements) -> RunPlan | None:
    """What a program would do; None of a model."""
    return model.program.kind.plan(needs) if isinstance(model.program, NamedProgram) else None


def program_s(model: Model, needs: Requirements, gateway: Gateway) -> float:
    """Until a program's answer to such a request would be there; 0 of a model."""
    plan = plan_of(model, needs)
    return 0.0 if plan is None else seconds_of(plan, gateway)


def seconds_of(plan: RunPlan, gateway: Gateway) -> float:
    """Until the answer would be there."""
    decider = gateway.decider

    def delay_s(model: Model, prompt: int, completion: int) -> float:
        if model.program is not None:
            return 0.0  # it is shown by its own name
        return decider.delays.of_tokens(model, prompt_tokens=prompt, completion_tokens=completion)

    return plan.seconds(gateway.lengths, delay_s)


def shown(plan: RunPlan, gateway: Gateway) -> dict[str, object]:
    """`steps`, and of them all `expected_usd`, `worst_usd`, `seconds` and why they are so."""
    return {
        "steps": [_step(step, gateway) for step in plan.steps],
        "expected_usd": usd(plan.expected(gateway.lengths)),
        "worst_usd": usd(plan.worst),
        "seconds": seconds_of(plan, gateway),
        "why": plan.why,
    }


def _step(step: Step, gateway: Gateway) -> dict[str, object]:
    model, prompt, completion, cost = step.expected(gateway.lengths)
    offers = step.part.offers(step.needs)
    return {
        "step": step.role,
        "arm": step.part.arm,
        "model": model.name,
        "stage": step.stage,
        "chance": step.chance,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "worst_tokens": max((each.tokens for each in offers), default=0),
        "expected_usd": usd(NanoUsd(round(step.chance * cost))),
        "worst_usd": usd(step.worst),
    }
