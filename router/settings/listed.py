"""What a provider's list says of a model, as settings use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from router import amounts
from router.errors import SettingsError
from router.types import Price


@dataclass(frozen=True, slots=True)
class Listed:
    """What a provider's list says of a model; None where it does not say."""

    price: Price | None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    mode: str | None = None  # "chat", "embedding", "image_generation", …
    abilities: frozenset[str] | None = None  # "tools", "vision"
    retires: str | None = None  # the day it goes, YYYY-MM-DD


Look = Callable[[str], Listed | None]
"""What a provider's list says of a model by its litellm name; None where the list does not know it."""


def cost_map(upstream: str) -> Listed | None:
    """litellm's own list. Raises: SettingsError without the extra `providers`."""
    try:
        from backends.cost_map import find  # noqa: PLC0415  (an optional extra, read only where it is configured)

        found = find(upstream)
    except ImportError as error:
        raise SettingsError(f"backends of kind litellm need the extra `providers`: {error}") from error
    if found is None:
        return None
    embeds = found.mode == "embedding"
    completion = 0.0 if found.completion_usd is None and embeds else found.completion_usd
    price = None
    if found.prompt_usd is not None and completion is not None:
        price = Price(amounts.per_million(found.prompt_usd), amounts.per_million(completion))
    return Listed(price, found.context_tokens, found.max_output_tokens, found.mode, found.abilities, found.retires)


def priced_under(provider: str) -> list[str]:
    """Every `provider/model` that litellm's list prices, all of them where no provider is given; none without it."""
    try:
        from backends.cost_map import under  # noqa: PLC0415

        return under(provider)
    except ImportError:
        return []


def is_provider(name: str) -> bool:
    """Whether litellm has a provider of this name. Raises: SettingsError without the extra `providers`."""
    try:
        from backends.cost_map import is_provider as known  # noqa: PLC0415

        return known(name)
    except ImportError as error:
        raise SettingsError(f"backends of kind litellm need the extra `providers`: {error}") from error
