"""Prices in a settings file, and prices as litellm's map and files write them.

Bad prices fail at the start with the path of the key: below zero, an unknown part, two changes on one day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import Field, model_validator

from router import amounts
from router.terms import Section, Usd
from router.types import AMOUNTS, NanoUsd, Price, TokenRates, show_usd

_Tokens = Annotated[int, Field(ge=0, le=2**40)]


class _Parts(Section):
    """Kinds of tokens, in USD per million; one without a price costs what plain tokens of its side do."""

    cached: Usd | None = Field(default=None, description="Prompt tokens read from the provider's cache.")
    cache_write: Usd | None = Field(
        default=None,
        description="Prompt tokens written to it for minutes; by default 1.25 prompts where a request asks for it.",
    )
    cache_write_1h: Usd | None = Field(
        default=None,
        description="Written to it for longer; by default two prompts where cache_write is given or it is asked for.",
    )
    audio_prompt: Usd | None = Field(default=None, description="Audio tokens of the prompt.")
    image_prompt: Usd | None = Field(default=None, description="Image tokens of the prompt.")
    reasoning: Usd | None = Field(default=None, description="Completion tokens that were thought.")
    audio_completion: Usd | None = Field(default=None, description="Audio tokens of the completion.")
    image_completion: Usd | None = Field(default=None, description="Image tokens of the completion.")
    request: Usd = Field(default=NanoUsd(0), description="USD a request, beside its tokens.")
    search: Usd = Field(default=NanoUsd(0), description="USD for each search that the provider makes.")


class RatesSection(_Parts):
    """USD per million tokens."""

    prompt: Usd = Field(description="USD per million prompt tokens.")
    completion: Usd = Field(description="USD per million completion tokens.")

    @property
    def amounts(self) -> dict[str, Any]:
        """By the name of the part."""
        return {name: getattr(self, name) for name in AMOUNTS}


class TierSection(RatesSection):
    """What a service tier costs."""

    above: dict[_Tokens, RatesSection] = Field(
        default={}, description="Other prices for a whole request whose prompt has more tokens than this."
    )

    def tier(self) -> Price:
        """In nano-USD per million tokens."""
        return Price(
            **self.amounts, above=_ascending({n: TokenRates(**each.amounts) for n, each in self.above.items()})
        )


class _TieredSection(TierSection):
    """USD per million tokens, by service tier too."""

    tiers: dict[str, TierSection] = Field(
        default={}, description='Prices by the service tier that the provider says it used, such as "flex", "priority".'
    )


class PriceChange(_TieredSection):
    """Prices from a day on: all of them, its tiers too."""

    since: date = Field(description="The first day they hold, UTC.")


class PriceSection(_TieredSection):
    """What a model costs, in USD per million tokens, by kind, length of the prompt, service tier and day."""

    changes: tuple[PriceChange, ...] = Field(default=(), description="Prices that hold from a later day on.")

    @model_validator(mode="after")
    def _one_a_day(self) -> PriceSection:
        days = [each.since for each in self.changes]
        if len(set(days)) < len(days):
            raise ValueError(f"changes: two prices from {max(days, key=days.count)} on")
        return self

    def price(self, on: date | None = None) -> Price:
        """As it is on a day, by default today (UTC), in nano-USD per million tokens."""
        today = on or datetime.now(UTC).date()
        begun = [each for each in self.changes if each.since <= today]
        holds = max(begun, key=lambda each: each.since) if begun else self
        found, tiers = holds.tier(), {name: each.tier() for name, each in holds.tiers.items()}
        return Price(**found.amounts, above=found.above, tiers=tiers)


def _ascending(above: Mapping[int, TokenRates]) -> tuple[tuple[int, TokenRates], ...]:
    return tuple(sorted(above.items()))


def written(price: Price) -> dict[str, object]:
    """A price as the `price` of a settings file says it."""
    section: dict[str, object] = _rates(price)
    if price.above:
        section["above"] = {least: _rates(rates) for least, rates in price.above}
    if price.tiers:
        section["tiers"] = {name: written(tier) for name, tier in price.tiers.items()}
    return section


def _rates(rates: TokenRates) -> dict[str, object]:
    return {
        name: show_usd(usd) for name, usd in rates.amounts.items() if usd is not None and (usd or name not in _FEES)
    }


PLAIN = ("prompt", "completion")
SEARCH = "search_context_cost_per_query"
_PARTS = {
    "input_cost_per_token": "prompt",
    "output_cost_per_token": "completion",
    "cache_read_input_token_cost": "cached",
    "input_cost_per_token_cache_hit": "cached",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "cache_creation_input_token_cost_above_12hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_prompt",
    "input_cost_per_image_token": "image_prompt",
    "output_cost_per_reasoning_token": "reasoning",
    "output_cost_per_audio_token": "audio_completion",
    "output_cost_per_image_token": "image_completion",
    "input_cost_per_request": "request",
    SEARCH: "search",
}
_FEES = {"request", "search"}
_KEY = re.compile(
    rf"(?P<part>{'|'.join(sorted(_PARTS, key=len, reverse=True))})"
    r"(?:_above_(?P<above>\d{1,9})k_tokens)?(?:_(?P<tier>flex|priority|ultrafast))?"
)


def is_price(key: str) -> bool:
    """Whether litellm says a price of text by this key."""
    return _KEY.fullmatch(key) is not None


def price_in(costs: Mapping[str, float], *, free: frozenset[str] = frozenset()) -> Price | None:
    """The price in an entry of litellm's map: USD per token by litellm's own keys. None without the two plain prices.

    A part that is told for a tier or a length alone is laid over the plain ones. `free`: plain parts that cost nothing
    where they are not told.
    """
    stated: dict[tuple[str, int], dict[str, NanoUsd]] = {}
    for key, usd in costs.items():
        if (match := _KEY.fullmatch(key)) is not None:
            part, where = _PARTS[match["part"]], (match["tier"] or "", int(match["above"] or 0) * 1000)
            stated.setdefault(where, {})[part] = _fee(usd) if part in _FEES else amounts.per_million(usd)
    plain = dict.fromkeys(free, NanoUsd(0)) | stated.pop(("", 0), {})
    if not plain.keys() >= set(PLAIN):
        return None
    tiers = {tier for tier, _ in stated} - {""}
    return Price(
        **plain,
        above=_lengths(plain, stated, ""),
        tiers={tier: _tier(plain, stated, tier) for tier in sorted(tiers)},
    )


def _fee(usd: float) -> NanoUsd:
    return NanoUsd(-(-amounts.per_million(usd) // 1_000_000))


_StatedRates = Mapping[tuple[str, int], Mapping[str, NanoUsd]]


def _tier(plain: Mapping[str, NanoUsd], stated: _StatedRates, tier: str) -> Price:
    rates = {**plain, **stated.get((tier, 0), {})}
    return Price(**rates, tiers={}, above=_lengths(rates, stated, tier) or _lengths(rates, stated, ""))


def _lengths(plain: Mapping[str, NanoUsd], stated: _StatedRates, tier: str) -> tuple[tuple[int, TokenRates], ...]:
    return _ascending(
        {above: TokenRates(**{**plain, **rates}) for (which, above), rates in stated.items() if which == tier and above}
    )
