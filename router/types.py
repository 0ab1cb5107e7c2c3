"""The gateway's own nouns: money, models, principals and holds. What is logged is policies.records.

What is made for every request is a msgspec struct: it costs a tenth of a frozen dataclass to make.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NewType

import msgspec

from policies.records import NANO_PER_USD, DecisionRecord, Feedback, LogEntry, SettlementRecord

__all__ = ["NANO_PER_USD", "DecisionRecord", "Feedback", "LogEntry", "SettlementRecord"]  # and what is below

NanoUsd = NewType("NanoUsd", int)
"""1 USD = 1_000_000_000. Money is never a float here."""


@dataclass(frozen=True, slots=True)
class Price:
    """List price of a model, in nano-USD per million tokens. Raises: ValueError below zero."""

    prompt: NanoUsd
    completion: NanoUsd

    def __post_init__(self) -> None:
        if self.prompt < 0 or self.completion < 0:
            raise ValueError(f"a price is {self.prompt} and {self.completion} nano-USD, expected 0 or more")

    def of(self, prompt_tokens: int, completion_tokens: int) -> NanoUsd:
        """Cost of an answer in nano-USD, rounded up."""
        return NanoUsd(-(-(prompt_tokens * self.prompt + completion_tokens * self.completion) // 1_000_000))


@dataclass(frozen=True, slots=True)
class Budget:
    """A spending limit of one scope over one period: rolling, or from one UTC calendar period to the next."""

    scope: str  # "tenant:acme", "team:research", "key:k_01…", "model:small@3bit"
    limit: NanoUsd
    period_s: int
    hard: bool = True
    calendar: str | None = None  # "day", "week", "month" or "year"; period_s is then its nominal length


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Requests and tokens a minute, and requests at once; None is unlimited."""

    scope: str  # as in Budget, or "key:k_01…|model:large"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One candidate: a name clients may ask for, behind one backend."""

    name: str
    backend: str  # key of the backend in settings
    upstream: str  # the name the engine knows it by
    price: Price
    context_tokens: int
    max_output_tokens: int
    local: bool  # served on the operator's own machines
    capabilities: frozenset[str] = frozenset()  # "chat", "completions", "tools", "vision", "logprobs", "embeddings", …
    parent: str | None = None  # the full-width model this is a variant of
    bits: int | None = None
    parameters: float | None = None  # number of weights
    quality: float | None = None  # mean quality measured elsewhere, in [0, 1]: where estimates start
    extra_body: Mapping[str, object] = field(default_factory=dict)  # merged into the upstream body, e.g. vllm_xargs
    defaults: Mapping[str, object] = field(default_factory=dict)  # fields of a request where the client sets none
    drop_fields: frozenset[str] = frozenset()  # fields of a request that it does not get
    budgets: tuple[Budget, ...] = ()  # its own over all tenants, and those it shares with other models
    limits: tuple[RateLimit, ...] = ()  # its own over all tenants
    draining: bool = False
    admitted: bool = True  # False: a compressed variant nobody compared with its parent yet
    bytes_per_token: float = 4.0  # of its tokenizer on ordinary text; 1 for byte-level models
    replica_prices: Mapping[str, Price] = field(default_factory=dict)  # by engine; `price` is the dearest
    wildcard: str | None = None  # the entry that stands for it among many

    def price_at(self, engine: str) -> Price:
        """What an answer of one of its engines costs."""
        return self.replica_prices.get(engine, self.price)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking: what a valid key stands for."""

    key_id: str
    tenant: str
    team: str | None = None
    allowed_models: frozenset[str] | None = None  # None: all
    local_only: bool = False
    preference: float | None = None  # 0 cheapest … 1 best; None: the gateway's default
    policy: str | None = None  # None: the gateway's default
    budgets: tuple[Budget, ...] = ()
    limits: tuple[RateLimit, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    admin: bool = False
    digest: bytes = field(default=b"", repr=False)  # of the secret that was shown; empty where no store keeps the key
    until_ms: int | None = None  # when that secret stops working


class Offer(msgspec.Struct, frozen=True, gc=False):
    """One model the request may be sent to, and the most it can cost there. Raises: ValueError below zero."""

    model: str
    worst: NanoUsd
    tokens: int  # prompt plus the most completion tokens
    budgets: tuple[Budget, ...] = ()  # the model's own capacity, beyond the principal's
    limits: tuple[RateLimit, ...] = ()  # limits that hold for this model only

    def __post_init__(self) -> None:
        if self.worst < 0 or self.tokens < 0:
            raise ValueError(f"{self.model!r} cannot cost {self.worst} nano-USD for {self.tokens} tokens at most")


class Reservation(msgspec.Struct, frozen=True):
    """What the gateway asks of the ledger: the first offer that fits every budget and limit."""

    decision_id: str
    principal: Principal
    offers: Iterable[Offer]  # in order of preference, each time it is looked through; at least one
    ttl_ms: int  # the lease; the ledger renews it while this process lives …
    now_ms: int
    longest_ms: int = 0  # … for at most this long; 0: never renewed


class Allowance(msgspec.Struct, frozen=True, gc=False):
    """What is left of one rate limit, for the x-ratelimit headers."""

    limit: int
    remaining: int
    reset_ms: int


class Hold(msgspec.Struct, frozen=True):
    """A lease on money and rate: it ends by settle or by its expiry, never later."""

    decision_id: str
    model: str
    amount: NanoUsd
    expires_at_ms: int
    requests: Allowance | None = None
    tokens: Allowance | None = None
    warnings: tuple[str, ...] = ()  # soft budgets at 80 % or 100 %, e.g. "tenant:acme 80%"
    ticket: object = None  # the ledger's own memo, opaque to everyone else


class Spend(msgspec.Struct, frozen=True, gc=False):
    """What really happened to a hold. All zero with outcome "released": nothing was sent.

    Raises: ValueError for what is below zero.
    """

    cost: NanoUsd
    prompt_tokens: int
    completion_tokens: int
    outcome: Literal["settled", "released", "expired"]
    estimated: bool = False  # what the engine reported could not be: tokens were counted from the text

    def __post_init__(self) -> None:
        if self.cost < 0 or self.prompt_tokens < 0 or self.completion_tokens < 0:
            raise ValueError(
                f"nobody spends {self.cost} nano-USD for {self.prompt_tokens} and {self.completion_tokens} tokens"
            )


@dataclass(frozen=True, slots=True)
class Balance:
    """What one budget has left now."""

    budget: Budget
    spent: NanoUsd
    held: NanoUsd
    reset_ms: int  # milliseconds until something is freed: the calendar reset, or the oldest spend leaving the window

    @property
    def remaining(self) -> NanoUsd:
        """Limit less spent less held; never negative."""
        return NanoUsd(max(0, self.budget.limit - self.spent - self.held))
