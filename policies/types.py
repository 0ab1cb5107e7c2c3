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

from policies.float16_embedding import Float16Embedding

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]


class Arm(msgspec.Struct, frozen=True):
    """A model as a policy sees it."""

    name: str
    prompt_price: float  # USD per prompt token
    completion_price: float  # USD per completion token
    context_tokens: int = 8192
    parent: str | None = None  # the full-width model this is a variant of
    bits: int | None = None
    parameters: float | None = None  # number of weights
    quality: float | None = None  # mean quality measured elsewhere, in [0, 1]: where learning starts


class Neighbours(msgspec.Struct, frozen=True):
    """The nearest past queries and what each arm earned and cost on them."""

    similarity: Float32  # (k,), cosine, descending
    scores: Float  # (k, n), in [0, 1]; NaN where never observed; columns follow RouteContext.arms
    costs: Float  # (k, n), USD; NaN where never observed


class BudgetState(msgspec.Struct, frozen=True):
    """What the tightest budget of the asking tenant has left. All infinite where there is no budget."""

    remaining: float = float("inf")  # USD
    limit: float = float("inf")  # USD
    reset_s: float = float("inf")  # seconds until the period ends
    name: str = ""  # identifies the budget, so that a pacer keeps one price for each


class MeasuredCost(msgspec.Struct, frozen=True):
    """What tokens are measured to cost on machines whose price is known; NaN for arms that cost their list price."""

    prompt_usd: Float  # (n,), for a token of RouteContext.prompt_tokens
    completion_usd: Float  # (n,)
    tokens: Float  # (n,), of a usual completion, for arms without a list price


class RouteContext(msgspec.Struct, frozen=True):
    """Everything a policy may know about one query before it is answered."""

    request_id: str
    tenant: str
    preference: float  # λ, 1/USD: quality one dollar is worth
    embedding: Float32  # (d,), unit length
    neighbours: Neighbours
    arms: tuple[Arm, ...]  # (n,), eligible only
    prompt_tokens: int
    prompt_characters: int
    max_completion_tokens: int
    now: float  # seconds, monotone within a replica's log
    purse: BudgetState = msgspec.field(default_factory=BudgetState)
    capacity: Float | None = None  # (n,), USD left of each arm's own budget; inf where none
    features: Float32 | None = None  # (f,), surface features of the prompt, or None
    rented: MeasuredCost | None = None  # None where every arm costs its list price


class Estimates(msgspec.Struct, frozen=True):
    """What each eligible arm is expected to earn and cost."""

    quality: Float  # (n,), in [0, 1]
    sigma: Float  # (n,), standard deviation of quality
    cost: Float  # (n,), USD


class Proposal(msgspec.Struct, frozen=True):
    """A policy's answer: a distribution and the evidence for it."""

    probabilities: Float  # (n,), sums to 1
    estimates: Estimates
    prices: Float  # (n,), λ + μ + γ_m, 1/USD
    scores: Float  # (n,), q̂ − price · ĉ plus what an explorer added
    charged: Float | None = None  # (n,), USD at list prices, where that is not ĉ


class Outcome(msgspec.Struct, frozen=True):
    """What came of one decision. Score is NaN until somebody judged it."""

    request_id: str
    tenant: str
    arm: str  # "" where no arm served the query
    embedding: Float32 | Float16Embedding  # (d,); policies read `vector`
    score: float  # in [0, 1] or NaN
    cost: float  # USD or NaN
    propensity: float  # in (0, 1]
    prompt_tokens: int
    completion_tokens: int
    prompt_characters: int
    now: float
    weight: float = 1.0  # reliability of the score, in (0, 1]
    features: Float32 | None = None
    purse: str = ""  # BudgetState.name the money came from
    candidates: tuple[str, ...] = ()  # (n,) names of the arms that were eligible
    expected: Estimates | None = None  # what was expected of the candidates when it was decided, cost at list prices
    signature: Float | None = None  # (12,) policies.signature.FEATURES of the answer, where it was observed
    refused: str = ""  # the arm that was chosen in vain: its answer cost more than its budget still held
    left: float = float("nan")  # USD which that budget held

    @property
    def vector(self) -> Float32:
        """(d,) the embedding."""
        return self.embedding.vector if isinstance(self.embedding, Float16Embedding) else self.embedding

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


class StoredPolicy(Policy, Snapshot, Protocol):
    """A policy with a state that can be stored: what named.build returns."""


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


class Pacer(Protocol):
    """Prices money: λ from the request, μ from a tenant's budget, γ from an arm's own capacity."""

    def prices(self, context: RouteContext, estimates: Estimates) -> Float:
        """(n,) 1/USD, ≥ 0. Pure."""

    def learn(self, outcome: Outcome) -> None:
        """Take in one outcome."""

    def refit(self, history: History) -> None:
        """Recompute in bulk, off the request path."""


class Explorer(Protocol):
    """Turns scores into a distribution."""

    def probabilities(self, context: RouteContext, estimates: Estimates, scores: Float) -> tuple[Float, Float]:
        """(probabilities (n,), the scores they rest on (n,)). Pure."""
