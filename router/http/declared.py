"""Tenants, teams and keys of the settings file, as the admin API lists them beside its own. They change in the file.

Nothing fails here but a change of one of them, with Conflict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from router.errors import Conflict
from router.settings import Settings
from router.settings.document import key_id
from router.stores.keys import Key, Team, Tenant, Thing
from router.stores.reports import NO_NAMES, KnownNames


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class DeclaredOwners:
    """Of the settings as they are now; without settings there are none."""

    settings: Callable[[], Settings | None] = _nothing
    path: Path | None = None

    def all(self, cls: type[Thing]) -> list[Thing]:
        """In the order of their names."""
        settings = self.settings()
        found = [] if settings is None else [each for each in _owners(settings) if isinstance(each, cls)]
        return sorted(found, key=name_of)

    def names(self) -> KnownNames:
        """What the settings say of names of models."""
        settings = self.settings()
        return NO_NAMES if settings is None else names_of(settings)

    def find(self, cls: type[Thing], name: str) -> Thing | None:
        """That of this name, if the file has it."""
        return next((each for each in self.all(cls) if name_of(each) == name), None)

    def must_not_have(self, cls: type[Thing], name: str) -> None:
        """Raises: Conflict where the file has it."""
        if self.find(cls, name) is not None:
            kind = cls.__name__.lower()
            where = self.path or "the settings"
            raise Conflict(f"The {kind} {name!r} is in {where}: change it there.", param=kind)


def names_of(settings: Settings) -> KnownNames:
    """Programs, and widths of models that have names of their own."""
    widths = {each.name: f"{each.bits:g}bit" for each in settings.models if each.bits is not None}
    return KnownNames(settings.programs, widths)


def name_of(thing: Tenant | Team | Key) -> str:
    """Under which it is listed."""
    return thing.id if isinstance(thing, Key) else thing.name


def _owners(settings: Settings) -> list[Tenant | Team | Key]:
    found: list[Tenant | Team | Key] = []
    for name, tenant in settings.tenants.items():
        found.append(Tenant(name, tenant.bare()))
        found += [Team(team, name, terms=terms) for team, terms in tenant.teams.items()]
        for key in tenant.keys:
            identity = key.name or key_id(key.secret.get_secret_value())
            found.append(Key(identity, "", b"", name, 0, key.team, key.name, admin=key.admin, terms=key.bare()))
    return found
