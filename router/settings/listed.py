"""What a provider's list says of a model, as settings use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from router.errors import SettingsError
from router.settings.extras import install_line
from router.settings.price_sections import SEARCH, price_in
from router.types import Price


@dataclass(frozen=True, slots=True)
class Listed:
    """What a provider's list says of a model; None where it does not say."""

    price: Price | None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    mode: str | None = None  # "chat", "embedding", "image_generation", …
    abilities: frozenset[str] | None = None  # "tools", "vision"
    costs: Mapping[str, float] = field(default_factory=dict)  # USD by litellm's own keys
    lacks: frozenset[str] = frozenset()  # features that it says nothing of
    retires: str | None = None  # the day it goes, YYYY-MM-DD


FREE = {"embedding": frozenset({"completion"})}  # plain parts that a kind of model has not, by its mode

Look = Callable[[str], Listed | None]
"""What a provider's list says of a model by its litellm name; None where the list does not know it."""


def cost_map(upstream: str) -> Listed | None:
    """litellm's own list. Raises: SettingsError without the extra `providers`."""
    try:
        from backends.cost_map import find  # noqa: PLC0415  (an optional extra, read only where it is configured)

        found = find(upstream)
    except ImportError as error:
        raise SettingsError(
            f"backends of kind litellm need the extra `providers`: {install_line(['providers'])}"
        ) from error
    if found is None:
        return None
    costs = {**found.costs, SEARCH: found.search_usd}
    price = price_in(costs, free=FREE.get(found.mode or "", frozenset()))
    known = (found.context_tokens, found.max_output_tokens, found.mode, found.abilities)
    return Listed(price, *known, costs=costs, lacks=found.lacks, retires=found.retires)


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
        raise SettingsError(
            f"backends of kind litellm need the extra `providers`: {install_line(['providers'])}"
        ) from error
