"""From a file and the environment to settings that can run. Fails with the path of the key, never with a guess."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from router.errors import SettingsError
from router.settings import amounts, model_list, source
from router.settings.coherence import faults
from router.settings.complaints import refuse, translate
from router.settings.document import Settings
from router.settings.sections import LitellmBackend
from router.types import Price

ListPrice = Callable[[str], Price | None]
"""A provider's list price of a model by its litellm name; None where the list does not know it."""


def load(path: Path | None, env: Mapping[str, str] = os.environ, *, list_price: ListPrice | None = None) -> Settings:
    """Settings of a file; of no file, the defaults. `list_price` is litellm's cost map unless given.

    Raises: SettingsError; its message has one line for each key that is wrong.
    """
    return build({} if path is None else source.read(path), env, list_price=list_price)


def build(tree: Mapping[str, Any], env: Mapping[str, str], *, list_price: ListPrice | None = None) -> Settings:
    """Settings of a mapping as YAML gives it, in Pointsman's own form or LiteLLM's. Raises: SettingsError."""
    foreign = model_list.is_litellm(tree)
    filled, places = source.substitute(tree, env, litellm=foreign)
    notes: tuple[str, ...] = ()
    if foreign:
        filled, notes = model_list.translate(filled)
        places = {}
    try:
        settings = Settings.model_validate(filled)
    except ValidationError as error:
        raise translate(error, Settings, filled, places) from None
    settings = settings.annotate(notes, _list_prices(settings, list_price or _cost_map))
    wrong = list(faults(settings))
    if wrong:
        raise refuse(wrong)
    return settings


def _list_prices(settings: Settings, list_price: ListPrice) -> dict[str, Price]:
    """Prices of models that litellm calls and the document does not price."""
    prices: dict[str, Price] = {}
    for model in settings.models:
        backend = settings.backends.get(model.backend or next(iter(settings.backends)))
        if model.price is None and isinstance(backend, LitellmBackend):
            price = list_price(model.upstream or model.name)
            if price is not None:
                prices[model.name] = price
    return prices


def _cost_map(upstream: str) -> Price | None:
    try:
        from backends.litellm import price_of  # noqa: PLC0415 (an optional extra, imported only where it is configured)
    except ImportError as error:
        raise SettingsError(f"backends of kind litellm need the extra `providers`: {error}") from error
    found = price_of(upstream)
    return (
        None
        if found is None
        else Price(*(amounts.per_million(each) for each in (found.prompt_usd, found.completion_usd)))
    )
