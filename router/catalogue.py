"""Which models may be chosen from: those in the settings and those the backends tell of themselves."""

from __future__ import annotations

from collections.abc import Mapping

from backends.replicas import Replicas
from router.building import build_backend
from router.gateway.nouns import Catalogue
from router.settings import Settings


async def catalogue_of(settings: Settings, running: Mapping[str, Replicas], *, old: Settings | None = None) -> Catalogue:
    """The catalogue of these settings; a backend whose section did not change goes on running as it is.

    Raises: SettingsError.
    """
    backends = {
        name: running[name]
        if old is not None and name in running and old.backends.get(name) == section
        else build_backend(name, section)
        for name, section in settings.backends.items()
    }
    return Catalogue(settings.candidates(), backends)
