"""What a policy sees, says and learns from. Money is float64 USD here; the gateway translates.

Structs of msgspec, since a handful are made for every request and a frozen dataclass costs fifteen times as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]


class Arm(msgspec.Struct, frozen=True, array_like=True):
    """A model as a policy sees it."""

    name: str
    prompt_price: float  # USD per prompt token
    completion_price: float  # USD per completion token
    context_tokens: int = 8192
    parent: str | None = None  # the full-width model this is a variant of
    bits: float | None = None
    parameters: float | None = None  # number of weights
    quality: float | None = None  # mean quality measured elsewhere, in [0, 1]: where learning starts
    cached_price: float | None = None  # USD per prompt token read from its cache; None: as any other
    foretold: float | None = None  # quality that size, tokens, date and family let expect, in [0, 1]
    width_loss: float | None = None  # quality its width is measured to cost; None: what widths usually do
    varies: bool = False  # its prices are usual ones: a program's steps decide what an answer costs


class Neighbours(msgspec.Struct, frozen=True):
    """The nearest past queries and what each arm earned and cost on them."""

    similarity: Float32  # (k,), cosine, descending
    scores: Float  # (k, n), in [0, 1]; NaN where never observed; columns follow LoggedContext.arms
    costs: Float  # (k, n), USD; NaN where never observed
    weights: Float32 | None = None  # (k,), in (0, 1], how reliable the scores of each are; None: wholly


class BudgetState(msgspec.Struct, frozen=True, array_like=True):
    """What the tightest budget of the asking tenant has left. All infinite where there is no budget."""

    remaining: float = float("inf")  # USD
    limit: float = float("inf")  # USD
    reset_s: float = float("inf")  # seconds until the period ends
    name: str = ""  # identifies the budget, so that a pacer keeps one price for each


class MeasuredCost(msgspec.Struct, frozen=True):
    """What tokens are measured to cost on machines whose price is known; NaN for arms that cost their list price."""

    prompt_usd: Float  # (n,), for a token of LoggedContext.prompt_tokens
    completion_usd: Float  # (n,)
    tokens: Float  # (n,), of a usual completion, for arms without a list price


class LoggedContext(msgspec.Struct, frozen=True):
    """What one query was decided on, and what the log keeps of it."""

    decision_id: str
    tenant: str
    preference: float  # λ, 1/USD: quality one dollar is worth
    embedding: Float32  # (d,), unit length, to half precision
    arms: tuple[Arm, ...]  # (n,), eligible only
    prompt_tokens: int
    prompt_characters: int
    max_completion_tokens: int
    now: float  # seconds, monotone within a replica's log
    budget: BudgetState = msgspec.field(default_factory=BudgetState)
    capacity: Float | None = None  # (n,), USD left of each arm's own budget; inf where none
    features: Float32 | None = None  # (f,), surface features of the prompt, or None
    measured_cost: MeasuredCost | None = None  # None where every arm costs its list price
    neighbours_asked: int = 0  # past queries that were looked up, at most
    cached: Float | None = None  # (n,) of the prompt, expected in each arm's cache, in [0, 1]; None: nothing anywhere
    waiting: Float | None = None  # (n,) USD that it is worth to the tenant not to wait for each arm; None: nothing
    stored: Float | None = None  # (n,) P(a stored answer answers this), NaN for arms that are none; None: there is none
    counted: Float | None = None  # (n,) tokens each arm reads for one of prompt_tokens at its price; None: one

    @property
    def names(self) -> tuple[str, ...]:
        """(n,) of the arms."""
        return tuple([arm.name for arm in self.arms])


class RouteContext(LoggedContext, frozen=True, kw_only=True):
    """Everything a policy may know about one query before it is answered."""

    neighbours: Neighbours


class Estimates(msgspec.Struct, frozen=True):
    """What each eligible arm is expected to earn and cost."""

    quality: Float  # (n,), in [0, 1]
    sigma: Float  # (n,), standard deviation of quality
    cost: Float  # (n,), USD


class Evidence(msgspec.Struct, frozen=True):
    """What a distribution follows from beside its context: with both logged, anybody can draw it up again."""

    expected: Estimates  # of the arms, cost as budgets are charged
    budget_price: float = 0.0  # μ, 1/USD
    capacity_prices: Float | None = None  # γ (n,), 1/USD; None: all zero
    early: bool = False  # whether the policy still looks around
    refuses: bool = True  # whether the prices are those of a plan that refuses what is not worth them
    worth: Float | None = None  # (n,) scores that are not q̂ − price · ĉ


class Proposal(msgspec.Struct, frozen=True):
    """A policy's answer: a distribution and the evidence for it."""

    probabilities: Float  # (n,), sums to 1
    estimates: Estimates  # that decided: ĉ is what an answer takes, where that is not what is charged
    prices: Float  # (n,), λ + μ + γ_m, 1/USD
    scores: Float  # (n,), q̂ − price · ĉ plus what an explorer added
    evidence: Evidence


class Outcome(msgspec.Struct, frozen=True):
    """What came of one decision. Score is NaN until somebody judged it."""

    context: LoggedContext
    arm: str  # "" where no arm served the query
    score: float  # in [0, 1] or NaN
    cost: float  # USD or NaN
    propensity: float  # in (0, 1]
    completion_tokens: int
    now: float  # seconds
    weight: float = 1.0  # reliability of the score, in (0, 1]
    expected: Estimates | None = None  # of the arms when it was decided, cost at list prices
    signature: Float | None = None  # (f,) policies.signature.FEATURES of the answer, where it was observed
    answered: str = ""  # of a program: the arm whose answer was judged by its signature and returned …
    returned: float = 1.0  # … and how likely that was, in (0, 1]
    refused: str = ""  # the arm that was chosen unsuccessfully: its answer cost more than its budget still held
    left: float = float("nan")  # USD which that budget held

    @property
    def is_judgement(self) -> bool:
        """Whether this only adds a score to a query whose cost was, or will be, told by another outcome."""
        return math.isnan(self.cost) and not math.isnan(self.score)


class History(msgspec.Struct, frozen=True):
    """Past queries with what is known of every arm on them."""

    embeddings: Float32  # (N, d), unit rows
    arms: tuple[Arm, ...]  # (M,)
    scores: Float  # (N, M), NaN where never observed
    costs: Float  # (N, M), USD, NaN where never observed
    prompt_tokens: NDArray[np.int64]  # (N,)
    prompt_characters: NDArray[np.int64]  # (N,)
    features: Float32 | None = None  # (N, f)
    weights: Float | None = None  # (N,), in (0, 1], how reliable the scores of each row are; None: wholly

    @property
    def reliability(self) -> Float:
        """(N,) the weights, ones where all scores are wholly reliable."""
        return np.ones(len(self.scores)) if self.weights is None else self.weights


def draw(probabilities: Float, uniform: float) -> int:
    """The index where the running sum of probabilities (n,) passes `uniform` in [0, 1)."""
    total = 0.0
    for i, p in enumerate(probabilities.tolist()):
        total += p
        if uniform < total:
            return i
    return int(np.argmax(probabilities))


class Policy(Protocol):
    """Chooses among arms. State changes in learn() and refit() only."""

    def propose(self, context: RouteContext) -> Proposal:
        """A distribution over context.arms. Pure: the gateway draws."""

    def learn(self, outcome: Outcome) -> None:
        """Take in one outcome; replicas that learn the same outcomes in the same order agree."""

    def refit(self, history: History) -> None:
        """Recompute what is learned in bulk; runs off the request path. A policy with nothing to refit does nothing."""


class Snapshot(Protocol):
    """State that can be stored; every policy in the package also satisfies this."""

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """Arrays that restore() turns back into this exact state."""

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Bit-exact inverse of state(). Raises: ValueError where the state is of another policy or shape."""


class Redrawn(Protocol):
    """Gives back what it once proposed."""

    def distribute(self, context: LoggedContext, evidence: Evidence) -> Proposal:
        """The proposal that follows from this evidence. Pure, and the same in every process: no state enters."""


class StoredPolicy(Policy, Redrawn, Snapshot, Protocol):
    """A policy with a state that can be stored: what registry.build returns."""


class Estimator(Protocol):
    """Expects quality and cost."""

    def estimate(self, context: RouteContext) -> Estimates:
        """For context.arms, in order. Pure."""

    def learn(self, outcome: Outcome) -> None:
        """Take in one outcome."""

    def refit(self, history: History) -> None:
        """Recompute in bulk, off the request path."""


class Charger(Estimator, Protocol):
    """An estimator that can be asked for cost alone."""

    def costs(self, context: RouteContext) -> Float:
        """(n,) USD: estimate(context).cost, without the work that quality takes. Pure."""


class Prices(msgspec.Struct, frozen=True):
    """What a dollar costs beyond the caller's own preference."""

    budget: float = 0.0  # μ ≥ 0, 1/USD
    capacity: Float | None = None  # γ (n,) ≥ 0, 1/USD; None: all zero
    refuses: bool = True  # whether a query of a score below zero is to be refused, so that others can be paid


class Pacer(Protocol):
    """Prices money: μ from a tenant's budget, γ from an arm's own capacity."""

    def prices(self, context: RouteContext, estimates: Estimates) -> Prices:
        """Pure."""

    def learn(self, outcome: Outcome) -> None:
        """Take in one outcome."""

    def refit(self, history: History) -> None:
        """Recompute in bulk, off the request path."""


class Explorer(Protocol):
    """Turns scores into a distribution."""

    def probabilities(self, context: LoggedContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        """(probabilities (n,), the scores they rest on (n,)). Pure."""
