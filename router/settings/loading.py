"""From a file and the environment to settings that can run. Fails with the path of the key, never with a guess."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from router.errors import SettingsError
from router.settings import litellm_file, source
from router.settings.annotations import Annotations
from router.settings.coherence import faults
from router.settings.complaints import refuse, translate
from router.settings.document import Settings
from router.settings.engine_sections import LitellmSection
from router.settings.listed import Listed, Look, cost_map, is_provider
from router.settings.source import Steps


def load(path: Path | None, env: Mapping[str, str] = os.environ, *, listed: Look | None = None) -> Settings:
    """Settings of a file; of no file, the defaults. `listed` is litellm's cost map unless given.

    Raises: SettingsError; its message has one line for each key that is wrong.
    """
    tree, places = ({}, {}) if path is None else litellm_file.with_included(source.read(path), path)
    try:
        settings = build(tree, env, listed=listed)
    except SettingsError as error:
        raise SettingsError(litellm_file.in_own_files(error.message, places), param=error.param) from None
    if places:
        settings.annotate(settings.read.said_by(lambda text: litellm_file.in_own_files(text, places)))
    return _placed(settings, path, env)


def load_again(path: Path) -> Settings:
    """The same of a file that changed while a gateway runs. One that is empty is no file of defaults then: somebody
    emptied it, or begins to write it. Raises: SettingsError."""
    if not source.read(path):
        raise SettingsError(f"{path}: got an empty file, expected settings; only a start takes it for the defaults")
    return load(path)


def _placed(settings: Settings, path: Path | None, env: Mapping[str, str]) -> Settings:
    """The same settings, whose state lies where it does whatever folder one is in."""
    base = env.get("XDG_STATE_HOME", "")
    if "state_dir" not in settings.model_fields_set and Path(base).is_absolute():
        state_dir = Path(base) / "pointsman"
    else:
        state_dir = settings.state_dir.expanduser()
    folder = Path.cwd() if path is None else path.absolute().parent
    sqlite = settings.store.sqlite
    store = settings.store.model_copy(update={"sqlite": None if sqlite is None else folder / sqlite.expanduser()})
    return settings.model_copy(update={"state_dir": folder / state_dir, "store": store})


def build(tree: Mapping[str, Any], env: Mapping[str, str], *, listed: Look | None = None) -> Settings:
    """Settings of a mapping as YAML gives it, in Pointsman's own form or LiteLLM's. Raises: SettingsError."""
    look = listed or cost_map
    try:
        if litellm_file.is_litellm(tree):
            return _translated(source.with_text_keys(tree), env, look)
        filled, places = source.substitute(tree, env)
        return _validated(filled, places, look, {})
    except SettingsError as error:  # what is wrong may hold what the environment says
        raise SettingsError(source.masked(error.message, tree, env), param=error.param) from None


def _translated(tree: dict[str, Any], env: Mapping[str, str], look: Look) -> Settings:
    """Of LiteLLM's form."""
    found = litellm_file.translate(tree, env, look, is_provider, today=datetime.now(UTC).date().isoformat())
    if not found.tree["models"]:
        raise refuse([(each.path, f"{each.reason}; {each.remedy}".removesuffix("; ")) for each in found.unroutable])
    settings = _validated(found.tree, {}, look, {**found.origins, "": "pointsman."})
    return settings.annotate(Annotations(found.notes, tuple(map(str, found.unroutable)), found.origins, found.renamed))


def _validated(
    filled: Mapping[str, Any], places: Mapping[Steps, str], look: Look, origins: Mapping[str, str]
) -> Settings:
    """`origins`: the user's own path of each path that was translated; "" is what stands before all others."""
    try:
        settings = Settings.model_validate(filled)
    except ValidationError as error:
        raise translate(error, Settings, filled, places, origins) from None
    settings = settings.listing(_listed(settings, look), look)
    wrong = list(faults(settings))
    if wrong:
        raise refuse(wrong, origins)
    return settings


def _listed(settings: Settings, look: Look) -> dict[str, Listed]:
    """What the list says of the models that litellm calls, where the document does not say it all."""
    found: dict[str, Listed] = {}
    for model in settings.models:
        backend = settings.backends.get(model.backend or next(iter(settings.backends)))
        said = model.price is not None and model.context_tokens is not None
        if isinstance(backend, LitellmSection) and not (model.is_wildcard or (said and model.capabilities is not None)):
            listed = look(model.upstream or model.name)
            if listed is not None:
                found[model.name] = listed
    return found
