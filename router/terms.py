"""What a tenant, a team or a key may do and spend: one model for the settings file, the admin API, keys and stores.

Budgets and limits of all levels add up, models can only be narrowed, and of the rest the nearest level rules. What
cannot be enforced fails with pydantic's ValidationError, at the key's own place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from router import amounts
from router.types import Budget, CacheRules, NanoUsd, Principal, RateLimit, show_usd

NAME = r"^[^\s,|]+$"
MOST_COUNTED = 2**53  # requests or tokens a minute; Redis scripts count in doubles, exact up to here
_SEPARATORS = frozenset("|#\x00")


def owner_name(name: str) -> str:
    """A name that a scope can hold. Raises: ValueError."""
    if not 1 <= len(name) <= 128 or _SEPARATORS & set(name) or not name.isprintable():
        raise ValueError("expected 1 to 128 printable characters without | and #")
    return name


def _perhaps_named(name: str) -> str:
    return name and owner_name(name)


Usd = Annotated[
    NanoUsd,
    BeforeValidator(amounts.usd),
    PlainSerializer(show_usd),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "examples": ["0.15", "5 USD"]}),
]
Period = Annotated[
    amounts.Period,
    BeforeValidator(amounts.period),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["day", "30d", "rolling week"]}),
]
UsdPerSecond = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Counted = Annotated[int, Field(ge=0, le=MOST_COUNTED)]
Name = Annotated[str, Field(min_length=1, pattern=NAME)]
OwnerName = Annotated[str, AfterValidator(owner_name)]
Sources = tuple[Literal["graders", "signature", "judge"], ...]
Names = Annotated[frozenset[Name], PlainSerializer(sorted)]


class Section(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class BudgetTerms(Section):
    """A spending limit over a period; '5 USD per day' is short for it."""

    limit: Usd = Field(description="USD.")
    period: Period = Field(
        description="30s … 1y is a rolling window (s, m, h, d, w, y); day, week, month and year are calendar periods "
        "in UTC, unless written 'rolling day'."
    )
    hard: bool = Field(
        default=True, description="False warns at 80 % and 100 % and refuses nothing; 'soft' in the short form."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: object) -> object:
        return amounts.budget(data) if isinstance(data, str) else data

    def __str__(self) -> str:
        return f"{show_usd(self.limit)} USD per {self.period}{'' if self.hard else ' soft'}"

    def budget(self, scope: str) -> Budget:
        """As the ledger knows it."""
        return Budget(scope, self.limit, self.period.seconds, self.hard, self.period.calendar)


class OwnerBudget(BudgetTerms):
    """A spending limit of a tenant, team or key; '5 USD per day' is short for it."""

    model: Name | None = Field(default=None, description="Only what this model costs; null is every model.")

    def budget(self, scope: str) -> Budget:
        return super().budget(_within(scope, self.model))


class LimitTerms(Section):
    """Rate limits; null is unlimited."""

    requests_per_minute: Counted | None = Field(default=None, description="Requests in any minute.")
    tokens_per_minute: Counted | None = Field(default=None, description="Prompt and completion tokens in any minute.")
    concurrent: Counted | None = Field(default=None, description="Requests at once.")

    def limit(self, scope: str) -> RateLimit:
        """As the ledger knows it."""
        return RateLimit(scope, self.requests_per_minute, self.tokens_per_minute, self.concurrent)


class OwnerLimit(LimitTerms):
    """Rate limits of a tenant, team or key; null is unlimited."""

    model: Name | None = Field(default=None, description="Only requests to this model; null is every model.")

    def limit(self, scope: str) -> RateLimit:
        return super().limit(_within(scope, self.model))


def _within(scope: str, model: str | None) -> str:
    return scope if model is None else f"{scope}|model:{model}"


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, dict) else value


class CacheTerms(Section):
    """Answers that may be given again; `true` is the defaults, `false` is none."""

    enabled: bool = Field(default=True, description="False stores nothing and looks nothing up.")
    ttl: Period = Field(default=amounts.period("day"), description="How long an answer may be given again: 30s … 1y.")
    entries: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=10_000, description="Answers kept of a tenant.")
    size: Annotated[int, BeforeValidator(amounts.size), Field(ge=1024)] = Field(
        default=64 * 2**20, description="Bytes kept of a tenant; one answer has a sixteenth of them at most."
    )
    within: Literal["tenant", "team"] = Field(default="tenant", description="Who shares them; nobody else ever does.")

    alpha: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Also for similar questions: the share of wrong ones among those given again that is borne, e.g. "
        "0.05; by default for the same request only.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: object) -> object:
        return {"enabled": data} if isinstance(data, bool) else data

    def rules(self) -> CacheRules | None:
        """As the gateway knows them."""
        by_team = self.within == "team"
        found = CacheRules(self.ttl.seconds * 1000, self.entries, self.size, by_team, self.alpha)
        return found if self.enabled else None


class Terms(Section):
    """What tenants, teams and keys may all set. Budgets and limits add up; of the rest the nearest rules."""

    budgets: tuple[OwnerBudget, ...] = Field(
        default=(), description="Budgets, e.g. ['5 USD per day', '100 USD per month']; those of all levels hold."
    )
    limits: Annotated[tuple[OwnerLimit, ...], BeforeValidator(_one_or_many)] = Field(
        default=(), description="Rate limits, one mapping or several; those of all levels hold."
    )
    allowed_models: Names | None = Field(
        default=None, description="Models that may be used; null is all, and no level can add to another's."
    )
    local_only: bool = Field(default=False, description="Only models on machines of yours.")
    preference: Share | None = Field(default=None, description="0 cheapest … 1 best; by default the next level's.")
    latency_usd_per_s: UsdPerSecond | None = Field(
        default=None,
        description="USD that a second less of waiting is worth: a term of what an answer takes, never charged; by "
        "default the next level's.",
    )
    policy: str | None = Field(default=None, description="Policy; by default the next level's, then `policy.name`.")
    learn_from: Sources | None = Field(
        default=None,
        description="What judges answers that no person judged: graders, signature, judge; by default the next "
        "level's, then `learning.sources`.",
    )
    cache: CacheTerms | None = Field(
        default=None,
        description="Answers that are given again to who asks the same; true is the defaults. By default the next "
        "level's, then none.",
    )
    metadata: dict[str, str] = Field(default={}, description="Copied into the log.")
    disabled: bool = Field(default=False, description="True refuses every key at or below this level.")

    @classmethod
    def of(cls, **given: object) -> Self:
        """Terms as people write them: Terms.of(budgets=["5 USD per day"]). Raises: ValidationError."""
        return cls.model_validate(given)

    def bare(self) -> Terms:
        """These alone, without what a kind of tenant, team or key adds."""
        return Terms.model_construct(**{name: getattr(self, name) for name in Terms.model_fields})


class KeyTerms(Terms):
    """What a key has beyond its terms, wherever it is made."""

    name: Annotated[str, AfterValidator(_perhaps_named)] = Field(default="", description="For recognition.")
    team: OwnerName | None = Field(default=None, description="A team of the tenant.")
    admin: bool = Field(default=False, description="True may use the admin API.")


@dataclass(frozen=True, slots=True)
class Level:
    """Terms and who they bind: "tenant:acme", "team:research" or "key:k_01…"."""

    scope: str
    terms: Terms


def narrowed(principal: Principal, levels: Iterable[Level]) -> Principal | None:
    """The principal with what these levels add, the nearest first; None where one of them is disabled."""
    levels = tuple(levels)
    own: Any = principal.allowed_models
    allowed = [own] if own is not None else []
    allowed += [each.terms.allowed_models for each in levels if each.terms.allowed_models is not None]
    budgets = (each.budget(level.scope) for level in levels for each in level.terms.budgets)
    limits = (each.limit(level.scope) for level in levels for each in level.terms.limits)
    if any(level.terms.disabled for level in levels):
        return None
    return replace(
        principal,
        allowed_models=frozenset.intersection(*allowed) if allowed else None,
        local_only=principal.local_only or any(level.terms.local_only for level in levels),
        preference=_nearest([principal.preference, *(level.terms.preference for level in levels)]),
        learn_from=_nearest([principal.learn_from, *(level.terms.learn_from for level in levels)]),
        latency_usd_per_s=_nearest([principal.latency_usd_per_s, *(level.terms.latency_usd_per_s for level in levels)]),
        cache=principal.cache or _cache([level.terms.cache for level in levels]),
        policy=_nearest([principal.policy, *(level.terms.policy for level in levels)]),
        budgets=tuple(dict.fromkeys([*principal.budgets, *budgets])),
        limits=tuple(dict.fromkeys([*principal.limits, *limits])),
        metadata=_merged([*(level.terms.metadata for level in reversed(levels)), principal.metadata]),
    )


def _cache(terms: Iterable[CacheTerms | None]) -> CacheRules | None:
    found: CacheTerms | None = _nearest(terms)
    return None if found is None else found.rules()


def _nearest(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _merged(parts: Iterable[Any]) -> dict[str, str]:
    return {key: value for part in parts for key, value in part.items()}
