"""What a program would do for a request, before it runs: its steps, and what they may cost. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from msgspec.structs import replace

from policies.estimators.means import PRIOR_COMPLETION_TOKENS
from router.gateway.eligibility import Requirements, expected_prompt_tokens, offer_of
from router.gateway.step_history import StepHistory
from router.types import Model, NanoUsd, Offer

_SHORT = frozenset({"tools", "tool_choice", "json_schema", "json_object"})  # what only the last step is asked


@dataclass(frozen=True, slots=True)
class Part:
    """Who does a kind of step: one model or program, or whoever `auto` draws."""

    arm: str  # as the settings name it
    models: tuple[Model, ...]  # empty while no engine has told of it
    preference: float | None = None  # of auto:NAME

    def may(self, requirements: Requirements) -> tuple[Model, ...]:
        """Those that the request's own limits leave."""
        allowed, local = requirements.allowed, requirements.local_only
        return tuple(
            [
                m
                for m in self.models
                if (allowed is None or not allowed.isdisjoint((m.name, m.wildcard))) and (m.local or not local)
            ]
        )

    def offers(self, requirements: Requirements) -> list[Offer]:
        """What a step may cost at each who may do it."""
        return [offer_of(model, requirements) for model in self.may(requirements) or self.models]

    def usual(self, requirements: Requirements) -> Model:
        """Who is expected to do it: by price where a preference says so, else the middle."""
        models = sorted(self.may(requirements) or self.models, key=lambda m: m.price.prompt + m.price.completion)
        share = 0.5 if self.preference is None else self.preference
        return models[round(share * (len(models) - 1))]


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a plan."""

    role: str  # "map 3"
    part: Part
    requirements: Requirements
    stage: int = 0  # steps of one stage run side by side
    chance: float = 1.0  # that it is begun at all
    usual_bytes: int = 0  # of its prompt as a mean, where that is not the most

    @property
    def worst(self) -> NanoUsd:
        """The most it can cost, whoever does it."""
        return max((offer.worst for offer in self.part.offers(self.requirements)), default=NanoUsd(0))

    def usual(self) -> tuple[Model, int]:
        """(who is expected to take it, prompt tokens as a mean)."""
        model, requirements = self.part.usual(self.requirements), self.requirements
        if self.usual_bytes:
            requirements = replace(requirements, prompt_bytes=min(requirements.prompt_bytes, self.usual_bytes))
        return model, expected_prompt_tokens(model, requirements)


@dataclass(frozen=True, slots=True)
class Expected:
    """Of one step, as far as can be told before it runs."""

    step: Step
    model: Model
    prompt_tokens: int
    completion_tokens: int
    chance: float  # that it is begun at all

    @property
    def cost(self) -> NanoUsd:
        """If it is begun."""
        return self.model.price.of(self.prompt_tokens, self.completion_tokens)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The steps of one run, in order."""

    steps: tuple[Step, ...]
    at_once: int = 1
    why: str = ""  # of what was chosen, e.g. the size of a part
    is_relayed: bool = True  # whether the last step's answer is the answer, as it comes
    program: str = ""  # whose it is

    def offer(self, model: Model) -> Offer:
        """What a run can cost and read at most, with the budgets, limits and names of everybody it may ask."""
        worst, tokens, members = 0, 0, dict.fromkeys(
            [each for step in self.steps for m in step.part.models for each in (m.name, *_members(m))]
        )  # fmt: skip
        budgets, limits = dict.fromkeys(model.budgets), dict.fromkeys(model.limits)
        for step in self.steps:
            offers = step.part.offers(step.requirements)
            worst += max([each.worst for each in offers], default=0)
            tokens += max([each.tokens for each in offers], default=0)
            for each in offers:
                budgets |= dict.fromkeys(each.budgets)
                limits |= dict.fromkeys(each.limits)
        return Offer(model.name, NanoUsd(worst), tokens, tuple(budgets), tuple(limits), tuple(members))

    @property
    def worst(self) -> NanoUsd:
        """The most that all steps can cost."""
        return NanoUsd(sum(step.worst for step in self.steps))

    def expected(self, history: StepHistory, prompts: Mapping[str, int]) -> list[Expected]:
        """Every step. `prompts`: tokens of those whose prompts are known, by role."""
        found = []
        for step in self.steps:
            model, usual = step.usual()
            asked = step.requirements.completion_tokens or model.max_output_tokens
            tokens = round(history.tokens(self.program, step.role, PRIOR_COMPLETION_TOKENS))
            chance = history.chance(self.program, step.role, step.chance)
            completion = min(tokens, asked, model.max_output_tokens)
            found.append(Expected(step, model, prompts.get(step.role, usual), completion, chance))
        return found

    def seconds(self, steps: Sequence[Expected], delay_s: Callable[[Expected], float]) -> float:
        """Until the answer is there: stages one after the other, their steps `at_once` at a time."""
        total = 0.0
        for _, stage in groupby(steps, key=lambda each: each.step.stage):
            delays = [each.chance * delay_s(each) for each in stage]
            total += sum(max(each) for each in _rounds(delays, self.at_once))
        return total


def _rounds(seconds: Sequence[float], at_once: int) -> Iterator[Sequence[float]]:
    return (seconds[start : start + at_once] for start in range(0, len(seconds), at_once))


def _members(model: Model) -> tuple[str, ...]:
    """Whom a program within a program may ask."""
    return () if model.program is None else model.program.offer(model, _NOTHING).members


_NOTHING = Requirements(frozenset({"chat"}), 1, 1)


def room_bytes(parts: Sequence[Part], share: float, most: int) -> int:
    """Bytes of a text that every context of these parts holds in such a share of it, `most` at most."""
    contexts = [model.context_tokens * model.bytes_per_token for part in parts for model in part.models]
    return min(most, int(share * min(contexts, default=0)))


def draws(part: Part, n: int, requirements: Requirements) -> int:
    """How often to ask for the same: once where one model would say the same again."""
    alone = len(part.models) == 1 and part.models[0].program is None
    return 1 if alone and requirements.repeats else n


def same(requirements: Requirements) -> Requirements:
    """What a step asks that answers the request as it stands, in chat."""
    return replace(requirements, capabilities=_in_chat(requirements.capabilities), pinned=None, max_cost=None)


def inner(requirements: Requirements, *, prompt_bytes: int, completion_tokens: int, messages: int = 2) -> Requirements:
    """What a step asks that reads a text of our own making and is given no tools."""
    asked = min(completion_tokens, requirements.completion_tokens or completion_tokens)
    return replace(
        same(requirements),
        capabilities=frozenset({"chat"}),
        prompt_bytes=prompt_bytes,
        completion_tokens=asked,
        most_tokens=0,
        messages=messages,
        features=requirements.features - _SHORT,
    )


def _in_chat(capabilities: frozenset[str]) -> frozenset[str]:
    return capabilities - {"responses", "messages"} | {"chat"}
