"""Prices in a settings file, and prices as litellm's map and files write them.

Bad prices fail at the start with the path of the key: below zero, an unknown part, two changes on one day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidatorFunctionWrapHandler, field_validator

from backends.usage import tier_name
from router import amounts
from router.terms import Section, Usd
from router.types import AMOUNTS, NanoUsd, Price, TokenRates, show_usd


def _tier_name(name: str) -> str:
    """Raises: ValueError for one that no answer is told to have had."""
    if tier_name(*name.split("+")) != name or not name:
        expected = tier_name(*name.split("+")) or "one that answers are told to have had, such as flex or fast+us"
        raise ValueError(f"expected {expected}")
    return name


_TierName = Annotated[str, AfterValidator(_tier_name)]
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

    @field_validator("above", mode="wrap")
    @classmethod
    def _one_a_length(cls, given: object, read: ValidatorFunctionWrapHandler) -> object:
        found = read(given)
        if isinstance(given, Mapping) and (len(found) < len(given) or any(isinstance(each, bool) for each in given)):
            raise ValueError("expected one price above each length, a whole number of tokens")
        return found

    def tier(self) -> Price:
        """In nano-USD per million tokens."""
        return Price(
            **self.amounts, above=_ascending({n: TokenRates(**each.amounts) for n, each in self.above.items()})
        )


class _TieredSection(TierSection):
    """USD per million tokens, by service tier too."""

    tiers: dict[_TierName, TierSection] = Field(
        default={}, description='Prices by the service tier that the provider says it used, such as "flex", "priority".'
    )


class PriceChange(_TieredSection):
    """Prices from a day on: all of them, its tiers too."""

    since: date = Field(description="The first day they hold, UTC.")


class PriceSection(_TieredSection):
    """What a model costs, in USD per million tokens, by kind, length of the prompt, service tier and day."""

    changes: tuple[PriceChange, ...] = Field(default=(), description="Prices that hold from a later day on.")

    @field_validator("changes")
    @classmethod
    def _one_a_day(cls, changes: tuple[PriceChange, ...]) -> tuple[PriceChange, ...]:
        days = [each.since for each in changes]
        if len(set(days)) < len(days):
            raise ValueError(f"expected no two prices from {max(days, key=days.count)} on")
        return changes

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
FACTOR = "provider_specific_entry."  # before a tier by which the map multiplies a price
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
    r"(?:_above_(?P<above>\d{1,9})k_tokens)?(?:_(?P<tier>flex|priority|ultrafast|balanced|batches))?"
)
_TIERS = {"batches": "batch"}  # whose names are others where an answer tells its tier


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
            tier = _TIERS.get(match["tier"], match["tier"] or "")
            part, where = _PARTS[match["part"]], (tier, int(match["above"] or 0) * 1000)
            stated.setdefault(where, {})[part] = _fee(usd) if part in _FEES else amounts.per_million(usd)
    plain = dict.fromkeys(free, NanoUsd(0)) | stated.pop(("", 0), {})
    if not plain.keys() >= set(PLAIN):
        return None
    tiers = {tier for tier, _ in stated} - {""}
    priced = {tier: _tier(plain, stated, tier) for tier in sorted(tiers)}
    price = Price(**plain, tiers={}, above=_lengths(plain, stated, ""))
    return replace(price, tiers=priced | _in_tiers(price, priced, costs))


def _in_tiers(price: Price, tiers: Mapping[str, Price], costs: Mapping[str, float]) -> dict[str, Price]:
    """What is asked where a tier multiplies the price of another: of each, and of all that can be at once."""
    factors = {key.removeprefix(FACTOR): Fraction(str(by)) for key, by in costs.items() if key.startswith(FACTOR)}
    found: dict[str, Price] = {}
    for name, by in factors.items():
        for other, base in [("", price), *tiers.items(), *found.items()]:
            found["+".join(sorted([name, *filter(None, other.split("+"))]))] = multiplied(base, by)
    return found


def multiplied(price: Price, by: Fraction) -> Price:
    """Each of its tokens so many times, in every tier; fees stay."""
    if by == 1:
        return price
    above = tuple((least, TokenRates(**_rates_times(rates, by))) for least, rates in price.above)
    tiers = {name: multiplied(tier, by) for name, tier in price.tiers.items()}
    return Price(**_rates_times(price, by), above=above, tiers=tiers)


def _rates_times(rates: TokenRates, by: Fraction) -> dict[str, Any]:
    return {n: usd if usd is None or n in _FEES else -(-usd * by // 1) for n, usd in rates.amounts.items()}


def _fee(usd: float) -> NanoUsd:
    return NanoUsd(-(-amounts.per_million(usd) // 1_000_000))


_StatedRates = Mapping[tuple[str, int], Mapping[str, NanoUsd]]


def _tier(plain: Mapping[str, NanoUsd], stated: _StatedRates, tier: str) -> Price:
    rates = {**plain, **stated.get((tier, 0), {})}
    return Price(**rates, tiers={}, above=_lengths(rates, stated, tier) or _lengths(rates, stated, ""))


def _lengths(plain: Mapping[str, NanoUsd], stated: _StatedRates, tier: str) -> tuple[tuple[int, TokenRates], ...]:
    """What holds above one length holds above a greater one, too, where nothing else is stated there."""
    found, so_far = [], dict(plain)
    for above in sorted(above for which, above in stated if which == tier and above):
        so_far |= stated[tier, above]
        found.append((above, TokenRates(**so_far)))
    return tuple(found)
