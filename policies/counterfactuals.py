"""What would have flipped a decision: the nearest preference, price and budget at which another arm is the likeliest.

Scores are q̂ − (λ + μ + γ) · ĉ, so each threshold follows from the formula in closed form; where an explorer scores by
another rule it is found by halving. Each is applied and drawn up again before it is returned:
it makes that arm the likeliest, and one per cent less of it does not. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from msgspec.structs import replace

from policies.explorers.greedy import best
from policies.machine_pricing import discounted
from policies.preference import STEEPEST, knob_of, preference_price
from policies.types import Arm, Estimates, Evidence, Float, LoggedContext, Proposal

Redraw = Callable[[LoggedContext, Evidence], Proposal]
SHORT = 0.99  # of a change: so much of it flips nothing
MOST_PRICES = 5  # arms whose own price is considered, those that are nearest to being chosen
LOWEST = 1e-6  # times its price: what is not chosen then is not chosen for its price
HIGHEST = 1e6
HALVINGS = 60
NEAR = 0.004  # of a change: nearer than SHORT needs


@dataclass(frozen=True, slots=True)
class Flip:
    """One change that makes `arm` the likeliest: of a preference in [0, 1], of a factor of a price, or of USD left."""

    kind: Literal["preference", "price", "budget"]
    arm: str
    value: float
    start: float  # the value as it was
    priced: str = ""  # the arm whose price changes

    @property
    def change(self) -> float:
        """From the value as it was."""
        return self.value - self.start

    def short(self) -> Flip:
        """The same change, one per cent less of it."""
        return Flip(self.kind, self.arm, self.start + SHORT * self.change, self.start, self.priced)


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision as it was made, and how it is drawn up again.

    `compensates`: whether the pacer's μ is what is missing of the price that keeps the budget, as `Remaining` has it; a
    change of λ then moves μ the other way. Otherwise μ stays.
    """

    context: LoggedContext
    evidence: Evidence
    redraw: Redraw
    reference_usd: float
    compensates: bool = True

    def best_with(self, flip: Flip) -> str:
        """The likeliest arm once this is changed."""
        return self._best(self.redraw(*applied(flip, self)))

    def proposal(self) -> Proposal:
        """As it was made."""
        return self.redraw(self.context, self.evidence)

    def _best(self, proposal: Proposal) -> str:
        return self.context.names[likeliest(proposal)]


def likeliest(proposal: Proposal) -> int:
    """The arm that is drawn most often; of several the one of the best score."""
    chances = proposal.probabilities
    return best(np.where(chances == chances.max(), proposal.scores, -np.inf), proposal.estimates.cost)


def applied(flip: Flip, decided: Decided) -> tuple[LoggedContext, Evidence]:
    """The context and the evidence with this changed, and nothing else."""
    context, evidence = decided.context, decided.evidence
    if flip.kind == "budget":
        return replace(context, budget=replace(context.budget, remaining=flip.value)), evidence
    if flip.kind == "price":
        return _repriced(context, evidence, context.names.index(flip.priced), flip.value)
    price = preference_price(flip.value, reference_usd=decided.reference_usd)
    missing = evidence.budget_price
    if decided.compensates and missing > 0.0:
        missing = max(0.0, missing + context.preference - price)
    return replace(context, preference=price), replace(evidence, budget_price=missing)


def flips(decided: Decided) -> list[Flip]:
    """Every arm that some preference makes the best, nearest first; then prices, nearest first; then budgets."""
    context = decided.context
    if len(context.arms) < 2:
        return []
    proposal = decided.proposal()
    chosen = likeliest(proposal)
    found: list[Flip] = []
    for kind in (_preferences, _prices, _budgets):
        some = list(kind(decided, proposal, chosen))
        found += sorted(some, key=lambda flip: abs(flip.change))
    return found


def _preferences(decided: Decided, proposal: Proposal, chosen: int) -> Iterator[Flip]:
    """Arms on the upper envelope of their scores as lines over λ, at the nearest λ where they are."""
    reference, now = decided.reference_usd, decided.context.preference
    pieces = list(_pieces(decided, proposal))
    for arm, name in enumerate(decided.context.names):
        if arm == chosen or not math.isfinite(proposal.scores[arm]):
            continue
        reaches = [found for piece in pieces if (found := piece.reach(arm)) is not None]
        trial = Flip("preference", name, 0.0, knob_of(now, reference_usd=reference))
        for low, high in sorted(reaches, key=lambda reach: min(abs(price - now) for price in reach)):
            ends = sorted([knob_of(price, reference_usd=reference) for price in (low, high)])
            near = ends[1] if low >= now else ends[0]
            flip = _exact(decided, trial, near, _by_decimals) or _halved(decided, trial, sum(ends) / 2.0)
            if flip is not None:
                yield flip
                break


@dataclass(frozen=True, slots=True)
class ScoreLines:
    """Scores as lines over the prices λ from `low` to `high`."""

    low: float
    high: float
    at: float  # the λ of these …
    scores: Float  # (n,) −inf where closed
    slopes: Float  # (n,) USD that a unit of λ takes of each

    def reach(self, arm: int) -> tuple[float, float] | None:
        """The open interval in which an arm has the best score; None where there is none."""
        others = np.isfinite(self.scores) & (np.arange(len(self.scores)) != arm)
        steeper = self.slopes[others] - self.slopes[arm]
        behind = self.scores[others] - self.scores[arm] + self.at * steeper  # of the lines at λ = 0
        up, down = steeper > 0.0, steeper < 0.0
        if np.any(behind[steeper == 0.0] >= 0.0):
            return None
        low = max(self.low, float((behind[up] / steeper[up]).max(initial=0.0)))
        high = min(self.high, float((behind[down] / steeper[down]).min(initial=self.high)))
        return (low, high) if low < high else None


def _pieces(decided: Decided, proposal: Proposal) -> Iterator[ScoreLines]:
    """One, or two where μ makes up for a lower λ: below λ + μ only what is not charged depends on λ."""
    now, most = decided.context.preference, STEEPEST / decided.reference_usd
    cost, total = proposal.estimates.cost, now + decided.evidence.budget_price
    if total == now or not decided.compensates:
        yield ScoreLines(0.0, most, now, proposal.scores, cost)
        return
    uncharged = cost - discounted(decided.context, decided.evidence.expected).cost
    yield ScoreLines(0.0, total, now, proposal.scores, uncharged)
    yield ScoreLines(total, most, total, proposal.scores - decided.evidence.budget_price * uncharged, cost)


def _prices(decided: Decided, proposal: Proposal, chosen: int) -> Iterator[Flip]:
    """Another arm at a lower price of its own, and the one behind the best once that one is more expensive."""
    context, names = decided.context, decided.context.names
    takes = proposal.prices * proposal.estimates.cost - _waiting(context) * context.preference
    ahead = proposal.scores[chosen] - proposal.scores
    order = [int(arm) for arm in np.argsort(ahead, kind="stable") if arm != chosen]
    for arm in order[:MOST_PRICES]:
        factor = 1.0 - float(ahead[arm] / takes[arm]) if takes[arm] > 0.0 and math.isfinite(ahead[arm]) else 0.0
        trial = Flip("price", names[arm], 0.0, 1.0, names[arm])
        flip = _exact(decided, trial, factor, _by_decimals) or _halved(decided, trial, LOWEST)
        if flip is not None:
            yield flip
    if math.isfinite(ahead[order[0]]) and takes[chosen] > 0.0:
        trial = Flip("price", names[order[0]], 0.0, 1.0, names[chosen])
        factor = 1.0 + float(ahead[order[0]] / takes[chosen])
        flip = _exact(decided, trial, factor, _by_decimals) or _halved(decided, trial, HIGHEST)
        if flip is not None:
            yield flip


def _budgets(decided: Decided, proposal: Proposal, chosen: int) -> Iterator[Flip]:
    """Arms that are closed because an answer takes more than the budget still holds."""
    context = decided.context
    left = context.budget.remaining
    if not math.isfinite(left):
        return
    charged = discounted(context, decided.evidence.expected).cost
    for arm in np.flatnonzero((charged > left) & (np.arange(len(charged)) != chosen)):
        trial = Flip("budget", context.names[arm], 0.0, left)
        flip = _exact(decided, trial, float(charged[arm]), _by_digits)
        if flip is not None:
            yield flip


def _waiting(context: LoggedContext) -> Float | float:
    return 0.0 if context.waiting is None else context.waiting


# a threshold, rounded away from where it began as far as the promise holds

Rounding = Callable[[Flip, float], Iterator[float]]


def _exact(decided: Decided, trial: Flip, threshold: float, rounding: Rounding) -> Flip | None:
    """The roundest value beyond the threshold that keeps the promise; None where none does."""
    if not math.isfinite(threshold) or threshold == trial.start:
        return None
    beyond = threshold + 1e-6 * (threshold - trial.start)
    if _is_possible(far := _at(trial, beyond)) and decided.best_with(far) != trial.arm and trial.kind != "preference":
        return None  # it is scored by another rule
    for value in rounding(trial, threshold):
        if _is_possible(flip := _at(trial, value)) and _keeps(decided, flip):
            return flip
    return None


def _at(trial: Flip, value: float) -> Flip:
    return Flip(trial.kind, trial.arm, value, trial.start, trial.priced)


def _is_possible(flip: Flip) -> bool:
    if flip.kind == "preference":
        return 0.0 <= flip.value <= 1.0
    return flip.value > 0.0


def _keeps(decided: Decided, flip: Flip) -> bool:
    """Whether it makes its arm the best, and one per cent less of it does not."""
    return decided.best_with(flip) == flip.arm and decided.best_with(flip.short()) != flip.arm


def _by_decimals(trial: Flip, threshold: float) -> Iterator[float]:
    """Values with 2, 3, 4 … decimals, at the threshold or beyond it."""
    away = math.ceil if threshold > trial.start else math.floor
    for decimals in range(_fewest(threshold - trial.start), 16):
        yield round(away(threshold * 10.0**decimals) / 10.0**decimals, decimals)
    yield np.nextafter(threshold, math.copysign(math.inf, threshold - trial.start)).item()


def _fewest(change: float) -> int:
    """Decimals below which rounding would add more than a hundredth to a change, but for luck; two at least."""
    return max(2, math.floor(-math.log10(max(abs(change), 1e-13) * (1.0 - SHORT))))


def _by_digits(trial: Flip, threshold: float) -> Iterator[float]:
    """Changes of 2, 3, 4 … significant digits, as large as the one to the threshold or larger."""
    change = threshold - trial.start
    if change <= 0.0:
        return
    size = 10.0 ** math.floor(math.log10(change))
    for digits in range(1, 16):
        yield trial.start + math.ceil(change / size * 10.0**digits) / 10.0**digits * size


def _halved(decided: Decided, trial: Flip, extreme: float) -> Flip | None:
    """Where the choice turns between the value as it was and an extreme one, by halving; None where it does not."""

    def holds(value: float) -> bool:
        return decided.best_with(_at(trial, value)) == trial.arm

    if not holds(extreme):
        return None
    without, within = trial.start, extreme
    for _ in range(HALVINGS):
        middle = (without + within) / 2.0 if trial.kind == "preference" else math.sqrt(without * within)
        without, within = (without, middle) if holds(middle) else (middle, within)
        if abs(within - without) < NEAR * abs(within - trial.start):
            break
    return _exact(decided, trial, within, _by_decimals)


def _repriced(context: LoggedContext, evidence: Evidence, arm: int, factor: float) -> tuple[LoggedContext, Evidence]:
    """With one arm's list prices, and what is expected to be charged for it, times a factor."""
    expected = evidence.expected
    cost = expected.cost.copy()
    cost[arm] *= factor
    arms = tuple([_times(each, factor) if i == arm else each for i, each in enumerate(context.arms)])
    estimates = Estimates(expected.quality, expected.sigma, cost)
    return replace(context, arms=arms), replace(evidence, expected=estimates)


def _times(arm: Arm, factor: float) -> Arm:
    cached = None if arm.cached_price is None else arm.cached_price * factor
    prices = arm.prompt_price * factor, arm.completion_price * factor
    return replace(arm, prompt_price=prices[0], completion_price=prices[1], cached_price=cached)
