"""vote: the same request several times; the answer that most agree on is returned, in the words of the first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import msgspec

from backends.errors import BackendError
from backends.types import Reply, Request
from policies.picks import decided, winner
from router.errors import PointsmanError
from router.gateway.eligibility import Requirements
from router.programs.answers import said, vote_of
from router.programs.plans import Part, RunPlan, Step, draws, same
from router.programs.running import OverPlan, Run, StepReply, fields_of, side_by_side

LATER = 0.5  # how often a call is begun that a majority of the earlier ones would spare


@dataclass(frozen=True, slots=True)
class Vote:
    """n answers, at most."""

    of: Part
    n: int
    at_once: int
    stops: bool  # once no answer still to come could change the outcome

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.of,)

    def plan(self, requirements: Requirements) -> RunPlan:
        """n steps; a majority of them is begun for certain."""
        n = draws(self.of, self.n, requirements)
        sure = n if not self.stops else n // 2 + 1
        asked, steps = same(requirements), []
        for number in range(n):
            chance = 1.0 if number < sure else LATER
            steps.append(Step(f"vote {number + 1}", self.of, asked, 0 if number < sure else number, chance))
        return RunPlan(tuple(steps), self.at_once)

    async def run(self, run: Run, request: Request) -> Reply:
        """See Kind.run. A vote that fails is no vote; where all fail the last failure is told."""
        answer: dict[int, StepReply] = {}
        votes: dict[int, str] = {}
        begun, problem, n = 0, None, len(run.plan.steps)
        while begun < n and not (self.stops and decided(list(votes.values()), n - (begun - len(votes)))):
            wave = range(begun, min(n, begun + self._wave(votes, n - begun)))
            begun = wave.stop
            for place, found in zip(wave, await answers(run, request, wave, self.at_once), strict=True):
                if isinstance(found, StepReply):
                    answer[place], votes[place] = found, vote_of(said(found.choice))
                else:
                    problem = found
            if isinstance(problem, OverPlan):
                break
        if problem is not None and not answer:
            raise problem
        return answer[winner(votes)].reply

    def _wave(self, votes: dict[int, str], left: int) -> int:
        """The fewest more that could end it."""
        if not self.stops:
            return left
        counts = [count for _, count in Counter(votes.values()).most_common(2)] + [0, 0]
        return max(1, (left - (counts[0] - counts[1])) // 2 + 1)


async def answers(run: Run, request: Request, places: range, at_once: int) -> list[StepReply | Exception]:
    """Of the same request at these places of the plan: what each said, or why it said nothing."""

    async def one(place: int) -> StepReply | Exception:
        try:
            answer = await run.ask(run.plan.steps[place], _seeded(fields_of(request), place), request)
            _ = answer.choice
        except (BackendError, PointsmanError) as problem:
            return problem
        return answer

    return await side_by_side([one(place) for place in places], at_once)


def _seeded(fields: dict[str, object], place: int) -> dict[str, object]:
    """With a seed of its own, where the client set one: the same one would make all answers the same."""
    seed = fields.get("seed")
    if not isinstance(seed, msgspec.Raw):
        return fields
    found = msgspec.json.decode(seed)
    return {**fields, "seed": found + place} if isinstance(found, int) else fields
