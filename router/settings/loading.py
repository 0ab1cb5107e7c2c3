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
from router.settings.document import Listed, Settings
from router.settings.sections import LitellmBackend
from router.types import Price

List = Callable[[str], Listed | None]
"""What a provider's list says of a model by its litellm name; None where the list does not know it."""


def load(path: Path | None, env: Mapping[str, str] = os.environ, *, listed: List | None = None) -> Settings:
    """Settings of a file; of no file, the defaults. `listed` is litellm's cost map unless given.

    Raises: SettingsError; its message has one line for each key that is wrong.
    """
    return build({} if path is None else source.read(path), env, listed=listed)


def build(tree: Mapping[str, Any], env: Mapping[str, str], *, listed: List | None = None) -> Settings:
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
    settings = settings.annotate(notes, _listed(settings, listed or _cost_map))
    wrong = list(faults(settings))
    if wrong:
        raise refuse(wrong)
    return settings


def _listed(settings: Settings, look_up: List) -> dict[str, Listed]:
    """What the list says of the models that litellm calls, where the document does not say it all."""
    found: dict[str, Listed] = {}
    for model in settings.models:
        backend = settings.backends.get(model.backend or next(iter(settings.backends)))
        if isinstance(backend, LitellmBackend) and (model.price is None or model.context_tokens is None):
            listed = look_up(model.upstream or model.name)
            if listed is not None:
                found[model.name] = listed
    return found


def _cost_map(upstream: str) -> Listed | None:
    try:
        from backends.litellm import price_of  # noqa: PLC0415 (an optional extra, imported only where it is configured)

        found = price_of(upstream)
    except ImportError as error:
        raise SettingsError(f"backends of kind litellm need the extra `providers`: {error}") from error
    if found is None:
        return None
    price = Price(amounts.per_million(found.prompt_usd), amounts.per_million(found.completion_usd))
    return Listed(price, found.context_tokens, found.max_output_tokens)
