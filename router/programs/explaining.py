"""A plan as the caller sees it before anything runs: JSON values, money in USD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.gateway.eligibility import Requirements
from router.gateway.serving import Gateway
from router.gateway.types import Call, Decision
from router.programs.dry_run import prompts_of
from router.programs.plans import Expected, RunPlan
from router.programs.program import NamedProgram
from router.types import Model, NanoUsd, Principal, show_usd


def plan_of(model: Model, requirements: Requirements) -> RunPlan | None:
    """What a program would do; None of a model."""
    return model.program.plan(requirements) if isinstance(model.program, NamedProgram) else None


def program_s(model: Model, requirements: Requirements, gateway: Gateway) -> float:
    """Until a program's answer to such a request would be there; 0 of a model."""
    plan = plan_of(model, requirements)
    return 0.0 if plan is None else _seconds(plan, plan.expected(gateway.steps, {}), gateway)


def _seconds(plan: RunPlan, steps: Sequence[Expected], gateway: Gateway) -> float:
    decider = gateway.decider

    def delay_s(each: Expected) -> float:
        if each.model.program is not None:
            return program_s(each.model, each.step.requirements, gateway)
        prompt, completion = each.prompt_tokens, each.completion_tokens
        return decider.delays.of_tokens(each.model, prompt_tokens=prompt, completion_tokens=completion)

    return plan.seconds(steps, delay_s)


async def planned(gateway: Gateway, principal: Principal, call: Call, decision: Decision) -> Mapping[str, object]:
    """Under "plan" what the program that was drawn would do with this request; nothing of a model.

    Raises: InvalidRequest, as the program itself would.
    """
    plan = plan_of(decision.model, call.requirements)
    if plan is None:
        return {}
    return {"plan": shown(plan, gateway, await prompts_of(plan, gateway, principal, call, decision))}


def shown(plan: RunPlan, gateway: Gateway, prompts: Mapping[str, int]) -> dict[str, object]:
    """`steps`, and of them all `expected_usd`, `worst_usd`, `seconds` and why they are so."""
    steps = plan.expected(gateway.steps, prompts)
    return {
        "steps": [_step(each) for each in steps],
        "expected_usd": show_usd(NanoUsd(round(sum(each.chance * each.cost for each in steps)))),
        "worst_usd": show_usd(plan.worst),
        "seconds": _seconds(plan, steps, gateway),
        "why": plan.why,
    }


def _step(expected: Expected) -> dict[str, object]:
    step = expected.step
    return {
        "step": step.role,
        "arm": step.part.arm,
        "model": expected.model.name,
        "stage": step.stage,
        "chance": expected.chance,
        "prompt_tokens": expected.prompt_tokens,
        "completion_tokens": expected.completion_tokens,
        "worst_tokens": max((each.tokens for each in step.part.offers(step.requirements)), default=0),
        "expected_usd": show_usd(NanoUsd(round(expected.chance * expected.cost))),
        "worst_usd": show_usd(step.worst),
    }
