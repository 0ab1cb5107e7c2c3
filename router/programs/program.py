"""A program as a candidate among models: its price, its worst case, and why it may not begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from backends.types import Reply, Request
from policies.estimators.means import PRIOR_COMPLETION_TOKENS
from router.gateway.eligibility import Requirements, ineligible_reason
from router.gateway.serving import Gateway
from router.gateway.types import Call, OneStep
from router.programs.plans import Part, RunPlan
from router.programs.running import Run
from router.types import PROGRAMS, Model, NanoUsd, Offer, Price, Principal

NOMINAL_BYTES = 1_000  # of the request by which a program's price for a token is told
MOST_TOKENS = 1 << 24  # of a program that takes inputs of any length


class Kind(Protocol):
    """What a program does. One file each."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Who is asked; the last one gives the answer."""

    def plan(self, requirements: Requirements) -> RunPlan:
        """The steps of a run of these requirements."""

    async def run(self, run: Run, request: Request) -> Reply:
        """The answer to a chat request. Raises: BackendError, PointsmanError."""


@dataclass(slots=True)
class NamedProgram:
    """A program of the settings over the models there are. See router.types.Program."""

    name: str
    kind: Kind
    alone: Mapping[str, Model]  # by the arms that are one model each: it, under the program's name
    _planned: tuple[Requirements, RunPlan] | None = None  # the last: a request asks several times

    def plan(self, requirements: Requirements) -> RunPlan:
        """The steps of a run of these requirements."""
        if self._planned is None or self._planned[0] is not requirements:
            self._planned = requirements, replace(self.kind.plan(requirements), program=self.name)
        return self._planned[1]

    def offer(self, model: Model, requirements: Requirements) -> Offer:
        """See Program.offer."""
        return self.plan(requirements).offer(model)

    def reason(self, requirements: Requirements, principal: Principal, is_up: Callable[[str], bool]) -> str | None:
        """See Program.reason: every step needs somebody who may do it."""
        if requirements.choices != 1 or requirements.prompts != 1:
            return "a program gives one answer"
        if requirements.unforeseen or requirements.fee:
            return f"{requirements.unforeseen or requirements.fee} cannot be planned for"
        for step in {each.part.arm: each for each in self.plan(requirements).steps}.values():
            why = _nobody(step.part, step.requirements, principal, is_up)
            if why is not None:
                return f"no step {step.role}: {why}"
        if requirements.repeats and requirements.pinned is None and (only := self._only(self.plan(requirements))):
            return f"at temperature 0 it is {only.asked} alone"
        return None

    def _only(self, plan: RunPlan) -> OneStep | None:
        """The one model that does it all."""
        step = plan.steps[0]
        if len(plan.steps) == 1 and plan.is_relayed and step.part.arm in self.alone:
            return OneStep(self.alone[step.part.arm], step.part.arm, step.role)
        return None

    def begin(self, gateway: Gateway, call: Call) -> Run | OneStep:
        """See Program.begin. Where one model is asked once, it is asked as if the client had named it."""
        plan = self.plan(call.requirements)
        return self._only(plan) or Run(gateway, plan, self.kind.run)


def _nobody(part: Part, requirements: Requirements, principal: Principal, is_up: Callable[[str], bool]) -> str | None:
    """Why nobody of a part may do a step of these requirements; None where somebody may."""
    whys = [(model.name, ineligible_reason(model, requirements, principal, is_up)) for model in part.models]
    if any(why is None for _, why in whys):
        return None
    return "; ".join(f"{name}: {why}" for name, why in whys) or f"there is no {part.arm}"


def model_of(name: str, kind: Kind, *, any_length: bool) -> Model:
    """The program as a candidate. Its list price is what its steps make of a usual request, for each token of it."""
    requirements = Requirements(frozenset({"chat"}), NOMINAL_BYTES, PRIOR_COMPLETION_TOKENS)
    there = all(part.models for part in kind.parts)
    last = kind.parts[-1].usual(requirements) if there else None
    quality = [
        found.quality for part in kind.parts if part.models and (found := part.usual(requirements)).quality is not None
    ]
    everybody = [model for part in kind.parts for model in part.models]
    return Model(
        name=name,
        backend=PROGRAMS,
        upstream=name,
        price=_price(kind.plan(requirements), last) if last is not None else Price(NanoUsd(0), NanoUsd(0)),
        context_tokens=MOST_TOKENS if any_length else min([m.context_tokens for m in everybody], default=1),
        max_output_tokens=last.max_output_tokens if last is not None else 1,
        local=all(any(model.local for model in part.models) for part in kind.parts),
        capabilities=frozenset() if last is None else _able(kind.parts[-1]),
        parent=last.name if last is not None else None,
        parameters=last.parameters if last is not None else None,
        quality=max(quality, default=None),
        bytes_per_token=last.bytes_per_token if last is not None else 4.0,
        program=NamedProgram(name, kind, _alone(name, kind)),
    )


def _alone(name: str, kind: Kind) -> Mapping[str, Model]:
    parts = [part for part in kind.parts if len(part.models) == 1 and part.models[0].name == part.arm]
    return {part.arm: replace(part.models[0], name=name) for part in parts if part.models[0].program is None}


def _able(part: Part) -> frozenset[str]:
    return frozenset.union(*(model.capabilities for model in part.models)) & {"chat", "tools", "vision", "logprobs"}


def _price(plan: RunPlan, last: Model) -> Price:
    """Nano-USD per million tokens of the request and of its answer, that all steps cost together."""
    prompt = completion = 0.0
    for step in plan.steps:
        model = step.part.usual(step.requirements)
        bytes_share = step.requirements.prompt_bytes / NOMINAL_BYTES * last.bytes_per_token / model.bytes_per_token
        asked = step.requirements.completion_tokens or PRIOR_COMPLETION_TOKENS
        prompt += step.chance * model.price.prompt * bytes_share
        completion += step.chance * model.price.completion * asked / PRIOR_COMPLETION_TOKENS
    return Price(NanoUsd(round(prompt)), NanoUsd(round(completion)))
