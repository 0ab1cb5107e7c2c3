"""What a provider's list says of a model, as settings use it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import urlsplit

from router.errors import SettingsError
from router.settings.extras import install_line
from router.settings.price_sections import SEARCH, multiplied, price_in
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

    def price_at(self, endpoints: Iterable[tuple[str | None, Mapping[str, object]]]) -> Price | None:
        """What it costs at these addresses, with these parameters of litellm; the most expensive counts."""
        if self.price is None:
            return None
        return multiplied(self.price, max((_uplift(self.costs, *each) for each in endpoints), default=Fraction(1)))


_UPLIFTS = {  # the map's own keys
    "eu.api.openai.com": "regional_processing_uplift_multiplier_eu",
    "us.api.openai.com": "regional_processing_uplift_multiplier_us",
    "gov.api.openai.com": "fedramp_uplift_multiplier",
}
_VERTEX_UPLIFT = "regional_endpoint_uplift_multiplier"
FREE = {"embedding": frozenset({"completion"})}  # plain parts that a kind of model has not, by its mode


def _uplift(costs: Mapping[str, float], url: str | None, params: Mapping[str, object]) -> Fraction:
    """By which an endpoint multiplies a price. Vertex without a location is read as one of its regions."""
    address = str(url or params.get("api_base") or params.get("base_url") or "")
    location = params.get("vertex_location") or params.get("vertex_ai_location")
    key = _UPLIFTS.get((urlsplit(address).hostname or "") if "[" not in address else "")
    if key is None and location != "global":
        key = _VERTEX_UPLIFT
    return Fraction(str(costs.get(key or "", 1.0)))


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


class _Library(NamedTuple):
    """What litellm imports when it first calls a provider, and is not installed with it."""

    provider: str  # how its name begins
    keys: frozenset[str]  # only with one of these; none: always
    module: str
    install: str


_LIBRARIES = (
    _Library("vertex_ai", frozenset(), "google.auth", "litellm[google]"),
    _Library("azure", frozenset({"tenant_id", "client_id", "azure_username"}), "azure.identity", "azure-identity"),
)


def missing_library(provider: str, params: Mapping[str, object]) -> str | None:
    """What to install before litellm can call this provider; None where nothing is missing."""
    for each in _LIBRARIES:
        if provider.startswith(each.provider) and (not each.keys or each.keys & params.keys()):
            return None if _is_installed(each.module) else each.install
    return None


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that holds it
        return False
