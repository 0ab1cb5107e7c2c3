"""The gateway's own nouns: money, models, principals and holds. What is logged is policies.records.

What is made for every request is a msgspec struct: it costs a tenth of a frozen dataclass to make.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NewType, Protocol

import msgspec

from backends.types import NO_PARTS, TokenParts
from policies.records import NANO_PER_USD, DecisionRecord, Feedback, LogEntry, Notice, SettlementRecord

__all__ = ["NANO_PER_USD", "DecisionRecord", "Feedback", "LogEntry", "Notice", "SettlementRecord"]  # and what is below

NanoUsd = NewType("NanoUsd", int)
"""1 USD = 1_000_000_000. Money is never a float here."""


PER = 1_000_000  # tokens a price is for
PROGRAMS = "programs"  # stands where a program has the name of its backend
LONG_WRITE = 2  # times the prompt: what an hour in a cache costs where only minutes have a price


def now_ms() -> int:
    """Milliseconds since 1970, by this machine."""
    return int(time.time() * 1000)


def show_usd(nano: int) -> str:
    """Nano-USD as a decimal number of USD, exact: 0.15, 5, 0.000001."""
    whole, rest = divmod(abs(nano), NANO_PER_USD)
    shown = f"{whole}.{rest:09d}".rstrip("0").rstrip(".") if rest else str(whole)
    return f"-{shown}" if nano < 0 else shown


@dataclass(frozen=True, slots=True)
class TokenRates:
    """Nano-USD per million tokens of each kind; None: as the plain tokens of that side. Raises: ValueError below 0."""

    prompt: NanoUsd
    completion: NanoUsd
    cached: NanoUsd | None = None  # of the prompt, read from the provider's cache
    cache_write: NanoUsd | None = None  # written to it for minutes
    cache_write_1h: NanoUsd | None = None  # written to it for longer; None: as `hour` says
    audio_prompt: NanoUsd | None = None
    image_prompt: NanoUsd | None = None
    reasoning: NanoUsd | None = None
    audio_completion: NanoUsd | None = None
    image_completion: NanoUsd | None = None
    request: NanoUsd = NanoUsd(0)  # nano-USD a request, not per million
    search: NanoUsd = NanoUsd(0)  # nano-USD for each search that the provider made

    def __post_init__(self) -> None:
        for name in AMOUNTS:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"the price of {name} is {value} nano-USD, expected 0 or more")

    @property
    def amounts(self) -> dict[str, Any]:
        """By the name of the part."""
        return {name: getattr(self, name) for name in AMOUNTS}

    def minutes(self, *, writes: bool) -> int:
        """Of tokens a cache keeps for minutes; without a price, where a request `writes` to one, five quarters of a
        prompt's: what providers ask who charge for it."""
        if self.cache_write is not None:
            return self.cache_write
        return -(-self.prompt * 5 // 4) if writes else self.prompt

    def hour(self, *, writes: bool) -> int:
        """Of tokens a cache keeps for longer; where writing has a price, or is asked for, at least twice a prompt's."""
        if self.cache_write_1h is not None:
            return self.cache_write_1h
        if self.cache_write is None and not writes:
            return self.prompt
        return max(self.minutes(writes=writes), LONG_WRITE * self.prompt)

    def highest_prompt(self, *, writes: bool) -> int:
        """Of the most expensive kind of token that a prompt can hold."""
        written = (self.minutes(writes=writes), self.hour(writes=writes))
        return max(self.prompt, *written, *(each or 0 for each in (self.cached, self.audio_prompt, self.image_prompt)))

    @property
    def highest_completion(self) -> int:
        """Of the most expensive kind of token that an answer can hold."""
        others = (self.reasoning, self.audio_completion, self.image_completion)
        return max(self.completion, *(each or 0 for each in others))

    def charge(self, prompt: int, completion: int, parts: TokenParts, *, writes: bool) -> int:
        """Nano-USD times PER of the tokens, without fees."""
        read = (
            (self.cached, parts.cached),
            (self.minutes(writes=writes), parts.cache_write),
            (self.hour(writes=writes), parts.cache_write_1h),
            (self.audio_prompt, parts.audio_prompt),
            (self.image_prompt, parts.image_prompt),
        )
        made = (
            (self.reasoning, parts.reasoning),
            (self.audio_completion, parts.audio_completion),
            (self.image_completion, parts.image_completion),
        )
        return _side(self.prompt, prompt, read) + _side(self.completion, completion, made)


AMOUNTS = tuple(each.name for each in fields(TokenRates))


def _side(plain: int, tokens: int, parts: Iterable[tuple[int | None, int]]) -> int:
    """Parts at their own prices, the rest at the plain one. Of parts that cannot all be, the most expensive count."""
    priced = sorted(((plain if price is None else price, count) for price, count in parts if count), reverse=True)
    total, left = 0, tokens
    for price, count in priced:
        total += price * min(count, left)
        left -= min(count, left)
    return total + plain * left


@dataclass(frozen=True, slots=True)
class Price(TokenRates):
    """The list price of a model.

    `above`: other rates for a whole request whose prompt has more tokens than this, ascending.
    `tiers`: other prices by the service tier that the provider says it used ("flex", "priority", "fast+us").
    """

    above: tuple[tuple[int, TokenRates], ...] = ()
    tiers: Mapping[str, Price] = field(default_factory=dict)
    _is_plain: bool = field(init=False, repr=False, compare=False, default=False)  # nothing but the two prices

    def __post_init__(self) -> None:
        TokenRates.__post_init__(self)
        is_plain = TokenRates(self.prompt, self.completion).amounts == self.amounts and not (self.above or self.tiers)
        object.__setattr__(self, "_is_plain", is_plain)

    def of(self, prompt: int, completion: int, parts: TokenParts = NO_PARTS, *, writes: bool = False) -> NanoUsd:
        """Cost of an answer in nano-USD, rounded up once. `writes`: the request asked a cache to keep its prompt."""
        if self._is_plain and not (writes and (parts.cache_write or parts.cache_write_1h)):
            return NanoUsd(-(-(prompt * self.prompt + completion * self.completion) // PER))
        rates = self._tier(parts.service_tier).rates(prompt)
        total = rates.charge(prompt, completion, parts, writes=writes)
        return NanoUsd(-(-total // PER) + rates.request + rates.search * parts.searches)

    def worst(self, prompt: int, completion: int, searches: int = 0, *, writes: bool = False) -> NanoUsd:
        """The most expensive reading of so many tokens or fewer: what a hold must cover."""
        if self._is_plain and not writes:
            return NanoUsd(-(-(prompt * self.prompt + completion * self.completion) // PER))
        rates = list(self._possible(prompt))
        read = max(each.highest_prompt(writes=writes) for each in rates)
        made = max(each.highest_completion for each in rates)
        fees = max(each.request for each in rates) + searches * max(each.search for each in rates)
        return NanoUsd(-(-(prompt * read + completion * made) // PER) + fees)

    def rates(self, prompt: int) -> TokenRates:
        """For a request whose prompt has so many tokens."""
        found: TokenRates = self
        for least, rates in self.above:
            if prompt > least:
                found = rates
        return found

    def _tier(self, name: str) -> Price:
        """Of a tier, or of several at once ("fast+us"): the most expensive where they have no price together."""
        if not self.tiers or name in self.tiers:
            return self.tiers.get(name, self)
        known = [self.tiers[each] for each in name.split("+") if each in self.tiers]
        return max(known, key=lambda each: (each.completion, each.prompt), default=self)

    def _possible(self, prompt: int) -> Iterator[TokenRates]:
        yield self
        for least, rates in self.above:
            if prompt > least:
                yield rates
        for tier in self.tiers.values():
            yield from tier._possible(prompt)


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


class Program(Protocol):
    """Several calls under one name: see router.programs. What it is asked about is of a higher floor, hence Any."""

    def offer(self, model: Model, requirements: Any) -> Offer:
        """The most that a run can cost and read, with the models whose own budgets it may touch."""

    def reason(self, requirements: Any, principal: Principal, is_up: Callable[[str], bool]) -> str | None:
        """Why a run of these requirements may not begin, or None."""

    def begin(self, gateway: Any, call: Any) -> Any:
        """What sends a request by running the program, once it has an attempt; or the one model that does it all."""


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
    bits: float | None = None  # of a weight; a profile's is a fraction
    parameters: float | None = None  # number of weights
    quality: float | None = None  # mean quality measured elsewhere, in [0, 1]: where estimates start
    family: str | None = None  # what it and its siblings of other sizes are called
    trained_tokens: float | None = None
    released: str | None = None  # YYYY-MM
    foretold: float | None = None  # quality these let expect, in [0, 1]
    width_loss: float | None = None  # quality its width costs by the engine's own measure; None: not measured
    extra_body: Mapping[str, object] = field(default_factory=dict)  # merged into the upstream body, e.g. vllm_xargs
    defaults: Mapping[str, object] = field(default_factory=dict)  # fields of a request where the client sets none
    drop_fields: frozenset[str] = frozenset()  # fields of a request that it does not get
    budgets: tuple[Budget, ...] = ()  # its own over all tenants, and those it shares with other models
    limits: tuple[RateLimit, ...] = ()  # its own over all tenants
    draining: bool = False
    admitted: bool = True  # False: a compressed variant nobody compared with its parent yet
    bytes_per_token: float = 4.0  # of its tokenizer on ordinary text; 1 for byte-level models
    replica_prices: Mapping[str, Price] = field(default_factory=dict)  # by engine; `price` is the most expensive
    tags: tuple[frozenset[str], ...] = ()  # of each engine, where some take requests by their tags
    lacks: frozenset[str] = frozenset()  # features of a request that it is known not to have
    wildcard: str | None = None  # the entry that stands for it among many
    program: Program | None = field(default=None, compare=False)  # that answers in place of an engine

    def price_at(self, engine: str) -> Price:
        """What an answer of one of its engines costs."""
        return self.replica_prices.get(engine, self.price)

    def worst(self, prompt: int, completion: int, searches: int = 0, *, writes: bool = False) -> NanoUsd:
        """The most that so many tokens cost, whatever their kind and whichever engine answers."""
        worst = self.price.worst(prompt, completion, searches, writes=writes)
        for price in self.replica_prices.values():
            worst = max(worst, price.worst(prompt, completion, searches, writes=writes))
        return worst


@dataclass(frozen=True, slots=True)
class CacheRules:
    """What may be answered with an answer that is stored, and how much of them is kept for a tenant."""

    ttl_ms: int
    entries: int
    bytes: int
    by_team: bool = False  # each team has its own
    alpha: float | None = None  # of answers to similar questions that are wrong, at most; None: the same request only


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
    latency_usd_per_s: float | None = None  # what a second less of waiting is worth; None: nothing
    learn_from: tuple[str, ...] | None = None  # sources of judgements beside people; None: the gateway's default
    cache: CacheRules | None = None  # None: nothing is stored, and nothing stored is looked up
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
    members: tuple[str, ...] = ()  # of a program: the models it may call, whose limits hold for it too

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
    record: object = None  # the ledger's own memo, opaque to everyone else


class Spend(msgspec.Struct, frozen=True, gc=False):
    """What really happened to a hold. All zero with outcome "released": nothing was sent.

    Raises: ValueError for what is below zero.
    """

    cost: NanoUsd
    prompt_tokens: int
    completion_tokens: int
    outcome: Literal["settled", "released", "expired"]
    estimated: bool = False  # what the engine reported could not be: tokens were counted from the text
    parts: TokenParts = NO_PARTS  # kinds of tokens among them
    uncached: NanoUsd = NanoUsd(0)  # had no cache been read or written; 0: the same
    saved: NanoUsd = NanoUsd(0)  # that an answer cost when it was made, which was given again

    @property
    def kinds(self) -> dict[str, int]:
        """Tokens with a price of their own, and what was saved, by the names that reports give them; none are 0."""
        return {**self.parts.counts, "saved_nanousd": self.saved} if self.saved else self.parts.counts

    def __post_init__(self) -> None:
        if self.cost < 0 or self.prompt_tokens < 0 or self.completion_tokens < 0:
            raise ValueError(
                f"nobody spends {self.cost} nano-USD for {self.prompt_tokens} and {self.completion_tokens} tokens"
            )


RELEASED = Spend(NanoUsd(0), 0, 0, "released")  # nothing was sent


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
